"""A scenario that is being played on the machine's clock, in both directions."""

from __future__ import annotations

from dataclasses import fields, replace

from netem.impairment import Impairment
from netem.lab.user.ecn import is_ecn_capable, mark
from netem.link import Fate, Link, LinkCounts
from netem.scenario import Direction, Outage, Scenario

UNIMPAIRED = Scenario("unimpaired", up=Impairment(), down=Impairment())
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")


class Playback:
    """Both directions of a scenario whose time 0 is at `begins_at`, on the clock of `now`.

    Until then its impairments of time 0 are in force, on links of their own: what is sent before
    the beginning has no influence on what happens to what is sent after it.
    """

    def __init__(self, scenario: Scenario, *, seed: int, begins_at: float, now: float) -> None:
        self._earlier: list[dict[Direction, LinkCounts]] = []
        self._links = _links(scenario, seed)
        self._epoch = begins_at
        self._next: tuple[float, dict[Direction, Link]] | None = None
        if now < begins_at:
            self._next = begins_at, self._links
            self._links = _links(_prelude(scenario, begins_at - now), seed)
            self._epoch = now

    def send(
        self, direction: Direction, packet: bytes, *, now: float
    ) -> tuple[Fate, list[tuple[float, bytes]]]:
        """Take an IP packet; return its fate and its copies with their times of arrival."""
        if self._next is not None and now >= self._next[0]:
            self._begin(*self._next)
        link = self._links[direction]
        epoch = self._epoch
        copies = link.send(packet, now=now - epoch, size=len(packet), is_ecn_capable=is_ecn_capable(packet))
        fate = link.fate
        if fate is Fate.MARKED:
            return fate, [(epoch + at, mark(copy)) for at, copy in copies]
        return fate, [(epoch + at, copy) for at, copy in copies]

    def counts(self) -> dict[Direction, LinkCounts]:
        """What became of all packets, those before the beginning included."""
        parts = [*self._earlier, {name: link.counts for name, link in self._links.items()}]
        return {name: _sum([part[name] for part in parts]) for name in DIRECTIONS}

    def _begin(self, begins_at: float, links: dict[Direction, Link]) -> None:
        self._earlier.append({name: link.counts for name, link in self._links.items()})
        self._epoch, self._links, self._next = begins_at, links, None


def _links(scenario: Scenario, seed: int) -> dict[Direction, Link]:
    return {name: Link(scenario, name, seed=seed) for name in DIRECTIONS}


def _prelude(scenario: Scenario, duration_s: float) -> Scenario:
    """The state at time 0, to be played for `duration_s` before it; an outage of then goes on."""
    found = scenario.outage_at(0.0)
    outages: tuple[Outage, ...] = ()
    if found is not None:
        outage, end = found
        outages = (replace(outage, start_s=0.0, duration_s=duration_s + end, period_s=None),)
    return replace(scenario, changes=(), outages=outages)


def _sum(parts: list[LinkCounts]) -> LinkCounts:
    names = [field.name for field in fields(LinkCounts)]
    return LinkCounts(**{name: sum(getattr(part, name) for part in parts) for name in names})
