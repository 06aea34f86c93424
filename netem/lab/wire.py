"""What a cable between two hosts has to do, whichever kind of link is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from netem.lab.namespace import Namespace
from netem.link import LinkCounts
from netem.scenario import Direction, Scenario

Backend = Literal["user", "kernel"]
"""`user`: this package passes the packets on between two TUN devices. `kernel`: tc-netem does."""


@dataclass(frozen=True, slots=True)
class End:
    """The interface to be made in a namespace, for one end of a cable."""

    namespace: Namespace
    interface: str


class Wire(Protocol):
    """A cable whose packets meet a scenario; `up` is from the first of its ends to the second.

    It is there, with both interfaces down and no impairment, once it has been made. The methods
    block for some milliseconds and are called by one thread at a time.
    """

    def play(self, scenario: Scenario, *, seed: int, begins_at: float) -> None:
        """Begin a scenario, in place of the one before; packets under way keep their times.

        Its time 0 is at `begins_at` on time.monotonic(); until then the state at 0 holds. Counts
        start anew. Raises ConfigurationError where this kind of link cannot play it.
        """
        ...

    def counts(self) -> dict[Direction, LinkCounts]:
        """What became of the packets since play(); `sent_bytes` are those of whole IP packets."""
        ...

    def close(self) -> None:
        """End what this wire runs outside of the two namespaces; may be called twice."""
        ...
