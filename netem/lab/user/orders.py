"""What a wire tells its forwarder, and what that answers; pickled, over a pair of sockets.

An order is a Play, or None for a report alone; the answer to each is a Report.
"""

from __future__ import annotations

from dataclasses import dataclass

from netem.link import LinkCounts
from netem.scenario import Direction, Scenario


@dataclass(frozen=True, slots=True)
class Play:
    """Begin a scenario; `begins_at` on time.monotonic(). Answered when it is in force."""

    scenario: Scenario
    seed: int
    begins_at: float


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the packets since the last Play.

    All that was recorded is in the file, unless `recording_failure` says what went wrong.
    """

    counts: dict[Direction, LinkCounts]
    recording_failure: str
