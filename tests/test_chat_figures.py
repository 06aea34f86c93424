"""What `eloquent chat` reports about an answer."""

from eloquent.commands.figures import figures_of
from eloquent.stats import ConnectionStats, ReplyStats


def counted(received: int, size: int, lost: int) -> ConnectionStats:
    return ConnectionStats(0.05, 0, received, 0, size, 0, lost)


def test_figures_are_of_one_answer_only() -> None:
    reply = ReplyStats(10.0, token_times=[0.1, 0.12, 0.14, 0.2], stalled_s=0.05)
    figures = figures_of(reply, counted(10, 1000, 5), counted(13, 1400, 6), complete=True)
    assert (figures.tokens, figures.ttft_ms) == (4, 100.0)
    assert (figures.itl_mean_ms, figures.itl_p50_ms, figures.itl_p95_ms) == (33.333, 20.0, 60.0)
    assert (figures.loss, figures.stall_ratio, figures.rtt_ms) == (0.25, 0.25, 50.0)
    assert figures.datagrams_per_token == 0.75
    assert figures.bytes_per_token == (400 + 3 * 28) / 4


def test_an_answer_without_text_has_no_figures_to_divide_by() -> None:
    figures = figures_of(ReplyStats(10.0), counted(0, 0, 0), counted(1, 80, 0), complete=True)
    assert figures.ttft_ms is figures.itl_p50_ms is figures.datagrams_per_token is None
    assert (figures.loss, figures.stall_ratio) == (0.0, 0.0)
