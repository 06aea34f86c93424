"""What goes into the next datagram of a connection, and whether one is due."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

from eloquent.protocol.delivery import FRAME_OVERHEAD, Delivery
from eloquent.protocol.path import Address
from eloquent.protocol.recovery import MAX_ACK_DELAY, SentPacket
from eloquent.protocol.send import Carried
from eloquent.protocol.wire import (
    MAX_DATAGRAM,
    MAX_PACKET_NUMBER,
    PING,
    WELCOME,
    Close,
    CloseCode,
    Frame,
    PathChallenge,
    PathResponse,
    encode_frame,
    encode_frames,
)

if TYPE_CHECKING:
    from eloquent.protocol.connection import Connection

MAX_BURST = 64
"""Datagrams that one call may produce; more wait for the next call."""

MIN_ROOM = 64
"""Bytes of plaintext below which a datagram is not worth sending on a path with a limit."""

FULL = 1024
"""Unsent bytes that are worth a datagram of their own: about what fits beside headers and frames."""

WHOLE_WINDOW = 512
"""Bytes up to which a window goes whole, also where the congestion window hardly affords it."""

REACH_SHARE = 0.85
"""Of the congestion window that redundancy plans with where it has to choose: 400 tok/s, RTT 600 ms and
5 % loss had p99 357, 273 and 441 ms with 1, 0.85 and 0.7."""

ARRAY_SLACK = 4
"""Bytes by which the array around the frames may grow when frames are added."""


class Reason(Enum):
    """Why a datagram carries text."""

    NEW = "new bytes"
    GAP_FILL = "a copy of the newest bytes"
    PROBE = "the oldest bytes again"


# Reading a member from its class takes 0.1 us in Python 3.11, ten times for each datagram.
_NEW, _GAP_FILL, _PROBE = Reason


class Composer:
    """Builds the datagrams of one connection."""

    __slots__ = (
        "_close_due",
        "_closes",
        "_connection",
        "_is_limited",
        "_is_up_to_date",
        "_probe",
        "closing",
        "controls",
        "may_send",
        "may_send_text",
        "packet_number",
        "wants_ping",
        "was_limited",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.packet_number = 0
        """The next one; one sequence across all keys."""
        self.controls: list[Frame] = []
        """Frames about the connection that wait to be sent."""
        self.closing: Close | None = None
        self.wants_ping = False
        self.was_limited = False
        """Whether the congestion window has held a datagram back since the last acknowledgment."""
        self.may_send = True
        """Whether the amplification limit allows a datagram (protocol 6: else timers rest)."""
        self.may_send_text = True
        """Whether more than PINGs and answers may go: no long silence, no open circuit breaker."""
        self._is_limited = False
        self._is_up_to_date = False
        self._probe = False
        self._close_due = True
        self._closes = 0

    def probe(self, *, in_flight: Iterable[SentPacket]) -> None:
        """Send the oldest bytes again, or at least a PING."""
        self._probe = True
        self.requeue(in_flight)

    def requeue(self, packets: Iterable[SentPacket]) -> None:
        """Send control frames of these packets again."""
        for packet in packets:
            for frame in packet.controls:
                if frame not in self.controls and self._connection.delivery.is_wanted(frame):
                    self.controls.append(frame)

    def repeat_close(self) -> None:
        """Something came after the end: say CLOSE again, after ever more datagrams."""
        self._closes += 1
        self._close_due |= self._closes & (self._closes - 1) == 0

    def datagrams(self, *, now: float) -> list[tuple[bytes, Address]]:
        connection = self._connection
        if connection.ended is not None:
            return self._close_datagrams(now)
        if connection.delivery.poll():
            # protocol 3: a raised limit is sent at once with a PING.
            self.wants_ping = True
            connection.acks.ask(now=now)
        self._is_limited = False
        paths = connection.paths
        out = self._path_datagrams(now) if paths.responses or paths.is_challenging else []
        self._refresh(now)
        while self.may_send and len(out) < MAX_BURST:
            reason = self._reason(now)
            if reason is None and not self._is_due(now):
                break
            datagram = self._build(reason, now)
            if datagram is None:
                break
            out.append((datagram, paths.active.address))
            if not self._is_up_to_date:
                self._refresh(now)
            elif not self._is_due(now):
                break
        if connection.ended is not None:
            # The packet numbers were used up by what was just built.
            out += self._close_datagrams(now)
        return out

    def _refresh(self, now: float) -> None:
        """Bring up to date what decides about the next datagram; deadlines are read from it too."""
        connection = self._connection
        if connection.delivery.refresh():
            connection.on_blocked_changed()
        path = connection.paths.active
        self.may_send = path.is_validated or path.budget >= connection.protection.overhead + MIN_ROOM
        self.may_send_text = connection.breaker.open_until is None and (
            connection.silence.since is None or connection.silence.allows_text(now=now)
        )
        self._is_up_to_date = False

    def next_at(self) -> float | None:
        """When the next datagram with text is due, unless something else must happen first."""
        if self._is_limited or not self.may_send or not self.may_send_text:
            return None
        connection = self._connection
        return self._new_bytes_at() if connection.delivery.has_new else connection.cadence.gap_fill_at

    def _is_due(self, now: float) -> bool:
        """Whether there is anything but text to say now."""
        if self._probe or self.wants_ping or self.controls or self._connection.delivery.controls:
            return True
        ack_at = self._connection.acks.due_at
        return ack_at is not None and ack_at <= now

    def _reason(self, now: float) -> Reason | None:
        """Why text should go now, if it should and may."""
        connection = self._connection
        if not self.may_send_text or connection.delivery.is_muted:
            return None
        if self._probe:
            return _PROBE
        # What is new makes a copy pointless: it carries the window anyway.
        at: float | None
        if connection.delivery.has_new:
            reason, at = _NEW, self._new_bytes_at()
        else:
            reason, at = _GAP_FILL, connection.cadence.gap_fill_at
        if at is None or at > now:
            return None
        if self._fits_window():
            return reason
        # protocol 5: coalesce, never queue.
        self._is_limited = self.was_limited = True
        return None

    def _new_bytes_at(self) -> float:
        delivery = self._connection.delivery
        # protocol 4: a first token is sent at once. Nothing is gained by waiting where a datagram is
        # full, bytes are known to be lost, or a log has ended: what could it be merged with?
        if delivery.has_start or delivery.has_lost or delivery.unsent >= FULL:
            return 0.0
        if delivery.has_end:
            return 0.0 if delivery.window >= FULL else self._connection.cadence.end_at()
        return self._connection.cadence.new_bytes_at()

    def _fits_window(self) -> bool:
        connection = self._connection
        recovery = connection.recovery
        if (
            not recovery.bytes_in_flight
            or recovery.bytes_in_flight + MAX_DATAGRAM <= recovery.congestion.window
        ):
            return True
        overhead = connection.protection.overhead
        size = overhead + min(connection.delivery.window, self._text_room(MAX_DATAGRAM - overhead))
        return recovery.bytes_in_flight + size <= recovery.congestion.window

    def _text_room(self, room: int) -> int:
        """Bytes of text to put into a datagram that has room for so many.

        A chat's window goes whole. A larger one reaches back as far as the congestion window affords
        at this cadence; datagrams that are full of old bytes would wait for it instead: at RTT 600 ms
        and 5 % loss, 200 tok/s stalled 19 % of the time, and p99 at 400 tok/s was 487 ms.
        """
        connection = self._connection
        delivery = connection.delivery
        if delivery.window <= WHOLE_WINDOW or delivery.has_lost or delivery.unsent >= FULL:
            return room
        recovery = connection.recovery
        flight_time = recovery.rtt.smoothed + MAX_ACK_DELAY
        affordable = REACH_SHARE * recovery.congestion.window * connection.cadence.interval / flight_time
        reach = int(affordable) - connection.protection.overhead
        return min(room, max(reach, delivery.unsent + FRAME_OVERHEAD))

    def _build(self, reason: Reason | None, now: float) -> bytes | None:
        connection = self._connection
        room = MAX_DATAGRAM - connection.protection.overhead
        path = connection.paths.active
        if not path.is_validated:
            room = min(room, path.budget - connection.protection.overhead)
        frames = [] if connection.protection.is_confirmed else self._welcome()
        if connection.acks.is_owed:
            frames.append(self._ack_frame(room, now))
        controls: list[Frame] = []
        if self.controls or connection.delivery.controls:
            controls = self._take_controls(frames, room)
        carried: list[Carried] = []
        if reason is not None:
            used = len(encode_frames(frames)) if frames else 1
            text_room = room - used - ARRAY_SLACK
            if reason is not _PROBE and connection.delivery.window > WHOLE_WINDOW:
                text_room = self._text_room(text_room)
            carried = self._choose(frames, text_room, reason)
        asks = self.wants_ping or (self._probe and not carried and not controls)
        if asks:
            frames.append([PING])
        self._probe = self.wants_ping = False
        if not frames:
            return None
        is_eliciting = bool(carried or controls or asks)
        ack_now = asks or reason is _PROBE or reason is _GAP_FILL
        datagram = self._seal(encode_frames(frames), room if carried else 0, ack_now=ack_now, now=now)
        path.sent += len(datagram)
        if is_eliciting:
            self._on_eliciting(datagram, carried, controls, reason, now)
        return datagram

    def _ack_frame(self, room: int, now: float) -> list[object]:
        connection = self._connection
        delivery = connection.delivery
        entries = delivery.ack_entries(room)
        return connection.acks.take_frame(entries, delivery.connection_limit, now=now)

    def _welcome(self) -> list[list[object]]:
        """The server's terms, in each REPLY: any of them may be the first to arrive."""
        connection = self._connection
        if connection.is_client or connection.protection.is_confirmed:
            return []
        return [[WELCOME, connection.group.max_streams, connection.group.next_id]]

    def _take_controls(self, frames: list[list[object]], room: int) -> list[Frame]:
        """Move waiting control frames into the datagram, as many as fit."""
        taken: list[Frame] = []
        for queue in (self.controls, self._connection.delivery.controls):
            while queue:
                encoded = encode_frame(queue[0])
                if len(encode_frames([*frames, encoded])) > room:
                    return taken
                frames.append(encoded)
                taken.append(queue.pop(0))
        return taken

    def _choose(self, frames: list[list[object]], room: int, reason: Reason) -> list[Carried]:
        delivery: Delivery = self._connection.delivery
        policy = self._connection.settings.policy
        carried = delivery.choose(room, policy, is_probe=reason is _PROBE)
        for send, start, stop in carried:
            frames += send.frames(start, stop)
        return carried

    def _seal(self, plaintext: bytes, pad_room: int, *, ack_now: bool, now: float) -> bytes:
        connection = self._connection
        padding = connection.settings.padding
        content_size = len(plaintext) + connection.protection.overhead
        if pad_room and padding:
            plaintext = plaintext.rjust(min(-(-len(plaintext) // padding) * padding, pad_room), b"\0")
        number = self.packet_number
        self.packet_number = number + 1
        datagram = connection.protection.seal(number, plaintext, ack_now=ack_now, now=now)
        counters = connection.counters
        counters.datagrams_sent += 1
        counters.bytes_sent += len(datagram)
        counters.padding_bytes += len(datagram) - content_size
        if number >= MAX_PACKET_NUMBER - MAX_BURST and self.closing is None:
            connection.close(CloseCode.KEYS_EXHAUSTED, "packet numbers are used up", now=now)
        return datagram

    def _on_eliciting(
        self,
        datagram: bytes,
        carried: list[Carried],
        controls: list[Frame],
        reason: Reason | None,
        now: float,
    ) -> None:
        connection = self._connection
        recovery = connection.recovery
        recovery.on_sent(SentPacket(self.packet_number - 1, now, len(datagram), carried, controls))
        connection.silence.on_asked(now=now)
        if not carried:
            return
        connection.counters.text_datagrams += 1
        if not recovery.rtt.has_sample:
            self._on_no_answer(now)
        new_bytes, new_ends = connection.delivery.on_sent(carried, now=now)
        if new_bytes or new_ends:
            connection.cadence.on_new_bytes_sent(is_end=not new_bytes, now=now)
            self._is_up_to_date = connection.delivery.has_sent_all(carried, now=now)
        else:
            is_gap_fill = reason is _GAP_FILL
            connection.counters.gap_fills += is_gap_fill
            connection.cadence.on_copy_sent(is_gap_fill=is_gap_fill, now=now)
        if connection.breaker.on_sent(len(datagram), recovery.rtt.smoothed, recovery.congestion, now=now):
            connection.on_tripped()

    def _on_no_answer(self, now: float) -> None:
        connection = self._connection
        oldest_at = connection.recovery.oldest_sent_at
        if oldest_at is not None:
            connection.delay.on_no_answer(now - oldest_at, connection.recovery.rtt.smoothed, now=now)
            connection.cadence.interval = connection.delay.interval

    def _path_datagrams(self, now: float) -> list[tuple[bytes, Address]]:
        """Challenges and responses, each in a datagram of its own on its own path."""
        connection = self._connection
        paths = connection.paths
        due: list[tuple[Address, Frame]] = [
            (address, PathResponse(data)) for address, data in paths.responses.items()
        ]
        paths.responses.clear()
        for address, data in paths.due_challenges(pto=connection.recovery.rtt.pto, now=now):
            due.append((address, PathChallenge(data)))
        out = []
        for address, frame in due:
            path = paths.path_of(address)
            size = connection.protection.overhead + MIN_ROOM
            if (path is None and not connection.is_client) or (path is not None and not path.can_send(size)):
                continue
            frames = [*self._welcome(), encode_frame(frame)]
            datagram = self._seal(encode_frames(frames), 0, ack_now=False, now=now)
            if path is not None:
                path.sent += len(datagram)
            out.append((datagram, address))
        return out

    def _close_datagrams(self, now: float) -> list[tuple[bytes, Address]]:
        connection = self._connection
        closing = self.closing
        if closing is None or not self._close_due or not self.may_send:
            return []
        self._close_due = False
        if self.packet_number > MAX_PACKET_NUMBER:
            return []
        frames = [*self._welcome(), encode_frame(closing)]
        datagram = self._seal(encode_frames(frames), 0, ack_now=False, now=now)
        connection.paths.active.sent += len(datagram)
        return [(datagram, connection.paths.active.address)]
