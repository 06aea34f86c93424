"""One connection's view of a log that goes out: the window and what rides in the next datagram.

The reach rule (protocol 1): a datagram carries unsent bytes first, as many as fit; into the room
that is left it reaches back towards the oldest unacknowledged byte. A chat's window fits, so each
datagram renders alone. Where it does not fit, the same rule goes from full over partial to no
redundancy, without a second mode; bytes whose every carrier was declared lost go first.

The end of a log counts as one byte after the last (see `log.py`), so a range whose stop is
`length + 1` carries the FIN or the RESET.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eloquent.protocol.log import Log
from eloquent.protocol.ranges import RangeSet
from eloquent.protocol.receive import STREAM_WINDOW
from eloquent.protocol.wire import TOKENS, Reset, WireError, encode_frame, integer_size, tokens_overhead

MIN_PIECE = 16
"""A range shorter than this is not worth a frame of its own unless nothing else is left."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How much redundancy a sender uses. The defaults are Eloquent's; the others are for comparison."""

    reach: bool = True
    """Whether datagrams reach back into the window, or carry each byte once."""
    gap_fills: int = 2
    """Extra copies of the newest bytes when nothing follows them."""


ELOQUENT = Policy()
RETRANSMISSION_ONLY = Policy(reach=False, gap_fills=0)
"""Each byte once, then again when declared lost or after a PTO, as QUIC does."""


class SendStream:
    """What one connection has sent of a log and what came back about it."""

    __slots__ = ("acked", "carried_at", "delivered", "id", "limit", "log", "lost", "sent", "start")

    def __init__(self, stream_id: int, log: Log, *, start: int = 0) -> None:
        self.id = stream_id
        self.log = log
        self.start = start
        """Where this connection begins: 0, or where it resumed."""
        self.acked = start
        """The peer holds everything below."""
        self.sent = start
        """Offset after the highest byte sent on this connection."""
        self.limit = start + STREAM_WINDOW
        """Flow control: the peer takes bytes below this offset."""
        self.lost = RangeSet()
        self.delivered = RangeSet()
        """Ranges beyond `acked` that arrived."""
        self.carried_at = 0.0
        """When a datagram last carried the oldest unacknowledged byte (never later than that)."""

    @property
    def sendable_end(self) -> int:
        """Offset after the last byte that may be sent now, the virtual byte included."""
        log = self.log
        # protocol 2: FIN and RESET are exempt from flow control.
        return log.stop if log.end <= self.limit else self.limit

    @property
    def is_done(self) -> bool:
        """The peer holds the log and its end."""
        length = self.log.length
        return length is not None and self.acked > length

    def on_sent(self, start: int, stop: int, *, now: float) -> int:
        """Record that [start, stop) was sent; how many of its bytes were never sent before."""
        new = 0
        if stop > self.sent:
            end = self.log.end
            new = max(min(stop, end) - self.sent, 0)
            self.sent = stop
            if stop > self.log.sent:
                self.log.sent = stop
        if start <= self.acked:
            self.carried_at = now
        if self.lost.starts:
            self.lost.remove(start, stop)
        return new

    def on_range_acked(self, start: int, stop: int) -> None:
        """A datagram with this range arrived."""
        if stop <= self.acked:
            return
        if start > self.acked:
            self.delivered.add(start, stop)
            if self.lost:
                self.lost.remove(start, stop)
            return
        self._advance(stop)

    def on_offset_untrusted(self, offset: int, limit: int | None) -> None:
        """The peer says what it holds and up to where it takes more."""
        if offset > self.sent:
            # After a resumption the peer may hold more than this connection has sent.
            if offset > self.log.sent:
                raise WireError("an acknowledgment of bytes that were never sent")
            self.sent = offset
        if limit is not None and limit > self.limit:
            self.limit = limit
        if offset > self.acked:
            self._advance(offset)

    def on_range_lost(self, start: int, stop: int, carried: Iterable[tuple[int, int]]) -> None:
        """A datagram with this range was lost; `carried` are this stream's ranges still in flight."""
        start = max(start, self.acked)
        if start >= stop:
            return
        missing = RangeSet()
        for gap in self.delivered.gaps(start, stop):
            missing.add(*gap)
        for other in carried:
            missing.remove(*other)
        for gap in missing:
            self.lost.add(*gap)

    def _advance(self, offset: int) -> None:
        delivered = self.delivered
        while delivered.starts and delivered.starts[0] <= offset:
            first = delivered.first
            offset = max(offset, first[1])
            delivered.remove(*first)
        if self.lost.starts:
            self.lost.remove(self.acked, offset)
        self.acked = offset
        self.log.on_acked(offset)

    def overhead(self, start: int, stop: int) -> int:
        """Bytes of frames around a range, at most."""
        log = self.log
        if log.length is None or stop <= log.length:
            return tokens_overhead(self.id, start, fin_length=None)
        if log.reset_code is None:
            return tokens_overhead(self.id, start, fin_length=log.length)
        reset = 2 + integer_size(self.id) + integer_size(log.length) + integer_size(log.reset_code)
        return tokens_overhead(self.id, start, fin_length=None) + reset

    def frames(self, start: int, stop: int) -> list[list[object]]:
        """The frames that carry [start, stop)."""
        log = self.log
        length = log.length
        if length is None or stop <= length:
            return [[TOKENS, self.id, start, log.slice(start, stop)]]
        if log.reset_code is None:
            return [[TOKENS, self.id, start, log.slice(start, length), length, log.digest]]
        reset = encode_frame(Reset(self.id, length, log.reset_code))
        if start == length:
            return [reset]
        return [[TOKENS, self.id, start, log.slice(start, length)], reset]


Carried = tuple[SendStream, int, int]
"""A stream and the range of it that a datagram carries."""


class Packer:
    """Chooses the ranges of one datagram."""

    __slots__ = ("_chosen", "_room", "_streams", "credit")

    def __init__(self, streams: Iterable[SendStream], room: int, credit: int) -> None:
        self._streams = list(streams)
        self._room = room
        self._chosen: dict[SendStream, list[list[int]]] = {}
        self.credit = credit
        """Bytes never sent before that the connection's limit allows."""

    def whole_window(self) -> list[Carried] | None:
        """Everything from each oldest unacknowledged byte to the newest, if it fits."""
        chosen = []
        room, credit = self._room, self.credit
        for stream in self._streams:
            end = stream.sendable_end
            start = stream.acked
            if end <= start:
                continue
            room -= end - start + stream.overhead(start, end)
            credit -= max(min(end, stream.log.end) - stream.sent, 0)
            if room < 0 or credit < 0:
                return None
            chosen.append((stream, start, end))
        return chosen

    def partial(self, *, from_oldest: bool, reach: bool, with_new: bool) -> list[Carried]:
        """Lost bytes, then unsent ones, then as far back as there is room.

        `from_oldest` is a probe: it starts at each oldest unacknowledged byte instead.
        """
        if from_oldest:
            self._add_oldest()
        self._add_lost()
        if with_new:
            self._add_unsent()
        if reach:
            self._reach_back()
        return [(stream, start, stop) for stream, ranges in self._chosen.items() for start, stop in ranges]

    def _add(self, stream: SendStream, start: int, stop: int) -> None:
        room = self._room - stream.overhead(start, stop)
        if room < min(stop - start, MIN_PIECE):
            return
        stop = min(stop, start + room)
        if stop <= start:
            return
        self._room -= stop - start + stream.overhead(start, stop)
        self._chosen.setdefault(stream, []).append([start, stop])

    def _add_oldest(self) -> None:
        # What was carried longest ago first, so that no stream is left out for ever.
        for stream in sorted(self._streams, key=lambda stream: stream.carried_at):
            if stream.sent > stream.acked:
                self._add(stream, stream.acked, stream.sent)

    def _add_lost(self) -> None:
        for stream in self._streams:
            for start, stop in stream.lost:
                if not self._has(stream, start):
                    self._add(stream, start, stop)

    def _add_unsent(self) -> None:
        # The shortest first: a token never waits behind an upload on another stream.
        waiting = [stream for stream in self._streams if stream.sendable_end > stream.sent]
        if len(waiting) > 1:
            waiting.sort(key=lambda stream: stream.sendable_end - stream.sent)
        for stream in waiting:
            stop = stream.sendable_end
            new = min(stop, stream.log.end) - stream.sent
            if new > self.credit:
                stop = stream.sent + self.credit
                new = self.credit
            if stop > stream.sent:
                before = self._room
                self._add(stream, stream.sent, stop)
                if self._room != before:
                    self.credit -= min(new, before - self._room)

    def _reach_back(self) -> None:
        for stream in self._streams:
            if stream.sent <= stream.acked:
                continue
            ranges = self._chosen.get(stream)
            if not ranges:
                start = max(
                    stream.acked, stream.sent - max(self._room - stream.overhead(stream.sent, stream.sent), 0)
                )
                if stream.sent - start >= min(stream.sent - stream.acked, MIN_PIECE):
                    self._add(stream, start, stream.sent)
                continue
            newest = max(ranges, key=lambda chosen: chosen[1])
            floor = max([stream.acked, *(other[1] for other in ranges if other is not newest)])
            # The base may take more bytes to write once it moves, never fewer: it gets smaller.
            step = max(min(newest[0] - floor, self._room), 0)
            newest[0] -= step
            self._room -= step

    def _has(self, stream: SendStream, offset: int) -> bool:
        return any(start <= offset < stop for start, stop in self._chosen.get(stream, ()))
