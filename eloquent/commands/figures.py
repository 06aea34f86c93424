"""What `eloquent chat` has measured of an answer: a table for people, stable keys for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from eloquent.stats import ConnectionStats, ReplyStats

IP_UDP_HEADERS = 28
"""Bytes of IPv4 and UDP headers around each datagram."""

HEADINGS = (
    "TTFT",
    "ITL\nmean",
    "\np50",
    "\np95",
    "stall\nratio",
    "loss",
    "RTT",
    "datagrams\nper token",
    "bytes\nper token",
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One answer in figures; the fields are the keys of `--json`. None where nothing was measured.

    Tokens are the pieces of text that came. Datagrams and bytes are those of the server while the
    answer ran: acknowledgments, padding and IP and UDP headers are in them.
    """

    tokens: int
    complete: bool
    ttft_ms: float | None
    itl_mean_ms: float | None
    itl_p50_ms: float | None
    itl_p95_ms: float | None
    stall_ratio: float
    loss: float
    rtt_ms: float | None
    datagrams_per_token: float | None
    bytes_per_token: float | None


def figures_of(
    reply: ReplyStats, before: ConnectionStats, after: ConnectionStats, *, complete: bool
) -> Figures:
    """The figures of an answer that ran between two readings of the connection's counters."""
    tokens = len(reply.token_times)
    gaps = sorted(reply.itl_s)
    datagrams = after.datagrams_received - before.datagrams_received
    size = after.bytes_received - before.bytes_received + datagrams * IP_UDP_HEADERS
    # A datagram that came late fills a gap that was counted before the answer.
    lost = max(after.lost_down - before.lost_down, 0)
    return Figures(
        tokens=tokens,
        complete=complete,
        ttft_ms=_ms(reply.ttft_s),
        itl_mean_ms=_ms(fmean(gaps) if gaps else None),
        itl_p50_ms=_ms(_percentile(gaps, 0.5)),
        itl_p95_ms=_ms(_percentile(gaps, 0.95)),
        stall_ratio=round(reply.stall_ratio, 4),
        loss=round(lost / (lost + datagrams), 4) if lost else 0.0,
        rtt_ms=_ms(after.rtt_s),
        datagrams_per_token=round(datagrams / tokens, 3) if tokens else None,
        bytes_per_token=round(size / tokens, 1) if tokens else None,
    )


def table_of(turns: Sequence[Figures]) -> Table:
    """A row for each answer."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for turn in turns:
        times = (turn.ttft_ms, turn.itl_mean_ms, turn.itl_p50_ms, turn.itl_p95_ms)
        table.add_row(
            *(_cell(value, " ms", 0) for value in times),
            f"{turn.stall_ratio:.1%}",
            f"{turn.loss:.1%}",
            _cell(turn.rtt_ms, " ms", 1),
            _cell(turn.datagrams_per_token, "", 2),
            _cell(turn.bytes_per_token, "", 0),
        )
    return table


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Nearest rank."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _cell(value: float | None, unit: str, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"
