"""What one direction of a path does to datagrams, as frozen values.

Loss comes in three forms that can be combined, each deciding by itself:

- `loss`: every datagram with the same probability.
- `GilbertElliott`: two states that change with every datagram. The sources of many published
  profiles use it, but it punishes a sender that backs off: fewer datagrams keep it in the bad
  state for longer.
- `Bursts`: two states that change with the clock, whatever the traffic. Prefer it.

Names and meaning follow tc-netem(8) where it has the feature, so that a value can be replayed by
the kernel. Two things differ: correlated jitter keeps its variance (netem's shrinks), and a
reordered datagram is late by `reordering_delay_s` (netem sends it at once).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from eloquent.errors import ConfigurationError

IP_UDP_HEADER_BYTES = 28  # IPv4 without options (20) and UDP (8); counted on the wire


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Two-state loss that advances once per datagram (Gilbert 1960, Elliott 1963).

    `p` and `r` are the probabilities to enter and to leave the bad state before each datagram.
    `loss_in_bad` and `loss_in_good` are the 1-h and 1-k of tc-netem.
    """

    p: float
    r: float
    loss_in_bad: float = 1.0
    loss_in_good: float = 0.0

    def __post_init__(self) -> None:
        for name in ("p", "r", "loss_in_bad", "loss_in_good"):
            check_probability(name, getattr(self, name))
        if self.r == 0.0:
            raise ConfigurationError("r is 0; the bad state must end, so r must be above 0")

    @property
    def share_of_bad(self) -> float:
        """Share of datagrams that meet the bad state."""
        return self.p / (self.p + self.r)

    @property
    def mean_loss(self) -> float:
        """Long-run share of datagrams dropped."""
        bad = self.share_of_bad
        return bad * self.loss_in_bad + (1.0 - bad) * self.loss_in_good


@dataclass(frozen=True, slots=True)
class Bursts:
    """Two-state loss in wall-clock time: both states last an exponential time.

    `good_s` and `bad_s` are mean durations in seconds.
    """

    good_s: float
    bad_s: float
    loss_in_bad: float = 1.0
    loss_in_good: float = 0.0

    def __post_init__(self) -> None:
        check_seconds("good_s", self.good_s, above_zero=True)
        check_seconds("bad_s", self.bad_s, above_zero=True)
        check_probability("loss_in_bad", self.loss_in_bad)
        check_probability("loss_in_good", self.loss_in_good)

    @property
    def share_of_bad(self) -> float:
        """Share of time spent in the bad state."""
        return self.bad_s / (self.good_s + self.bad_s)

    @property
    def mean_loss(self) -> float:
        """Long-run share of evenly spaced datagrams dropped."""
        bad = self.share_of_bad
        return bad * self.loss_in_bad + (1.0 - bad) * self.loss_in_good


@dataclass(frozen=True, slots=True)
class Impairment:
    """One direction of a path. The default does nothing.

    Times are in seconds, chances are probabilities per datagram.

    - `jitter_s` is the standard deviation of a normal `jitter_distribution`, the half width of a
      uniform one. Datagrams with different delays overtake each other; a delay is never negative.
    - `jitter_correlation` is the correlation of successive delays, from 0 to below 1.
    - `duplication`: one more copy, with a delay of its own.
    - `reordering`: late by `reordering_delay_s`.
    - `corruption`: one random bit of the payload is flipped.
    - `rate_bps` is in bits per second and counts IP and UDP headers. A datagram that finds more
      than `queue_s` or `queue_bytes` waiting before it is dropped; exactly one of the two is given.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    jitter_distribution: Literal["normal", "uniform"] = "normal"
    jitter_correlation: float = 0.0
    loss: float = 0.0
    gilbert_elliott: GilbertElliott | None = None
    bursts: Bursts | None = None
    duplication: float = 0.0
    reordering: float = 0.0
    reordering_delay_s: float = 0.0
    corruption: float = 0.0
    rate_bps: float | None = None
    queue_s: float | None = None
    queue_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering", "corruption"):
            check_probability(name, getattr(self, name))
        for name in ("delay_s", "jitter_s", "reordering_delay_s"):
            check_seconds(name, getattr(self, name))
        self._check_jitter()
        self._check_reordering()
        self._check_rate()

    def _check_jitter(self) -> None:
        if self.jitter_distribution not in ("normal", "uniform"):
            raise ConfigurationError(
                f"jitter_distribution is {self.jitter_distribution!r}; it must be 'normal' or 'uniform'"
            )
        check_probability("jitter_correlation", self.jitter_correlation)
        if self.jitter_correlation == 1.0:
            raise ConfigurationError("jitter_correlation is 1; delays that never vary need no jitter")

    def _check_reordering(self) -> None:
        if (self.reordering > 0.0) != (self.reordering_delay_s > 0.0):
            raise ConfigurationError(
                f"reordering is {self.reordering!r} and reordering_delay_s is "
                f"{self.reordering_delay_s!r}; one works only with the other"
            )

    def _check_rate(self) -> None:
        limits = [limit for limit in (self.queue_s, self.queue_bytes) if limit is not None]
        if self.rate_bps is None:
            if limits:
                raise ConfigurationError("a queue limit is given without rate_bps; nothing queues")
            return
        if not _is_number(self.rate_bps) or not 0.0 < self.rate_bps < math.inf:
            raise ConfigurationError(f"rate_bps is {self.rate_bps!r}; it must be bits per second, above 0")
        if len(limits) != 1:
            raise ConfigurationError(
                f"rate_bps is {self.rate_bps!r} with queue_s {self.queue_s!r} and queue_bytes "
                f"{self.queue_bytes!r}; give exactly one of the two limits"
            )
        if not _is_number(limits[0]) or not 0.0 <= limits[0] < math.inf:
            raise ConfigurationError(f"the queue limit is {limits[0]!r}; it must be at least 0")

    @property
    def queue_limit_s(self) -> float:
        """Longest wait in the queue, in seconds; infinite where there is no rate."""
        if self.rate_bps is None:
            return math.inf
        if self.queue_bytes is not None:
            return self.queue_bytes * 8.0 / self.rate_bps
        assert self.queue_s is not None
        return self.queue_s

    @property
    def mean_loss(self) -> float:
        """Long-run share of evenly spaced datagrams dropped, the queue's drops not counted."""
        kept = 1.0 - self.loss
        if self.gilbert_elliott is not None:
            kept *= 1.0 - self.gilbert_elliott.mean_loss
        if self.bursts is not None:
            kept *= 1.0 - self.bursts.mean_loss
        return 1.0 - kept


def check_probability(name: str, value: float) -> None:
    """Raise ConfigurationError unless `value` is between 0 and 1."""
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise ConfigurationError(f"{name} is {value!r}; it must be a probability between 0 and 1")


def check_seconds(name: str, value: float, *, above_zero: bool = False) -> None:
    """Raise ConfigurationError unless `value` is a finite time, at least (or above) 0."""
    is_good = _is_number(value) and 0.0 <= value < math.inf and (value > 0.0 or not above_zero)
    if not is_good:
        bound = "above 0" if above_zero else "at least 0"
        raise ConfigurationError(f"{name} is {value!r}; it must be a time in seconds, {bound}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
