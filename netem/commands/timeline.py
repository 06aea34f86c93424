"""What a scenario does over time, as intervals: for tables and pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netem.impairment import Impairment
from netem.link import BurstClock, burst_clock
from netem.scenario import Direction, Outage, Scenario

_DEFAULT_S = 30.0  # arbitrary: what never changes needs no longer picture
LONGEST_S = 86_400.0  # arbitrary: of a picture, which otherwise could take for ever
_MARGIN = 1.1  # some of what comes after the last change
_PERIODS = 3
_LONGEST_TRACE_S = 120.0  # arbitrary: traces last many minutes, and their start says enough


@dataclass(frozen=True, slots=True)
class Moment:
    """From `start_s` to `end_s`, one direction does the same."""

    start_s: float
    end_s: float
    impairment: Impairment
    outage: Outage | None
    is_burst: bool

    @property
    def loss(self) -> float:
        """The chance that a datagram is lost."""
        impairment = self.impairment
        kept = 1.0 - impairment.loss
        if impairment.gilbert_elliott is not None:
            kept *= 1.0 - impairment.gilbert_elliott.mean_loss
        if impairment.bursts is not None:
            bursts = impairment.bursts
            kept *= 1.0 - (bursts.loss_in_bad if self.is_burst else bursts.loss_in_good)
        if self.outage is not None and not self.outage.held:
            kept *= 1.0 - self.outage.loss
        return 1.0 - kept


def moments(scenario: Scenario, direction: Direction, *, seed: int, until: float) -> list[Moment]:
    """All that a Link of this direction and seed goes through in the first `until` seconds."""
    found: list[Moment] = []
    t = 0.0
    clock: BurstClock | None = None
    previous: Impairment | None = None
    while t < until:
        impairment = scenario.impairment_at(direction, t)
        if impairment is not previous:
            previous, clock = impairment, None
            if impairment.bursts is not None:
                clock = burst_clock(impairment.bursts, direction, seed=seed)
        is_burst = clock is not None and clock.is_bad(t)
        end = min(until, scenario.next_transition(t), math.inf if clock is None else clock.until)
        outage = scenario.outage_at(t)
        found.append(Moment(t, end, impairment, outage and outage[0], is_burst))
        t = end
    return found


def impairments(scenario: Scenario, direction: Direction) -> list[Impairment]:
    """Those of the start and of all changes."""
    return [scenario.impairment_at(direction, t) for t in (0.0, *(each.at_s for each in scenario.changes))]


def natural_duration(scenario: Scenario) -> float:
    """Seconds in which everything is seen that happens once, and some of what repeats; a day at most."""
    ends = [change.at_s for change in scenario.changes]
    ends += [each.start_s + each.duration_s for each in scenario.outages]
    ends += [each.start_s + each.duration_s for each in scenario.cross_traffic]
    ends += [each.start_s + _PERIODS * each.period_s for each in scenario.outages if each.period_s]
    for direction in ("up", "down"):
        for impairment in impairments(scenario, direction):
            if impairment.trace is not None:
                ends.append(min(impairment.trace.period_s, _LONGEST_TRACE_S))
    return float(math.ceil(min(_MARGIN * max(ends), LONGEST_S))) if ends else _DEFAULT_S
