"""What one direction of a path does to datagrams, as frozen values.

Loss comes in three forms that can be combined, each deciding by itself:

- `loss`: every datagram with the same probability.
- `GilbertElliott`: two states that change with every datagram. The sources of many published
  profiles use it, but it punishes a sender that backs off: fewer datagrams keep it in the bad
  state for longer.
- `Bursts`: two states that change with the clock, whatever the traffic. Prefer it.

Names and meaning follow tc-netem(8) where it has the feature, so that a value can be replayed by
the kernel. What differs: correlated jitter keeps its distribution (netem's loses it, or with a table
its correlation), a reordered datagram is late by `reordering_delay_s` (netem sends it at once), and
heavy tails are not cut (`netem.jitter`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from eloquent.errors import ConfigurationError
from netem.jitter import DISTRIBUTIONS, Distribution, jitter_at, normal_quantile, share_up_to
from netem.trace import DeliveryTrace

_BISECTIONS = 50  # then the error is below 1e-15 of `reordering_delay_s`
SHORTEST_S = 1e-3
"""The least duration of what alternates; a full packet takes as long at 12 Mbit/s."""
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

    `good_s` and `bad_s` are mean durations in seconds, at least SHORTEST_S.
    """

    good_s: float
    bad_s: float
    loss_in_bad: float = 1.0
    loss_in_good: float = 0.0

    def __post_init__(self) -> None:
        check_seconds("good_s", self.good_s, at_least=SHORTEST_S)
        check_seconds("bad_s", self.bad_s, at_least=SHORTEST_S)
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

    - `delay_s` is the mean delay, `jitter_s` its standard deviation; the half width where
      `jitter_distribution` is uniform. Datagrams with different delays overtake each other; a delay
      is never negative. `netem.jitter` has the distributions.
    - `jitter_correlation` is the correlation of successive delays, from 0 to below 1. (Of the
      normal numbers behind them, where the distribution is another.)
    - `ecn`: what loss would drop is marked instead (congestion experienced, RFC 3168), where its
      sender is capable of ECN. Outages and full queues drop all the same.
    - `duplication`: one more copy, with a delay of its own.
    - `reordering`: late by `reordering_delay_s`.
    - `corruption`: one random bit of the payload is flipped.
    - `rate_bps` is in bits per second and counts IP and UDP headers. A datagram that finds more
      than `queue_s` or `queue_bytes` waiting before it is dropped; exactly one of the two is given.
    - `trace`: a recorded rate in its place. At most one of the two limits is given; the queue is
      endless where none is, as Mahimahi's. In bytes, what is partly sent counts as a whole.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    jitter_distribution: Distribution = "normal"
    jitter_correlation: float = 0.0
    loss: float = 0.0
    gilbert_elliott: GilbertElliott | None = None
    bursts: Bursts | None = None
    ecn: bool = False
    duplication: float = 0.0
    reordering: float = 0.0
    reordering_delay_s: float = 0.0
    corruption: float = 0.0
    rate_bps: float | None = None
    trace: DeliveryTrace | None = None
    queue_s: float | None = None
    queue_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering", "corruption"):
            check_probability(name, getattr(self, name))
        for name in ("delay_s", "jitter_s", "reordering_delay_s"):
            check_seconds(name, getattr(self, name))
        self._check_jitter()
        self._check_models()
        self._check_reordering()
        self._check_rate()
        self._check_queue()

    def _check_jitter(self) -> None:
        if self.jitter_distribution not in DISTRIBUTIONS:
            raise ConfigurationError(
                f"jitter_distribution is {self.jitter_distribution!r}; it must be one of: "
                + ", ".join(DISTRIBUTIONS)
            )
        check_probability("jitter_correlation", self.jitter_correlation)
        if self.jitter_correlation == 1.0:
            raise ConfigurationError("jitter_correlation is 1; delays that never vary need no jitter")

    def _check_models(self) -> None:
        check_type("gilbert_elliott", self.gilbert_elliott, GilbertElliott)
        check_type("bursts", self.bursts, Bursts)
        check_type("trace", self.trace, DeliveryTrace)
        check_flag("ecn", self.ecn)
        if self.ecn and self.mean_loss == 0.0:
            raise ConfigurationError("ecn is on without loss; there is nothing to mark instead of dropping")

    def _check_reordering(self) -> None:
        if (self.reordering > 0.0) != (self.reordering_delay_s > 0.0):
            raise ConfigurationError(
                f"reordering is {self.reordering!r} and reordering_delay_s is "
                f"{self.reordering_delay_s!r}; one works only with the other"
            )

    def _check_rate(self) -> None:
        if self.rate_bps is None:
            return
        if not _is_number(self.rate_bps) or not 0.0 < self.rate_bps < math.inf:
            raise ConfigurationError(
                f"rate_bps is {_shown(self.rate_bps)}; it must be bits per second, above 0"
            )
        if self.trace is not None:
            raise ConfigurationError(
                f"rate_bps is {self.rate_bps!r} beside a trace, which has a rate of its own; give one of them"
            )

    def _check_queue(self) -> None:
        limits = [limit for limit in (self.queue_s, self.queue_bytes) if limit is not None]
        for limit in limits:
            if not _is_number(limit) or not 0.0 <= limit < math.inf:
                raise ConfigurationError(f"the queue limit is {_shown(limit)}; it must be at least 0")
        if limits and self.rate_bps is None and self.trace is None:
            raise ConfigurationError("a queue limit is given without rate_bps or trace; nothing queues")
        if len(limits) > 1 or (not limits and self.rate_bps is not None):
            wanted = "exactly one" if self.trace is None else "at most one"
            raise ConfigurationError(
                f"rate_bps is {self.rate_bps!r} with queue_s {self.queue_s!r} and queue_bytes "
                f"{self.queue_bytes!r}; give {wanted} of the two limits"
            )
        if isinstance(self.queue_bytes, float):
            raise ConfigurationError(f"queue_bytes is {self.queue_bytes!r}; it must be a whole number")

    @property
    def queue_limit_s(self) -> float:
        """Longest wait in the queue, in seconds; infinite where no time follows from the limit."""
        if self.rate_bps is not None and self.queue_bytes is not None:
            return self.queue_bytes * 8.0 / self.rate_bps
        return math.inf if self.queue_s is None else self.queue_s

    @property
    def mean_loss(self) -> float:
        """Long-run share of evenly spaced datagrams that loss drops (or marks); no queue counted."""
        kept = 1.0 - self.loss
        if self.gilbert_elliott is not None:
            kept *= 1.0 - self.gilbert_elliott.mean_loss
        if self.bursts is not None:
            kept *= 1.0 - self.bursts.mean_loss
        return 1.0 - kept

    def delay_quantile(self, u: float) -> float:
        """The delay in seconds that a share `u` of datagrams does not exceed; `u` between 0 and 1.

        It has `delay_s`, jitter and reordering in it, and not the queue. Never negative.
        """
        if not 0.0 < u < 1.0:
            raise ConfigurationError(f"u is {u!r}; a quantile needs a share above 0 and below 1")
        punctual = self.delay_at(normal_quantile(u) if self.jitter_s else 0.0)
        if not self.reordering:
            return punctual
        if not self.jitter_s:
            return punctual if u <= 1.0 - self.reordering else punctual + self.reordering_delay_s
        low, high = punctual, punctual + self.reordering_delay_s
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            if self._share_up_to(middle) < u:
                low = middle
            else:
                high = middle
        return high

    def delay_at(self, z: float) -> float:
        """The delay in seconds that belongs to the standard normal number z, reordering left out."""
        return max(0.0, self.delay_s + self.jitter_s * jitter_at(self.jitter_distribution, z))

    def _share_up_to(self, delay_s: float) -> float:
        """The chance of at most this delay, reordering included; only with jitter."""
        late = self._punctual_share(delay_s - self.reordering_delay_s)
        return (1.0 - self.reordering) * self._punctual_share(delay_s) + self.reordering * late

    def _punctual_share(self, delay_s: float) -> float:
        if delay_s < 0.0:
            return 0.0
        return share_up_to(self.jitter_distribution, (delay_s - self.delay_s) / self.jitter_s)


def check_probability(name: str, value: float) -> None:
    """Raise ConfigurationError unless `value` is between 0 and 1."""
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise ConfigurationError(f"{name} is {_shown(value)}; it must be a probability between 0 and 1")


def check_flag(name: str, value: object) -> None:
    """Raise ConfigurationError unless `value` is true or false."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} is {value!r}; it must be true or false")


def check_type(name: str, value: object, kind: type[object]) -> None:
    """Raise ConfigurationError unless `value` is None or of that class."""
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{name} is {value!r}; it must be a {kind.__name__}")


def check_seconds(name: str, value: float, *, above_zero: bool = False, at_least: float = 0.0) -> None:
    """Raise ConfigurationError unless `value` is a finite time within the bounds."""
    is_good = _is_number(value) and at_least <= value < math.inf and (value > 0.0 or not above_zero)
    if not is_good:
        bound = "above 0" if above_zero else f"at least {at_least:g}"
        raise ConfigurationError(f"{name} is {_shown(value)}; it must be a time in seconds, {bound}")


def _is_number(value: object) -> bool:
    """Whether one can calculate with it: Python's integers can be greater than any float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "a number of too many digits"
