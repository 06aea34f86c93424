"""Streams and the group that they form: what outlives a connection.

A connection is keys, paths and packet numbers; it may end and be followed by another that resumes.
The logs do not notice: they belong to the streams, and the streams to a group that resumption
tickets name.
"""

from __future__ import annotations

from collections.abc import Mapping

from eloquent.errors import StreamStopped, UsageError
from eloquent.protocol.cadence import GapEstimator
from eloquent.protocol.log import Log
from eloquent.protocol.receive import IncomingLog
from eloquent.protocol.wire import ResetCode

MAX_STREAMS = 100
"""Streams that a connection may have open at once, unless the server says otherwise."""

MAX_KEPT_LOG = 16 * 1024 * 1024
"""Bytes of an answer that a server keeps for a resumption; of longer logs, what was acknowledged goes."""


class Stream:
    """One bidirectional stream: the log that goes out and the log that comes in."""

    __slots__ = (
        "group",
        "id",
        "incoming",
        "low_water",
        "outgoing",
        "stop_received",
        "stop_wanted",
        "was_ended",
    )

    def __init__(self, stream_id: int, group: LogGroup) -> None:
        self.id = stream_id
        self.group = group
        self.outgoing = Log()
        self.incoming = IncomingLog()
        self.stop_wanted = False
        self.stop_received = False
        self.was_ended = False
        """The end of the incoming log was announced."""
        self.low_water: int | None = None
        """Announce once fewer than this many bytes are unacknowledged."""

    def write(self, data: bytes, *, now: float) -> None:
        """Append one or more encoded events to the outgoing log."""
        if self.stop_received:
            raise StreamStopped("the peer has asked this stream to stop", offset=self.outgoing.end)
        self.outgoing.append(data)
        self.group.gaps.on_token(now=now)

    def finish(self) -> None:
        """End the outgoing log as whole."""
        self.outgoing.finish()
        self.group.gaps.restart()

    def reset(self, code: int, *, drop_unsent: bool = True) -> None:
        """End the outgoing log as not whole, after the highest byte sent or after the newest."""
        self.outgoing.reset(code, drop_unsent=drop_unsent)
        self.group.gaps.restart()

    def stop(self) -> None:
        """Ask the peer to end the incoming log; what still comes is not wanted."""
        if not self.incoming.has_ended and not self.stop_wanted:
            self.stop_wanted = True
            self.group.stops += 1
            self.read()

    def read(self) -> bytes:
        """Take the bytes that have become readable; this makes room for the peer."""
        incoming = self.incoming
        before = incoming.consumed
        data = incoming.read()
        self.group.consumed += incoming.consumed - before
        return data

    @property
    def is_open(self) -> bool:
        """Whether either direction may still have something to say."""
        return not (self.incoming.has_ended and self.outgoing.is_acked)

    def on_incoming_ended(self) -> None:
        if self.stop_wanted:
            self.stop_wanted = False
            self.read()  # The peer's credit for bytes that it no longer sends.
            if self.incoming.reset_code is None:
                # protocol 2: a stopped answer never reports complete, also where FIN crossed STOP.
                self.incoming.reset_code = ResetCode.STOPPED
        self.incoming.check_end()


class LogGroup:
    """The streams of one client, under ids that resumption does not change."""

    __slots__ = (
        "claims",
        "consumed",
        "finished",
        "gaps",
        "id",
        "is_client",
        "max_streams",
        "next_id",
        "stops",
        "streams",
        "unopened",
    )

    def __init__(
        self,
        group_id: bytes,
        *,
        is_client: bool,
        claims: Mapping[str, object] | None = None,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self.id = group_id
        self.is_client = is_client
        self.claims: Mapping[str, object] = claims or {}
        self.max_streams = max_streams
        self.streams: dict[int, Stream] = {}
        self.next_id = 0
        """The first stream id that was never used."""
        self.unopened: set[int] = set()
        """Ids below `next_id` whose first datagram has not come yet (the server's view)."""
        self.gaps = GapEstimator()
        self.consumed = 0
        """Bytes that the application has taken, over all streams."""
        self.finished: list[int] = []
        """Streams whose outgoing log the peer has acknowledged whole, not yet collected."""
        self.stops = 0
        """STOPs that the application has asked for, over all streams."""

    @property
    def open_count(self) -> int:
        return sum(stream.is_open for stream in self.streams.values())

    @property
    def running_count(self) -> int:
        """Streams of which one side has not yet said its last word."""
        return sum(
            not (stream.incoming.has_ended and stream.outgoing.has_ended) for stream in self.streams.values()
        )

    @property
    def has_open(self) -> bool:
        return any(stream.is_open for stream in self.streams.values())

    def held(self) -> dict[int, int]:
        """Bytes held of each open stream's incoming log, by stream id."""
        return {stream.id: stream.incoming.offset for stream in self.streams.values() if stream.is_open}

    def open(self) -> Stream:
        """Open the next stream (the client's side)."""
        if self.open_count >= self.max_streams:
            raise UsageError(
                f"{self.max_streams} streams are open, which is all that the server allows at once"
            )
        stream = Stream(self.next_id, self)
        self.next_id += 1
        self.streams[stream.id] = stream
        return stream

    def accept(self, stream_id: int) -> Stream | None:
        """The stream that a client opens (the server's side).

        None where the id is no longer known or too many are open: the answer to that is a RESET.
        """
        if not self.next_id:
            # A client whose logs this server does not know goes on with its ids.
            self.next_id = max(stream_id - self.max_streams + 1, 0)
        if stream_id < self.next_id and stream_id not in self.unopened:
            return None
        if stream_id >= self.next_id + self.max_streams:
            return None
        # The client may have seen an end before we know that it has: such a stream counts half.
        if self.running_count >= self.max_streams or self.open_count >= 2 * self.max_streams:
            return None
        self._forget_oldest()
        self.unopened.discard(stream_id)
        self.unopened.update(range(self.next_id, stream_id))
        if len(self.unopened) > self.max_streams:
            # Ids that a client left out for good: an honest one never has as many under way.
            self.unopened.difference_update(sorted(self.unopened)[: -self.max_streams])
        self.next_id = max(self.next_id, stream_id + 1)
        stream = Stream(stream_id, self)
        self.streams[stream_id] = stream
        return stream

    def _forget_oldest(self) -> None:
        """Keep a bounded number of finished streams, however fast a client opens new ones."""
        if len(self.streams) >= 4 * self.max_streams:
            self.forget(next(stream.id for stream in self.streams.values() if not stream.is_open))

    def forget(self, stream_id: int) -> None:
        """Let a stream go for good."""
        self.streams.pop(stream_id, None)
