"""One answer over one scenario, and the figures of many.

Extra delay is the time from writing a token to the moment at which the client could render it,
minus the one-way delay of the scenario: what loss, coalescing and queues have added.

A stall is a gap between two tokens on the screen that is more than 200 ms longer than the gap that
the model made between them; the excess is lost time. The stall ratio is lost time divided by the
time from the first to the last token on the screen, over all runs. (200 ms is the bound that a
third-party reading of arXiv 2401.12961 gives; a pause of the model is not a stall.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle, islice, pairwise
from random import Random

from eloquent.protocol.connection import Settings
from eloquent.protocol.content import encode_text
from eloquent.replay import default_text, subword_split, token_gaps
from netem.conversation import FIRST_START, Conversation, Turn
from netem.figures import Value, delay_figures
from netem.scenario import Scenario

PROMPT = encode_text("Why is the sky blue?")

STALL_S = 0.2
PAUSE_PROBABILITY = 0.02
"""Share of tokens after which the model pauses for 0.2 to 1.2 s."""

TIME_LIMIT_S = 300.0
"""Virtual seconds after the last token at which a run counts as failed; far above any that ends."""


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What the model says, how fast, and over which path."""

    scenario: Scenario
    tokens: int
    rate: float
    jitter: float = 0.0
    has_pauses: bool = False
    settings: Settings = field(default_factory=Settings)


@dataclass(slots=True)
class AnswerRecord:
    """What one run has shown. Times in seconds; bytes with IP and UDP headers."""

    extra_delays: list[float]
    down_datagrams: int
    text_datagrams: int
    down_bytes: int
    down_padding: int
    up_datagrams: int
    up_bytes: int
    up_padding: int
    lost_s: float
    rendering_s: float
    faults: list[str]


@cache
def _pieces() -> list[bytes]:
    return [encode_text(piece) for piece in subword_split(default_text())]


def tokens_of(seed: int, count: int) -> list[bytes]:
    """`count` tokens of the text in the package, starting somewhere."""
    pieces = _pieces()
    start = Random(f"{seed}/text").randrange(len(pieces))
    return list(islice(cycle(pieces), start, start + count))


def converse(plan: AnswerPlan, conversation: Conversation) -> Turn:
    """Ask, stream the answer, and run until everything is acknowledged."""
    seed = conversation.seed
    pauses = PAUSE_PROBABILITY if plan.has_pauses else 0.0
    gaps = list(islice(token_gaps(plan.rate, plan.jitter, pause_probability=pauses, seed=seed), plan.tokens))
    conversation.ask_at(FIRST_START, PROMPT, tokens_of(seed, plan.tokens), gaps)
    conversation.run(until=FIRST_START + sum(gaps) + TIME_LIMIT_S)
    return conversation.turns[0]


def record_of(conversation: Conversation, plan: AnswerPlan, turn: Turn) -> AnswerRecord:
    """Take the figures out of a run that is over."""
    one_way = plan.scenario.down.delay_s
    lost_s, rendering_s = stall_times(turn)
    up, down = conversation.traffic["up"], conversation.traffic["down"]
    sent_up = [connection.counters for connection in conversation.senders("up")]
    sent_down = [connection.counters for connection in conversation.senders("down")]
    return AnswerRecord(
        extra_delays=[delay - one_way for delay in turn.delays()],
        down_datagrams=down.datagrams,
        text_datagrams=sum(counters.text_datagrams for counters in sent_down),
        down_bytes=down.bytes,
        down_padding=sum(counters.padding_bytes for counters in sent_down),
        up_datagrams=up.datagrams,
        up_bytes=up.bytes,
        up_padding=sum(counters.padding_bytes for counters in sent_up),
        lost_s=lost_s,
        rendering_s=rendering_s,
        faults=[f"seed {conversation.seed}: {fault}" for fault in conversation.faults()],
    )


def run_answer(plan: AnswerPlan, seed: int) -> AnswerRecord:
    """One run of a plan."""
    conversation = Conversation(plan.scenario, seed=seed, settings=plan.settings)
    return record_of(conversation, plan, converse(plan, conversation))


def stall_times(turn: Turn) -> tuple[float, float]:
    """(seconds lost in stalls, seconds from the first to the last token on the screen)."""
    rendered = turn.rendered_at()
    if not rendered:
        return 0.0, 0.0
    return sum(stalls([at for at, _ in turn.written_at], rendered)), rendered[-1] - rendered[0]


def stalls(written: Sequence[float], rendered: Sequence[float]) -> list[float]:
    """For each stall, the seconds by which the gap was longer than the model's own."""
    excesses = (
        (shown - before) - (next_written - previous_written)
        for (before, shown), (previous_written, next_written) in zip(
            pairwise(rendered), pairwise(written), strict=False
        )
    )
    return [excess for excess in excesses if excess > STALL_S]


def answer_figures(records: Sequence[AnswerRecord]) -> dict[str, Value]:
    """The figures of all runs together, under the keys that every command uses."""
    delays = [delay for record in records for delay in record.extra_delays]
    tokens = max(len(delays), 1)
    down_bytes = sum(record.down_bytes for record in records)
    up_bytes = sum(record.up_bytes for record in records)
    rendering_s = sum(record.rendering_s for record in records)
    return {
        **delay_figures(delays),
        "datagrams_per_token": sum(record.text_datagrams for record in records) / tokens,
        "all_datagrams_per_token": sum(record.down_datagrams for record in records) / tokens,
        "bytes_per_token": (down_bytes - sum(record.down_padding for record in records)) / tokens,
        "padded_bytes_per_token": down_bytes / tokens,
        "acks_per_token": sum(record.up_datagrams for record in records) / tokens,
        "ack_bytes_per_token": (up_bytes - sum(record.up_padding for record in records)) / tokens,
        "padded_ack_bytes_per_token": up_bytes / tokens,
        "stall_ratio": sum(record.lost_s for record in records) / rendering_s if rendering_s else 0.0,
    }
