"""Safe for the network: congestion window, delay signal, circuit breaker (protocol 5, RFC 8085).

The window counts bytes (RFC 9002 NewReno) with one change. A token stream is thin: it is limited
by the model and hardly ever by the window, so the window never grows, and each loss would only
shrink it. A cut therefore never goes below the TCP-fair window at the measured loss rate,
`1.22 MSS / sqrt(p)` (Mathis et al. 1997; RFC 4828 for small packets), nor below 2400 bytes.
Without this floor p99.9 rose from 78 to 393 ms at RTT 600 ms.
"""

from __future__ import annotations

import math
from collections import deque

from eloquent.protocol.wire import MAX_DATAGRAM

INITIAL_WINDOW = 10 * MAX_DATAGRAM
MIN_FLOOR = 2 * MAX_DATAGRAM
CUT = 0.7
"""What a cut leaves of the window (protocol 5)."""

TCP_CONSTANT = 1.22
"""Of the TCP throughput equation: sqrt(3/2)."""

LOSS_INTERVALS = 8
"""Loss intervals that the loss event rate averages over (RFC 5348 section 5.4)."""

MIN_RTT_WINDOW = 10.0
"""Seconds over which the minimum RTT is taken."""

MIN_QUEUE_DELAY = 0.1
"""Seconds of queueing delay below which there is no reaction."""

STANDING_SAMPLES = 2
"""Samples of which the smallest tells the queue: a standing queue delays all of them, jitter only
some (the idea of CoDel, RFC 8289 section 3.1)."""

MAX_COALESCING = 0.2
MIN_SLOWED_COALESCING = 0.01
HOLD = 10
"""Seconds before an interval that made a queue is tried again. Without it each return to 20 ms on a
32 kbit/s link overloaded it twofold: queueing delay p95 440 ms."""

BREAKER_FACTOR = 10
"""Times the TCP rate at which the circuit breaker counts a window as bad (protocol 5)."""

BREAKER_WINDOWS = 3
BREAKER_MIN_WINDOW = 1.0
BREAKER_PAUSE = 60.0


class CongestionWindow:
    """NewReno in bytes with a TCP-fair floor."""

    __slots__ = ("_intervals", "_open", "_recovery_start", "_threshold", "window")

    def __init__(self) -> None:
        self.window = float(INITIAL_WINDOW)
        self._threshold = math.inf
        self._recovery_start = -math.inf
        self._intervals: deque[int] = deque(maxlen=LOSS_INTERVALS)
        self._open = 0
        """Packets since the last loss event."""

    @property
    def loss_rate(self) -> float:
        """Loss events per packet over the last loss intervals; 0 before the first."""
        if not self._intervals:
            return 0.0
        closed = sum(self._intervals)
        # As in RFC 5348 section 5.4, the open interval counts only where it lowers the rate.
        with_open = (closed + self._open) / (len(self._intervals) + 1)
        return 1 / max(closed / len(self._intervals), with_open, 1.0)

    @property
    def floor(self) -> float:
        rate = self.loss_rate
        return max(MIN_FLOOR, TCP_CONSTANT * MAX_DATAGRAM / math.sqrt(rate)) if rate else MIN_FLOOR

    def on_acked(self, size: int, packets: int, sent_at: float, *, was_limited: bool) -> None:
        """Grow the window; `sent_at` is that of the newest of these packets."""
        self._open += packets
        # RFC 9002 sections 7.8 and 7.3.2: neither an under-used window grows, nor one that was just cut.
        if not was_limited or sent_at <= self._recovery_start:
            return
        if self.window < self._threshold:
            self.window += size
        else:
            self.window += MAX_DATAGRAM * size / self.window

    def on_lost(self, packets: int, sent_at: float, *, now: float) -> None:
        """Cut once per RTT: losses of packets sent before the last cut belong to it."""
        self._open += packets
        if sent_at <= self._recovery_start:
            return
        self._recovery_start = now
        self._intervals.append(self._open)
        self._open = 0
        self.window = max(self.window * CUT, min(self.floor, self.window))
        self._threshold = self.window


class DelaySignal:
    """Widens the coalescing interval while a queue stands, so that it does not fill with us."""

    __slots__ = (
        "_assumed_rtt",
        "_base",
        "_changed_at",
        "_floor",
        "_floor_until",
        "_is_queued",
        "_latest",
        "_sampled_at",
        "_samples",
        "_sent_at",
        "interval",
        "queue_delay",
    )

    def __init__(self, base: float) -> None:
        self._base = base
        self.interval = base
        """Seconds that tokens wait for one another."""
        self.queue_delay = 0.0
        self._changed_at = -math.inf
        self._assumed_rtt: float | None = None
        """The RTT without a queue, as long as no answer has told it."""
        self._sampled_at = self._sent_at = -math.inf
        """When the latest sample was taken, and when its datagram had been sent."""
        self._is_queued = False
        self._floor = base
        self._floor_until = -math.inf
        self._latest: deque[float] = deque(maxlen=STANDING_SAMPLES)
        self._samples: deque[tuple[float, float]] = deque()
        """(time, RTT), ascending in both: the front is the minimum of the window."""

    def on_rtt(self, sample: float, smoothed: float, *, now: float) -> None:
        """An RTT sample without the peer's ack delay."""
        if self._assumed_rtt is not None:
            self._check_assumption(self._assumed_rtt, sample)
        minimum = self._minimum(sample, now)
        if self._is_released(now - sample, now):
            self._latest.clear()
            return
        self._latest.append(sample)
        if len(self._latest) < STANDING_SAMPLES:
            return
        self.queue_delay = min(self._latest) - minimum
        limit = self._limit(minimum)
        if self.queue_delay > limit:
            self._slow_down(minimum, now)
        elif self.queue_delay < limit / 4:
            self._is_queued = False
            if self.interval > self._base and now - self._changed_at >= smoothed:
                self._speed_up(now)

    def on_no_answer(self, waited: float, initial_rtt: float, *, now: float) -> None:
        """Nothing was ever acknowledged, `waited` seconds after the first datagram.

        Before the first sample a slow link would take a whole initial window without a sign.
        """
        if waited - initial_rtt > self._limit(initial_rtt):
            self._assumed_rtt = initial_rtt
            self._slow_down(initial_rtt, now)

    def _check_assumption(self, assumed_rtt: float, sample: float) -> None:
        """The first answer: it was a queue, or the answers before this one were lost."""
        self._assumed_rtt = None
        if sample - assumed_rtt <= self._limit(assumed_rtt):
            self.interval = self._floor = self._base
            self._changed_at = self._floor_until = -math.inf
            self._is_queued = False

    def _is_released(self, sent_at: float, now: float) -> bool:
        """Whether the path gives back what it held: answers come closer together than their datagrams.

        A queue that our own datagrams fill lets them out no faster than they went in. A radio
        that changes its cell, or scans, keeps everything and then sends it at once.
        """
        between_answers, between_datagrams = now - self._sampled_at, sent_at - self._sent_at
        self._sampled_at, self._sent_at = now, sent_at
        return between_answers < between_datagrams / 2

    def _slow_down(self, minimum: float, now: float) -> None:
        if not self._is_queued:
            # The interval at which a queue began is too short; the ones after it only came too late.
            self._is_queued = True
            self._floor = self._slower()
            self._floor_until = now + HOLD
        # Once per RTT of the empty path: the RTT with the queue in it would react ever more slowly.
        if now - self._changed_at >= minimum:
            self._change(self._slower(), now)

    def _speed_up(self, now: float) -> None:
        if now >= self._floor_until:
            self._floor = max(self._floor / 2, self._base)
            self._floor_until = now + HOLD
        if self.interval > self._floor:
            self._change(max(self.interval / 2, self._floor), now)

    def _slower(self) -> float:
        return max(min(max(self.interval, MIN_SLOWED_COALESCING) * 2, MAX_COALESCING), self._base)

    @staticmethod
    def _limit(minimum: float) -> float:
        return max(MIN_QUEUE_DELAY, minimum / 2)

    def _minimum(self, sample: float, now: float) -> float:
        samples = self._samples
        while samples and samples[-1][1] >= sample:
            samples.pop()
        samples.append((now, sample))
        while samples[0][0] < now - MIN_RTT_WINDOW:
            samples.popleft()
        return samples[0][1]

    def _change(self, interval: float, now: float) -> None:
        self.interval = interval
        self._changed_at = now


class CircuitBreaker:
    """Stops a sender that is far above what TCP would send on the same path (RFC 8083, 8085).

    A window is one second or four RTTs, the longer one; three bad ones in a row open the breaker.
    """

    __slots__ = ("_bad", "_bytes", "_window_end", "open_until")

    def __init__(self) -> None:
        self.open_until: float | None = None
        self._bytes = 0
        self._bad = 0
        self._window_end = 0.0

    def on_sent(self, size: int, rtt: float, window: CongestionWindow, *, now: float) -> bool:
        """Count a datagram; True when this one opens the breaker."""
        if now >= self._window_end:
            self._end_window(rtt, window.loss_rate, now)
        self._bytes += size
        if self._bad < BREAKER_WINDOWS:
            return False
        self._bad = 0
        self.open_until = now + BREAKER_PAUSE
        return True

    def _end_window(self, rtt: float, loss_rate: float, now: float) -> None:
        length = max(BREAKER_MIN_WINDOW, 4 * rtt)
        is_bad = loss_rate > 0 and self._bytes / length > self._limit(rtt, loss_rate)
        # A window that ended long ago was followed by silence, which is as good as can be.
        self._bad = self._bad + 1 if is_bad and now < self._window_end + length else 0
        self._window_end = now + length
        self._bytes = 0

    @staticmethod
    def _limit(rtt: float, loss_rate: float) -> float:
        return BREAKER_FACTOR * TCP_CONSTANT * MAX_DATAGRAM / (max(rtt, 0.001) * math.sqrt(loss_rate))
