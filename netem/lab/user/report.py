"""What the process of a link answers to every order."""

from __future__ import annotations

from dataclasses import dataclass

from netem.link import LinkCounts
from netem.scenario import Direction


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the packets since the last Play.

    All that was recorded is in the file, unless `recording_failure` says what went wrong.
    """

    counts: dict[Direction, LinkCounts]
    recording_failure: str
