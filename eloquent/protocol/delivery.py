"""The streams as one connection sees them: what it sends of them, what it takes in, flow control.

The streams themselves belong to the group and outlive the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from eloquent.protocol.acks import AckTracker
from eloquent.protocol.events import (
    Event,
    StopRequested,
    StreamEnded,
    StreamOpened,
    StreamReadable,
    StreamWritable,
)
from eloquent.protocol.recovery import SentPacket
from eloquent.protocol.send import Carried, Packer, Policy, SendStream
from eloquent.protocol.streams import MAX_KEPT_LOG, LogGroup, Stream
from eloquent.protocol.wire import Frame, Reset, ResetCode, Resume, Stop, Tokens, WireError

CONNECTION_WINDOW = 1024 * 1024
"""Bytes that a connection may send beyond what the application has taken (protocol 3)."""

ACK_OVERHEAD = 56
"""Bytes of a WELCOME and of an ACK without its streams, at most."""

ACK_ENTRY_SIZE = 28
"""Bytes of what an ACK says about one stream, at most: three integers of nine."""

MIN_FORGOTTEN = 64
"""Forgotten streams that are not worth clearing away; arbitrary."""

FRAME_OVERHEAD = 40
"""Bytes around a stream's range, at most: of a TOKENS frame with FIN, or of one with a RESET."""


class Delivery:
    """One connection's part in its group's streams."""

    __slots__ = (
        "_acks",
        "_consumed_before",
        "_credit_limit",
        "_credit_used",
        "_events",
        "_limits",
        "_receive_limit",
        "_received",
        "_seen_consumed",
        "_seen_stops",
        "active",
        "controls",
        "group",
        "has_end",
        "has_lost",
        "has_new",
        "has_start",
        "is_blocked",
        "is_muted",
        "oldest_carried_at",
        "sends",
        "unsent",
        "window",
    )

    def __init__(self, group: LogGroup, acks: AckTracker, events: deque[Event]) -> None:
        self.group = group
        self._acks = acks
        self._events = events
        self.sends: dict[int, SendStream] = {}
        self.active: list[SendStream] = []
        """Streams whose end the peer has not acknowledged."""
        self.controls: list[Frame] = []
        """Frames about streams that wait to be sent."""
        self.is_muted = False
        """A resumption's first flight carries no log bytes (protocol 7)."""
        self._credit_limit = CONNECTION_WINDOW
        self._credit_used = 0
        self._receive_limit = CONNECTION_WINDOW
        self._received = 0
        self._consumed_before = self._seen_consumed = group.consumed
        self._seen_stops = 0
        self._limits: dict[int, int] = {}
        """Stream limits that are implied, by stream: the ones an ACK need not say."""
        # The summary that `refresh` makes, once for each time that the connection is drained.
        self.unsent = 0
        """Bytes that may be sent and never were, ends counted as one."""
        self.window = 0
        """Bytes, with room for frames around them, of all that is unacknowledged or unsent."""
        self.has_lost = False
        self.has_start = False
        """Whether the first bytes of a log wait to be sent."""
        self.has_end = False
        """Whether the end of a log waits to be sent."""
        self.has_new = False
        """Whether there are bytes to send that nothing carries now."""
        self.is_blocked = False
        """Whether flow control, and nothing else, holds bytes back."""
        self.oldest_carried_at: float | None = None
        """When the oldest unacknowledged byte of any stream went out last."""

    def attach(self, stream: Stream, *, start: int = 0, is_resumed: bool = False) -> SendStream:
        """Take part in a stream, sending its log from `start`."""
        if len(self.sends) > 2 * len(self.group.streams) + MIN_FORGOTTEN:
            self._let_go()
        send = self.sends[stream.id] = SendStream(stream.id, stream.outgoing, start=start)
        if is_resumed:
            # The peer counts from where it stands, which may be lower: always say the limit.
            stream.incoming.restart_limit()
        else:
            self._limits[stream.id] = stream.incoming.limit
        if not send.is_done:
            self.active.append(send)
        return send

    def resume(self) -> None:
        """Go on with the open streams of the group (the client's side of a resumption)."""
        for stream in self.group.streams.values():
            if not stream.is_open:
                continue
            self.attach(stream, start=stream.outgoing.acked, is_resumed=True)
            if not stream.incoming.has_ended:
                self.controls.append(Resume(stream.id, stream.incoming.offset))

    def take_over(self) -> None:
        """Serve the other open streams too: they began while this connection was not confirmed."""
        for stream in self.group.streams.values():
            if stream.is_open and stream.id not in self.sends:
                self.attach(stream, start=stream.outgoing.acked, is_resumed=True)
                self._acks.touched[stream.id] = None

    def unmute(self) -> None:
        """Begin to send: from where the peer is by now, as the old connection may have gone on."""
        self.is_muted = False
        for send in list(self.active):
            send.on_offset_untrusted(send.log.acked, None)
            self._after_ack(send)
            stream = self.group.streams.get(send.id)
            if stream is not None:
                # The peer counts from its own start, which may lie beyond the limit told before.
                stream.incoming.restart_limit()
                self._limits.pop(send.id, None)

    def on_tokens_untrusted(self, frame: Tokens) -> None:
        stream = self.group.streams.get(frame.stream) or self._accept(frame.stream)
        if stream is None:
            return
        incoming = stream.incoming
        highest = incoming.highest
        had_unread = incoming.has_unread
        moved = incoming.on_tokens_untrusted(frame.base, frame.data)
        self._received += incoming.highest - highest
        if self._received > self._receive_limit:
            raise WireError("bytes beyond the connection's limit")
        if frame.length is not None and frame.digest is not None:
            incoming.on_fin_untrusted(frame.length, frame.digest)
        self._acks.touched[frame.stream] = None
        if stream.stop_wanted:
            stream.read()
        elif moved and not had_unread:
            self._events.append(StreamReadable(stream))
        self._check_end(stream)

    def on_reset_untrusted(self, frame: Reset) -> None:
        stream = self.group.streams.get(frame.stream)
        if stream is None and frame.code != ResetCode.UNKNOWN_STREAM:
            # A prompt that its client gave up before anything of it arrived.
            stream = self._accept(frame.stream)
        if stream is None:
            return
        incoming = stream.incoming
        if frame.code == ResetCode.UNKNOWN_STREAM:
            # The peer no longer knows the log: what is here is all that there will be.
            incoming.cut(frame.code)
        else:
            incoming.on_reset_untrusted(frame.length, frame.code, is_unwanted=stream.stop_wanted)
        self._acks.touched[frame.stream] = None
        self._check_end(stream)

    def on_stop(self, frame: Stop) -> None:
        stream = self.group.streams.get(frame.stream)
        if stream is None:
            stream = None if self.group.is_client else self.group.accept(frame.stream)
            if stream is None:
                self._reset_unknown(frame.stream)
                return
            # A STOP that overtook its prompt: the stream exists, but nobody needs to answer or read it.
            self.attach(stream)
            stream.stop()
        elif not stream.stop_received and not stream.outgoing.has_ended:
            self._events.append(StopRequested(stream))
        stream.stop_received = True
        stream.reset(ResetCode.STOPPED)

    def on_resume(self, frame: Resume) -> None:
        group = self.group
        if frame.stream in self.sends:
            return
        stream = group.streams.get(frame.stream)
        if stream is None:
            if frame.stream < group.next_id and frame.stream not in group.unopened:
                self._reset_unknown(frame.stream)
            return
        log = stream.outgoing
        if not log.start <= frame.offset <= log.end:
            self._reset_unknown(frame.stream)
            return
        self.attach(stream, start=frame.offset, is_resumed=True)
        self._acks.touched[frame.stream] = None

    def on_offsets_untrusted(
        self, entries: list[tuple[int, int, int | None]], connection_limit: int | None
    ) -> None:
        for stream_id, offset, limit in entries:
            send = self.sends.get(stream_id)
            if send is not None:
                send.on_offset_untrusted(offset, limit)
                self._after_ack(send)
        if connection_limit is not None and connection_limit > self._credit_limit:
            self._credit_limit = connection_limit

    def on_packets_acked(self, packets: Iterable[SentPacket]) -> None:
        for packet in packets:
            for send, start, stop in packet.carried:
                if stop > send.acked:
                    send.on_range_acked(start, stop)
                    self._after_ack(send)

    def on_packets_lost(self, packets: Iterable[SentPacket], in_flight: list[SentPacket]) -> None:
        """Ranges whose every carrier was lost go again first."""
        for packet in packets:
            for send, start, stop in packet.carried:
                if stop <= send.acked:
                    continue
                others = [
                    (low, high) for other in in_flight for owner, low, high in other.carried if owner is send
                ]
                send.on_range_lost(start, stop, others)

    def on_ping(self) -> None:
        """A peer that asks may be blocked by a limit that was lost: name every stream that goes on."""
        for stream in self.group.streams.values():
            if not stream.incoming.has_ended and stream.id in self.sends:
                self._acks.touched[stream.id] = None

    def refresh(self) -> bool:
        """Bring the summary of what waits up to date; valid until the next input or command.

        True where flow control has begun or ceased to hold bytes back.
        """
        credit = self._credit_limit - self._credit_used
        unsent = window = 0
        oldest_at: float | None = None
        is_blocked = has_lost = has_start = has_end = has_lone_end = False
        for send in self.active:
            log, acked, sent = send.log, send.acked, send.sent
            stop = log.stop
            if log.end > send.limit:
                stop = send.limit
                is_blocked |= sent >= stop
            if stop > sent:
                unsent += stop - sent
                has_start |= sent == 0
                has_end |= stop > log.end
                # protocol 2: an end is exempt from flow control, the bytes before it are not.
                has_lone_end |= sent >= log.end
            if sent > acked and (oldest_at is None or send.carried_at < oldest_at):
                oldest_at = send.carried_at
            if stop > acked:
                window += stop - acked + FRAME_OVERHEAD
            has_lost |= bool(send.lost.starts)
        if unsent > credit:
            is_blocked = True
            unsent = credit
        self.unsent = unsent
        self.has_lost = has_lost
        self.has_start = has_start
        self.has_end = has_end
        self.has_new = (unsent > 0 or has_lost or has_lone_end) and not self.is_muted
        self.window = window
        self.oldest_carried_at = oldest_at
        was_blocked, self.is_blocked = self.is_blocked, is_blocked and unsent <= 0
        return self.is_blocked is not was_blocked

    @property
    def newest_is_acked(self) -> bool:
        for send in self.active:  # noqa: SIM110 - this is asked for each acknowledgment
            if send.acked < send.sent:
                return False
        return True

    def choose(self, room: int, policy: Policy, *, is_probe: bool) -> list[Carried]:
        """The ranges that ride in a datagram with `room` bytes for them."""
        if self.is_muted:
            return []
        credit = self._credit_limit - self._credit_used
        if len(self.active) == 1 and policy.reach and self.window <= room and self.unsent < credit:
            # By far the most frequent case, without the machinery for the others.
            send = self.active[0]
            return [(send, send.acked, send.sendable_end)] if self.window else []
        packer = Packer(self.active, room, credit)
        if policy.reach:
            whole = packer.whole_window()
            if whole is not None:
                return whole
        return packer.partial(from_oldest=is_probe, reach=policy.reach, with_new=True)

    def on_sent(self, carried: list[Carried], *, now: float) -> tuple[int, int]:
        """Record a datagram's ranges; how many bytes and how many ends of logs were new."""
        new_bytes = advanced = 0
        for send, start, stop in carried:
            before = send.sent
            new_bytes += send.on_sent(start, stop, now=now)
            advanced += send.sent - before
        self._credit_used += new_bytes
        return new_bytes, advanced - new_bytes

    def has_sent_all(self, carried: list[Carried], *, now: float) -> bool:
        """Whether a datagram carried all that there is; the summary is up to date then."""
        if len(self.active) != 1 or self.has_lost or len(carried) != 1:
            return False
        send, start, stop = carried[0]
        if start > send.acked or stop != send.log.stop:
            return False
        self.unsent = 0
        self.has_new = self.has_start = self.has_end = False
        self.oldest_carried_at = now
        return True

    def poll(self) -> bool:
        """Turn what the application did into frames; True when a raised limit must be told."""
        group = self.group
        if group.stops != self._seen_stops:
            self._seen_stops = group.stops
            for stream in group.streams.values():
                stop = Stop(stream.id)
                if stream.stop_wanted and stream.id in self.sends and stop not in self.controls:
                    self.controls.append(stop)
        if group.consumed == self._seen_consumed:
            return False
        self._seen_consumed = group.consumed
        return self._raise_limits()

    def ack_entries(self, room: int) -> list[list[int]]:
        """What the next ACK, in a datagram with `room` bytes, says about streams."""
        entries: list[list[int]] = []
        most = (room - ACK_OVERHEAD) // ACK_ENTRY_SIZE
        for stream_id in self._acks.take_touched():
            stream = self.group.streams.get(stream_id)
            if stream is None:
                continue
            if len(entries) >= most:
                self._acks.touched[stream_id] = None
                continue
            incoming = stream.incoming
            entry = [stream_id, incoming.acked]
            if incoming.limit != self._limits.get(stream_id) and not incoming.has_ended:
                entry.append(incoming.limit)
            entries.append(entry)
        return entries

    @property
    def connection_limit(self) -> int | None:
        """The limit to tell; None while it is the initial one."""
        return self._receive_limit if self._receive_limit != CONNECTION_WINDOW else None

    def is_wanted(self, frame: Frame) -> bool:
        """Whether a lost control frame still has a purpose."""
        if isinstance(frame, Stop):
            stream = self.group.streams.get(frame.stream)
            return stream is not None and stream.stop_wanted
        return True

    def _accept(self, stream_id: int) -> Stream | None:
        if self.group.is_client:
            return None
        stream = self.group.accept(stream_id)
        if stream is None:
            self._reset_unknown(stream_id)
            return None
        self.attach(stream)
        self._events.append(StreamOpened(stream))
        return stream

    def _let_go(self) -> None:
        """Drop what was sent of streams that the group no longer knows, and their logs with it."""
        known = self.group.streams
        self.sends = {send.id: send for send in self.sends.values() if send.id in known or not send.is_done}
        self._limits = {number: self._limits[number] for number in self._limits if number in known}

    def _reset_unknown(self, stream_id: int) -> None:
        reset = Reset(stream_id, 0, ResetCode.UNKNOWN_STREAM)
        if reset not in self.controls and len(self.controls) < self.group.max_streams:
            self.controls.append(reset)

    def _check_end(self, stream: Stream) -> None:
        if stream.incoming.has_ended and not stream.was_ended:
            stream.was_ended = True
            stream.on_incoming_ended()
            self._events.append(StreamEnded(stream))

    def _after_ack(self, send: SendStream) -> None:
        stream = self.group.streams.get(send.id)
        if stream is not None:
            log = stream.outgoing
            if stream.low_water is not None and log.unacked < stream.low_water:
                stream.low_water = None
                self._events.append(StreamWritable(stream))
            if self.group.is_client or log.end > MAX_KEPT_LOG:
                log.trim(send.acked)
        if send.is_done and send in self.active:
            self.active.remove(send)
            self.group.finished.append(send.id)

    def _raise_limits(self) -> bool:
        raised = False
        for stream in self.group.streams.values():
            if stream.id in self.sends and stream.incoming.raise_limit():
                self._acks.touched[stream.id] = None
                raised = True
        consumed = self.group.consumed - self._consumed_before
        if self._receive_limit - consumed <= CONNECTION_WINDOW // 2:
            self._receive_limit = consumed + CONNECTION_WINDOW
            raised = True
        return raised
