"""A path over time: an impairment for each direction, what changes, and when it is cut.

All times are seconds since the path came up, on a wall clock that traffic does not influence. The
same value drives the simulation, the relay and the laboratory; cross traffic is real TCP, which
only the laboratory has.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, assert_never, get_args

from eloquent.errors import ConfigurationError
from netem.impairment import SHORTEST_S, Impairment, check_flag, check_probability, check_seconds

Direction = Literal["up", "down"]
"""`up` is from the client to the server."""

_CONTROL = re.compile(r"[a-z0-9_]{1,15}")  # TCP_CA_NAME_MAX of the kernel is 16, with the final 0


@dataclass(frozen=True, slots=True)
class Outage:
    """A window in which datagrams do not pass; with `period_s`, one that comes again and again.

    It lasts at least netem.impairment.SHORTEST_S.
    A datagram is judged when it enters the link. The share `loss` of them is dropped: all in a
    tunnel, about half around a satellite handover. A `held` outage drops none: the sender's radio
    keeps them and sends them, in order, when the window ends (a Wi-Fi scan).
    """

    start_s: float
    duration_s: float
    period_s: float | None = None
    loss: float = 1.0
    held: bool = False

    def __post_init__(self) -> None:
        check_seconds("start_s", self.start_s)
        check_seconds("duration_s", self.duration_s, at_least=SHORTEST_S)
        check_probability("loss", self.loss)
        check_flag("held", self.held)
        if self.period_s is None:
            return
        check_seconds("period_s", self.period_s, at_least=SHORTEST_S)
        if self.duration_s >= self.period_s:
            raise ConfigurationError(
                f"duration_s is {self.duration_s!r} and period_s is {self.period_s!r}; "
                "an outage must end before the next one starts"
            )

    def end_at(self, t: float) -> float | None:
        """Return when the window that contains `t` ends, None between windows."""
        start = self._start(self._index(t))
        end = start + self.duration_s
        return end if start <= t < end else None

    def next_transition(self, t: float) -> float:
        """Return when the next window starts or the present one ends, after `t`."""
        index = self._index(t)
        start = self._start(index)
        if t < start:
            return start
        if t < start + self.duration_s:
            return start + self.duration_s
        return math.inf if self.period_s is None else self._start(index + 1)

    def _start(self, index: int) -> float:
        return self.start_s if self.period_s is None else self.start_s + index * self.period_s

    def _index(self, t: float) -> int:
        """Return the last window that started by `t`; by rounding, or before the first, the next."""
        if self.period_s is None or t < self.start_s:
            return 0
        index = int((t - self.start_s) / self.period_s)
        # The quotient can round below the window that starts at `t`, where the product is exact.
        return index + 1 if self._start(index + 1) <= t else index


@dataclass(frozen=True, slots=True)
class Change:
    """From `at_s` on, both directions have these impairments."""

    at_s: float
    up: Impairment
    down: Impairment

    def __post_init__(self) -> None:
        check_seconds("at_s", self.at_s, above_zero=True)


@dataclass(frozen=True, slots=True)
class CrossTraffic:
    """TCP connections beside what is under test, each sending as much as it can.

    `direction` is where the data goes; a download is `down`. `congestion_control` is any name that
    the kernel has (net.ipv4.tcp_available_congestion_control), such as cubic, reno or bbr.
    """

    start_s: float
    duration_s: float
    direction: Direction = "down"
    congestion_control: str = "cubic"
    connections: int = 1

    def __post_init__(self) -> None:
        check_seconds("start_s", self.start_s)
        check_seconds("duration_s", self.duration_s, above_zero=True)
        if self.direction not in get_args(Direction):
            raise ConfigurationError(f"direction is {self.direction!r}; it must be 'up' or 'down'")
        if not isinstance(self.congestion_control, str) or not _CONTROL.fullmatch(self.congestion_control):
            raise ConfigurationError(
                f"congestion_control is {self.congestion_control!r}; it must be a name such as 'cubic'"
            )
        if type(self.connections) is not int or self.connections < 1:
            raise ConfigurationError(
                f"connections is {self.connections!r}; it must be a whole number, at least 1"
            )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named path between a client and a server.

    `changes` are in order of time. Outages cut both directions; where two overlap, the one listed
    first counts. `cross_traffic` is played by the laboratory alone. `source` and `licence` say
    where the figures come from, `note` what was added.
    """

    name: str
    up: Impairment
    down: Impairment
    changes: tuple[Change, ...] = ()
    outages: tuple[Outage, ...] = ()
    cross_traffic: tuple[CrossTraffic, ...] = ()
    source: str = ""
    licence: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        times = [change.at_s for change in self.changes]
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ConfigurationError(f"changes are at {times} s; their times must increase")

    @property
    def is_simulated(self) -> bool:
        """Whether simulation and relay can play it, as the laboratory can."""
        return not self.cross_traffic

    def check_simulated(self) -> None:
        """Raise ConfigurationError unless simulation and relay can play it."""
        if not self.is_simulated:
            raise ConfigurationError(
                f"the scenario {self.name!r} has cross traffic, which is real TCP: "
                "only the laboratory can play it"
            )

    def impairment_at(self, direction: Direction, t: float) -> Impairment:
        """Return the impairment in force at `t`, outages not considered."""
        current: Scenario | Change = self
        for change in self.changes:
            if change.at_s <= t:
                current = change
        if direction == "up":
            return current.up
        if direction == "down":
            return current.down
        assert_never(direction)

    def outage_at(self, t: float) -> tuple[Outage, float] | None:
        """Return the outage in force at `t` and when it ends, None if there is none."""
        for outage in self.outages:
            end = outage.end_at(t)
            if end is not None:
                return outage, end
        return None

    def next_transition(self, t: float) -> float:
        """Return when the answers of impairment_at() or outage_at() next change after `t`."""
        changes = (change.at_s for change in self.changes if change.at_s > t)
        outages = (outage.next_transition(t) for outage in self.outages)
        return min((*changes, *outages), default=math.inf)

    def with_rtt(self, rtt_s: float) -> Scenario:
        """Return this scenario with half of `rtt_s` as the delay each way, in changes too."""
        check_seconds("rtt_s", rtt_s)
        return replace(
            self,
            up=replace(self.up, delay_s=rtt_s / 2),
            down=replace(self.down, delay_s=rtt_s / 2),
            changes=tuple(
                Change(
                    change.at_s,
                    up=replace(change.up, delay_s=rtt_s / 2),
                    down=replace(change.down, delay_s=rtt_s / 2),
                )
                for change in self.changes
            ),
        )

    def with_outages(self, *outages: Outage) -> Scenario:
        """Return this scenario with more outages, which come before its own."""
        return replace(self, outages=(*outages, *self.outages))
