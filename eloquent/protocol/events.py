"""What a connection announces. Events announce; the stream's `read()` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eloquent.protocol.path import Address
from eloquent.protocol.streams import Stream


@dataclass(frozen=True, slots=True)
class Connected:
    """The peer has proved itself: the client has a reply, the server a datagram under `c1`."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The client has opened a stream."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamReadable:
    """`stream.read()` has bytes."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The incoming log has ended: whole where `stream.incoming.is_complete`, else with its reset code."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """The unacknowledged part has fallen below `stream.low_water`."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The peer wants no more of the outgoing log."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamAbandoned:
    """No client for too long: whoever generates this answer should stop."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamInterrupted:
    """The server can no longer go on with this answer; it is good up to `offset`."""

    stream: Stream
    offset: int


@dataclass(frozen=True, slots=True)
class Thinking:
    """The server answers, the model is silent."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """Nothing was heard for too long: the network."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Heard again after a stall or on a new connection; `offsets` are the bytes held, by stream id."""

    offsets: dict[int, int]


@dataclass(frozen=True, slots=True)
class PathChanged:
    """The peer, or this client, has a new address."""

    address: Address


@dataclass(frozen=True, slots=True)
class Fallback:
    """The circuit breaker has stopped UDP until `until` (the core's clock)."""

    until: float


@dataclass(frozen=True, slots=True)
class TicketReceived:
    """A resumption ticket has come, in its binary form."""

    ticket: bytes


@dataclass(frozen=True, slots=True)
class TicketNeeded:
    """The client needs a new first-use ticket to go on; `code` says why (a refusal code, or 0)."""

    code: int


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The last event of a connection."""

    by: Literal["local", "remote", "silence"]
    code: int
    reason: str


Event = (
    Connected
    | StreamOpened
    | StreamReadable
    | StreamEnded
    | StreamWritable
    | StopRequested
    | StreamAbandoned
    | StreamInterrupted
    | Thinking
    | Stalled
    | Resumed
    | PathChanged
    | Fallback
    | TicketReceived
    | TicketNeeded
    | ConnectionEnded
)
