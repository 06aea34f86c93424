"""When the next datagram with text goes: coalescing and gap fill (protocol 4).

Tokens that come within the coalescing interval of the last datagram ride together. When the newest
bytes were sent once and nothing followed, up to two extra copies go out, each a little later than
the next token would have come: `1.1 x p95` of the last 64 token gaps, between 10 and 60 ms. With
`1.5 x median` instead, jittered tokens cost 1.10-1.25 datagrams per token; with p95 1.06-1.07.
"""

from __future__ import annotations

from collections import deque

COALESCING = 0.02
"""Seconds that tokens wait for one another after a datagram; 0 disables."""

SLACK = 0.002
"""Seconds of waiting that are not worth a timer: at 50 tok/s each second token comes a little early."""

MIN_SPACING = 0.01
"""Seconds between two datagrams while the window fits one (protocol 5)."""

FIRST_FLIGHT_COPIES = 1
"""Copies of a first flight: at 1200 bytes each, two more would take 0.6 s of a 32 kbit/s link."""

GAP_SAMPLES = 64
GAP_PERCENTILE = 0.95
GAP_FACTOR = 1.1
MIN_GAP_FILL = 0.01
MAX_GAP_FILL = 0.06
DEFAULT_GAP_FILL = 0.04
"""Seconds before `MIN_GAPS` gaps are known."""

MIN_GAPS = 5
RECOMPUTE_EVERY = 8
"""Gaps between two computations of the percentile; sorting for each token would cost 2 us."""


class GapEstimator:
    """The usual longest time between two tokens, in seconds."""

    __slots__ = ("_gaps", "_last_at", "_until_recompute", "fill_delay")

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=GAP_SAMPLES)
        self._last_at: float | None = None
        self._until_recompute = MIN_GAPS
        self.fill_delay = DEFAULT_GAP_FILL
        """After how long a copy of the newest bytes is due, when there is no coalescing."""

    def on_token(self, *, now: float) -> None:
        if self._last_at is not None:
            self._gaps.append(now - self._last_at)
            self._until_recompute -= 1
            if self._until_recompute <= 0:
                self._recompute()
        self._last_at = now

    def restart(self) -> None:
        """Forget when the last token came: the next one belongs to another answer."""
        self._last_at = None

    def _recompute(self) -> None:
        ordered = sorted(self._gaps)
        expected = ordered[min(int(GAP_PERCENTILE * len(ordered)), len(ordered) - 1)]
        self.fill_delay = min(max(GAP_FACTOR * expected, MIN_GAP_FILL), MAX_GAP_FILL)
        self._until_recompute = 1 if len(ordered) < RECOMPUTE_EVERY else RECOMPUTE_EVERY


class Cadence:
    """Deadlines of the next new bytes and of the next extra copy."""

    __slots__ = (
        "_copies_left",
        "_gaps",
        "_last_new_at",
        "_last_text_at",
        "copies",
        "gap_fill_at",
        "interval",
    )

    def __init__(self, gaps: GapEstimator, *, coalescing: float = COALESCING, gap_fills: int = 2) -> None:
        self._gaps = gaps
        self.copies = gap_fills
        """Extra copies of the newest bytes when nothing follows them."""
        self._copies_left = 0
        self._last_new_at: float | None = None
        self._last_text_at: float | None = None
        self.interval = coalescing
        """Seconds, widened by the delay signal."""
        self.gap_fill_at: float | None = None

    def new_bytes_at(self) -> float:
        """Earliest time for a datagram with new bytes that does not fill a whole datagram."""
        if self._last_new_at is None or self._last_text_at is None:
            return 0.0
        return max(self._last_new_at + self.interval - SLACK, self._last_text_at + MIN_SPACING)

    def end_at(self) -> float:
        """Earliest time for a datagram with the end of a log."""
        return 0.0 if self._last_text_at is None else self._last_text_at + MIN_SPACING

    def on_new_bytes_sent(self, *, is_end: bool = False, now: float) -> None:
        """`is_end`: nothing but ends of logs was new. That is one of the copies of what came before."""
        self._last_new_at = self._last_text_at = now
        self._copies_left = max(self.copies - is_end, 0)
        self.gap_fill_at = now + self._gap_fill_delay() if self._copies_left else None

    def on_copy_sent(self, *, is_gap_fill: bool, now: float) -> None:
        """The newest bytes went out once more."""
        self._last_text_at = now
        if is_gap_fill:
            self._copies_left -= 1
        self.gap_fill_at = now + self._gap_fill_delay() if self._copies_left > 0 else None

    def on_newest_acked(self) -> None:
        """The peer holds the newest bytes: no copy is needed."""
        self._copies_left = 0
        self.gap_fill_at = None

    def _gap_fill_delay(self) -> float:
        delay = self._gaps.fill_delay
        return delay if delay >= self.interval else min(self.interval, MAX_GAP_FILL)
