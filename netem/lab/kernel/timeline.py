"""What the places of both directions must be set to, and when that changes."""

from __future__ import annotations

from netem.impairment import Bursts, Impairment
from netem.lab.kernel.hops import Settings, settings
from netem.link import BurstClock, burst_clock
from netem.scenario import Direction, Scenario


class Timeline:
    """One direction of a scenario. Times are seconds since its beginning and never go back.

    Bursts are in the same places as those of a `netem.link.Link` with that seed.
    """

    def __init__(self, scenario: Scenario, direction: Direction, *, seed: int, mtu: int) -> None:
        self._scenario = scenario
        self._direction = direction
        self._seed = seed
        self._mtu = mtu
        self._bursts: Bursts | None = None
        self._clock: BurstClock | None = None
        self._known: dict[tuple[int, int, bool], Settings] = {}
        """By identity of impairment and outage: a change must not wait for their comparison."""

    def at(self, t: float) -> tuple[Settings, float]:
        """The settings at `t`, and until when they last."""
        impairment = self._scenario.impairment_at(self._direction, t)
        until = self._scenario.next_transition(t)
        is_bad = False
        clock = self._clock_of(impairment)
        if clock is not None:
            is_bad = clock.is_bad(t)
            until = min(until, clock.until)
        found = self._scenario.outage_at(t)
        outage = None if found is None else found[0]
        key = id(impairment), id(outage), is_bad
        if key not in self._known:
            self._known[key] = settings(impairment, outage, is_bad=is_bad, mtu=self._mtu)
        return self._known[key], until

    def _clock_of(self, impairment: Impairment) -> BurstClock | None:
        if impairment.bursts != self._bursts:
            self._bursts, self._clock = impairment.bursts, None
            if impairment.bursts is not None:
                self._clock = burst_clock(impairment.bursts, self._direction, seed=self._seed)
        return self._clock
