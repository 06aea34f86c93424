"""One direction of a path: datagrams in, (time of arrival, datagram) out.

The link has no clock and no socket; the simulation calls it with virtual time, the relay with the
time since it started. What happens to a datagram, in this order:

1. an outage drops it or holds it until the outage ends;
2. the queue before a link of limited rate, or of a recorded one, drops it or makes it wait;
3. loss drops it, or marks it where that is asked for. Dropped here, it has used its time on the
   wire, as on a radio;
4. delay and jitter, corruption, reordering, duplication.

Everything random comes from the seed. When bursts start and end depends on seed, direction and
time alone, so that two protocols compared under one seed meet the same bursts. A trace likewise
begins with the scenario, also where a change brings it in later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from netem.impairment import IP_UDP_HEADER_BYTES, Bursts, GilbertElliott, Impairment
from netem.scenario import Direction, Scenario
from netem.trace import TraceLine

_ROUNDING_S = 1e-9  # sums of transmission times round; a wait equal to the limit is allowed


class Fate(StrEnum):
    """What became of a datagram when it was sent."""

    DELIVERED = "delivered"
    MARKED = "marked"
    """Delivered, and its sender is to be told of congestion."""
    LOSS = "loss"
    QUEUE = "queue"
    OUTAGE = "outage"
    UNROUTABLE = "unroutable"
    """Never from a link: nobody has the destination address."""


@dataclass(slots=True)
class LinkCounts:
    """How many datagrams met which fate.

    `sent` is the sum of `delivered` and the three `dropped_by_`. Marked, duplicated, corrupted and
    reordered ones are among the delivered; a duplicate is not counted twice. `sent_bytes` includes
    IP and UDP headers.
    """

    sent: int = 0
    sent_bytes: int = 0
    delivered: int = 0
    dropped_by_loss: int = 0
    dropped_by_queue: int = 0
    dropped_by_outage: int = 0
    marked: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0


class BurstClock:
    """The state of `Bursts` over time, starting in its steady state at time 0."""

    __slots__ = ("_bursts", "_is_bad", "_rng", "_until")

    def __init__(self, bursts: Bursts, rng: Random) -> None:
        self._bursts = bursts
        self._rng = rng
        self._is_bad = rng.random() < bursts.share_of_bad
        # The exponential distribution has no memory: a state met half-way lasts as long again.
        self._until = self._draw_duration()

    @property
    def until(self) -> float:
        """When the state that is_bad() has told last ends."""
        return self._until

    def is_bad(self, now: float) -> bool:
        """Tell the state at `now`; a `now` that goes backwards counts as unchanged."""
        while now >= self._until:
            self._is_bad = not self._is_bad
            self._until += self._draw_duration()
        return self._is_bad

    def _draw_duration(self) -> float:
        mean = self._bursts.bad_s if self._is_bad else self._bursts.good_s
        return self._rng.expovariate(1.0 / mean)


def burst_clock(bursts: Bursts, direction: Direction, *, seed: int) -> BurstClock:
    """The bursts that a Link of that direction and seed meets."""
    return BurstClock(bursts, Random(f"{seed}/{direction}/bursts"))


class Link:
    """One direction of a scenario; see the module's text. Calls come in order of time."""

    __slots__ = (
        "_bursts",
        "_direction",
        "_free_at",
        "_impairment",
        "_is_bad",
        "_is_lossless",
        "_is_plain",
        "_line",
        "_normal",
        "_outage",
        "_queue_limit_s",
        "_random",
        "_rng",
        "_scenario",
        "_seconds_per_byte",
        "_seed",
        "_until",
        "counts",
        "fate",
    )

    def __init__(self, scenario: Scenario, direction: Direction, *, seed: int) -> None:
        self.counts = LinkCounts()
        self.fate = Fate.DELIVERED
        """Of the datagram given to send() last."""
        self._scenario = scenario
        self._direction = direction
        self._seed = seed
        self._rng = Random(f"{seed}/{direction}/datagrams")
        self._random = self._rng.random
        self._normal = self._rng.gauss(0.0, 1.0)
        self._is_bad = False
        self._bursts: BurstClock | None = None
        self._free_at = 0.0
        self._line: TraceLine | None = None
        self._impairment = Impairment()
        self._adopt(scenario.impairment_at(direction, 0.0))
        self._outage = scenario.outage_at(0.0)
        self._until = scenario.next_transition(0.0)

    def send(
        self, payload: bytes, *, now: float, size: int | None = None, is_ecn_capable: bool = False
    ) -> list[tuple[float, bytes]]:
        """Take a datagram; return its copies with their times of arrival, in no order.

        `size` is that of the whole IP packet; where it is left out, `payload` is that of UDP over
        IPv4. What `fate` then says is marked, the caller has to mark.
        """
        if now >= self._until:
            self._follow_timeline(now)
        if size is None:
            size = len(payload) + IP_UDP_HEADER_BYTES
        counts = self.counts
        counts.sent += 1
        counts.sent_bytes += size
        departs_at = now
        if self._outage is not None:
            outage, end = self._outage
            if outage.held:
                departs_at = end
            elif self._random() < outage.loss:
                counts.dropped_by_outage += 1
                self.fate = Fate.OUTAGE
                return []
        if self._seconds_per_byte:
            starts_at = max(departs_at, self._free_at)
            if starts_at - departs_at > self._queue_limit_s:
                counts.dropped_by_queue += 1
                self.fate = Fate.QUEUE
                return []
            self._free_at = departs_at = starts_at + size * self._seconds_per_byte
        elif self._line is not None:
            delivered_at = self._line.deliver(size, departs_at)
            if delivered_at == math.inf:
                counts.dropped_by_queue += 1
                self.fate = Fate.QUEUE
                return []
            self._free_at = departs_at = delivered_at
        self.fate = Fate.DELIVERED
        if not self._is_lossless and self._drops(departs_at):
            if not (is_ecn_capable and self._impairment.ecn):
                counts.dropped_by_loss += 1
                self.fate = Fate.LOSS
                return []
            counts.marked += 1
            self.fate = Fate.MARKED
        counts.delivered += 1
        if self._is_plain:
            return [(departs_at + self._impairment.delay_s, payload)]
        return self._deliver(payload, departs_at)

    def _follow_timeline(self, now: float) -> None:
        impairment = self._scenario.impairment_at(self._direction, now)
        if impairment is not self._impairment:
            self._adopt(impairment)
        self._outage = self._scenario.outage_at(now)
        self._until = self._scenario.next_transition(now)

    def _adopt(self, impairment: Impairment) -> None:
        """Switch to `impairment`; datagrams under way keep their times."""
        previous, self._impairment = self._impairment, impairment
        self._seconds_per_byte = 8.0 / impairment.rate_bps if impairment.rate_bps else 0.0
        self._queue_limit_s = impairment.queue_limit_s + _ROUNDING_S
        self._is_lossless = impairment.mean_loss == 0.0
        self._is_plain = not (
            impairment.jitter_s or impairment.duplication or impairment.reordering or impairment.corruption
        )
        self._adopt_trace(impairment)
        model = impairment.gilbert_elliott
        if model is not None and model != previous.gilbert_elliott:
            self._is_bad = self._random() < model.share_of_bad
        # Made anew, but a function of time: a change that keeps the bursts does not shift them.
        self._bursts = None
        if impairment.bursts is not None:
            self._bursts = burst_clock(impairment.bursts, self._direction, seed=self._seed)

    def _adopt_trace(self, impairment: Impairment) -> None:
        if impairment.trace is None:
            self._line = None
            return
        if self._line is None or self._line.trace is not impairment.trace:
            self._line = TraceLine(impairment.trace, free_at=self._free_at)
        self._line.limit_s = self._queue_limit_s
        self._line.limit_bytes = math.inf if impairment.queue_bytes is None else impairment.queue_bytes

    def _drops(self, at: float) -> bool:
        impairment = self._impairment
        if impairment.loss and self._random() < impairment.loss:
            return True
        if self._bursts is not None:
            assert impairment.bursts is not None
            is_bad = self._bursts.is_bad(at)
            chance = impairment.bursts.loss_in_bad if is_bad else impairment.bursts.loss_in_good
            if self._random() < chance:
                return True
        return impairment.gilbert_elliott is not None and self._step(impairment.gilbert_elliott)

    def _step(self, model: GilbertElliott) -> bool:
        """Advance the per-datagram model and tell whether it drops this datagram."""
        leaves = self._random() < (model.r if self._is_bad else model.p)
        self._is_bad = self._is_bad != leaves
        return self._random() < (model.loss_in_bad if self._is_bad else model.loss_in_good)

    def _deliver(self, payload: bytes, departs_at: float) -> list[tuple[float, bytes]]:
        impairment = self._impairment
        counts = self.counts
        arrives_at = departs_at + self._draw_delay()
        if impairment.corruption and payload and self._random() < impairment.corruption:
            counts.corrupted += 1
            payload = self._flip_bit(payload)
        if impairment.reordering and self._random() < impairment.reordering:
            counts.reordered += 1
            arrives_at += impairment.reordering_delay_s
        deliveries = [(arrives_at, payload)]
        if impairment.duplication and self._random() < impairment.duplication:
            counts.duplicated += 1
            deliveries.append((departs_at + self._draw_delay(), payload))
        return deliveries

    def _draw_delay(self) -> float:
        impairment = self._impairment
        if not impairment.jitter_s:
            return impairment.delay_s
        correlation = impairment.jitter_correlation
        # First-order autoregression: the variance stays 1 whatever the correlation.
        self._normal = correlation * self._normal + math.sqrt(
            1.0 - correlation * correlation
        ) * self._rng.gauss(0.0, 1.0)
        return impairment.delay_at(self._normal)

    def _flip_bit(self, payload: bytes) -> bytes:
        bit = self._rng.randrange(len(payload) * 8)
        corrupted = bytearray(payload)
        corrupted[bit // 8] ^= 1 << bit % 8
        return bytes(corrupted)
