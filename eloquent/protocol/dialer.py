"""The client's side: one conversation with a server, over as many connections as it takes.

Addresses are pairs (socket number, server address). A socket number that the driver has not seen
before asks for a new UDP socket; `live_sockets` says which ones are still needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

from eloquent.errors import TicketError, UsageError
from eloquent.protocol.connection import Connection, Settings
from eloquent.protocol.crypto import KeyShare
from eloquent.protocol.events import (
    Connected,
    ConnectionEnded,
    Event,
    PathChanged,
    Resumed,
    StreamEnded,
    StreamInterrupted,
    TicketNeeded,
    TicketReceived,
)
from eloquent.protocol.handshake import ClientProtection
from eloquent.protocol.path import Address, Path
from eloquent.protocol.recovery import INITIAL_RTT
from eloquent.protocol.silence import RESUME_AFTER
from eloquent.protocol.streams import LogGroup, Stream
from eloquent.protocol.ticket import Ticket
from eloquent.protocol.wire import (
    CONNECTION_ID_SIZE,
    Header,
    Kind,
    RefusalCode,
    ResetCode,
    WireError,
    decode_header_untrusted,
)

LEAVING_PTOS = 3
"""PTOs for which a client that leaves waits for its STOPs to be answered (protocol 7)."""

RETRY_BUSY = 1.0
"""Seconds before a resumption that the server was too busy for is tried again (arbitrary)."""


class Dialer:
    """Connects, resumes, and keeps the streams while connections come and go.

    The driving contract is that of `Connection`. `remote` is the server's address as the driver's
    sockets want it.
    """

    def __init__(
        self,
        ticket: Ticket,
        remote: Hashable,
        *,
        settings: Settings = Settings(),
        entropy: Callable[[int], bytes],
        initial_rtt: float = INITIAL_RTT,
        now: float,
    ) -> None:
        self.group = LogGroup(b"", is_client=True)
        self.dropped = 0
        """Datagrams that were malformed, forged, repeated or of another connection."""
        self._settings = settings
        self._entropy = entropy
        self._initial_rtt = initial_rtt
        self._events: deque[Event] = deque()
        self._remote = remote
        self._sockets = 0
        self._resumption: Ticket | None = None
        self._attempt: Connection | None = None
        self._is_forced = False
        self._retry_at: float | None = None
        self._leaves_at: float | None = None
        self._has_rebound = False
        self.connection = self._connect(ticket, now)

    def open(self) -> Stream:
        """Open a stream: one turn of the conversation."""
        self._require_open()
        stream = self.group.open()
        for connection in self._connections():
            connection.attach(stream)
        return stream

    def forget(self, stream: Stream) -> None:
        """The application is done with a stream that has ended."""
        if not stream.is_open:
            self.group.forget(stream.id)

    def ping(self) -> None:
        """Ask the server for a word: it makes the connection where there is nothing else to send."""
        self._require_open()
        self.connection.composer.wants_ping = True

    def network_changed(self, remote: Hashable | None = None, *, now: float) -> None:
        """The device has another network (or the server another address): go on from a new socket."""
        self._require_open()
        if remote is not None:
            self._remote = remote
        if not self.connection.protection.is_confirmed or self._resumption is None:
            self._rebind(self.connection)
        else:
            self._is_forced = True
            self._start_attempt(self._resumption, now)

    def use_ticket(self, ticket: Ticket, remote: Hashable | None = None, *, now: float) -> None:
        """Go on with a new first-use ticket after `TicketNeeded` or after the connection has ended.

        Streams that the server has never heard of are sent again; the others are interrupted.
        """
        if remote is not None:
            self._remote = remote
        self._interrupt()
        self._resumption = self._attempt = None
        self._retry_at = self._leaves_at = None
        self._is_forced = self._has_rebound = False
        self.connection.drop(now=now)
        # The silence clock starts anew: a refusal is an answer too.
        self.connection = self._connect(ticket, now)
        for stream in self.group.streams.values():
            if stream.is_open:
                self.connection.attach(stream)

    def leave(self, *, now: float) -> None:
        """Close, after the server has had a chance to answer the STOPs."""
        if self.ended is None and self._leaves_at is None:
            self._leaves_at = now + LEAVING_PTOS * self.connection.recovery.rtt.pto
            self._leave_if_done(now)

    @property
    def ended(self) -> ConnectionEnded | None:
        return self.connection.ended

    @property
    def live_sockets(self) -> set[int]:
        """Numbers of the sockets that are still needed."""
        return {_socket_of(connection) for connection in self._connections()}

    def receive_datagram(self, data: bytes, address: Address, *, now: float) -> None:
        """Process one datagram; whatever the bytes, this leads to an event or a counted drop."""
        try:
            header = decode_header_untrusted(data)
        except WireError:
            self.dropped += 1
            return
        for connection in self._connections():
            if connection.protection.connection_id == header.connection_id:
                self._deliver(connection, header, data, address, now)
                break
        else:
            self.dropped += 1
        self._collect(now)

    def handle_timer(self, *, now: float) -> None:
        for connection in self._connections():
            connection.handle_timer(now=now)
        if self.ended is None:
            resume_at = self._resume_at()
            if resume_at is not None and resume_at <= now:
                self._resume(now)
            self._leave_if_done(now)
        self._collect(now)

    def datagrams_to_send(self, *, now: float) -> list[tuple[bytes, Address]]:
        out: list[tuple[bytes, Address]] = []
        for connection in self._connections():
            out += connection.datagrams_to_send(now=now)
        self._collect(now)
        return out

    def next_timer(self) -> float | None:
        deadlines = [connection.next_timer() for connection in self._connections()]
        if self.ended is None:
            deadlines += [self._resume_at(), self._leaves_at]
        return min([deadline for deadline in deadlines if deadline is not None], default=None)

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def _connections(self) -> list[Connection]:
        return [self.connection] if self._attempt is None else [self.connection, self._attempt]

    def _connect(self, ticket: Ticket, now: float) -> Connection:
        share = KeyShare(self._entropy(32))
        protection = ClientProtection(ticket, share, self._entropy(CONNECTION_ID_SIZE))
        return Connection(
            protection,
            self.group,
            self._next_address(),
            is_client=True,
            settings=self._settings,
            entropy=self._entropy,
            initial_rtt=self._initial_rtt,
            now=now,
        )

    def _next_address(self) -> Address:
        address = (self._sockets, self._remote)
        self._sockets += 1
        return address

    def _deliver(
        self, connection: Connection, header: Header, data: bytes, address: Address, now: float
    ) -> None:
        if header.kind == Kind.REFUSED:
            self._on_refused(connection, data, now)
        elif not connection.receive(header, data, address, now=now):
            self.dropped += 1
        elif connection is self.connection and not self._is_forced:
            # The old path answers again: there is nothing to resume.
            self._attempt = self._retry_at = None

    def _on_refused(self, connection: Connection, data: bytes, now: float) -> None:
        protection = connection.protection
        code = protection.open_refusal_untrusted(data) if isinstance(protection, ClientProtection) else None
        if code is None or connection.ended is not None:
            self.dropped += 1
            return
        if connection is self._attempt:
            self._attempt = None
            if code in (RefusalCode.BUSY, RefusalCode.SHUTDOWN):
                self._retry_at = now + RETRY_BUSY
                return
            self._resumption = None
            self._interrupt()
        connection.drop(now=now)
        connection.events.clear()
        self._events.append(TicketNeeded(code))

    def _interrupt(self) -> None:
        """The server has lost the logs; only what it never heard of can begin anew (protocol 7)."""
        for stream in list(self.group.streams.values()):
            if not stream.is_open or (not stream.outgoing.acked and not stream.incoming.highest):
                continue
            offset = stream.incoming.offset
            had_ended = stream.incoming.has_ended
            stream.incoming.cut(ResetCode.UNKNOWN_STREAM)
            self.group.forget(stream.id)
            if not had_ended:
                self._events.append(StreamInterrupted(stream, offset))
                self._events.append(StreamEnded(stream))

    def _resume_at(self) -> float | None:
        if self._attempt is not None:
            return None
        if self._retry_at is not None:
            return self._retry_at
        since = self.connection.silence.since
        if since is None:
            return None
        if not self.connection.protection.is_confirmed:
            return None if self._has_rebound else since + RESUME_AFTER
        return None if self._resumption is None else since + RESUME_AFTER

    def _resume(self, now: float) -> None:
        self._retry_at = None
        if not self.connection.protection.is_confirmed:
            self._has_rebound = True
            self._rebind(self.connection)
        elif self._resumption is not None:
            self._start_attempt(self._resumption, now)

    def _rebind(self, connection: Connection) -> None:
        """Send from a new socket, with the same keys and packet numbers."""
        connection.paths.active = Path(self._next_address(), is_validated=True)
        connection.composer.wants_ping = True

    def _start_attempt(self, ticket: Ticket, now: float) -> None:
        attempt = self._connect(ticket, now)
        attempt.delivery.is_muted = True
        attempt.delivery.resume()
        attempt.composer.wants_ping = True
        attempt.silence.inherit(self.connection.silence)
        self._attempt = attempt
        self._retry_at = None

    def _collect(self, now: float) -> None:
        """Take the connections' events; some of them change which connection is in use."""
        for connection in self._connections():
            while (event := connection.next_event()) is not None:
                self._on_event(connection, event, now)
        self.group.finished.clear()
        self._leave_if_done(now)

    def _on_event(self, connection: Connection, event: Event, now: float) -> None:
        if isinstance(event, TicketReceived):
            self._on_ticket(event)
        elif connection is self.connection:
            if isinstance(event, ConnectionEnded):
                # The server has not seen an attempt under way as confirmed: that takes our `c1`.
                self._attempt = None
            self._events.append(event)
        elif connection is self._attempt:
            if isinstance(event, Connected):
                self._take_over(connection, now)
            elif isinstance(event, ConnectionEnded):
                self._attempt = None
                self._is_forced = False

    def _take_over(self, attempt: Connection, now: float) -> None:
        previous = self.connection
        self.connection, self._attempt = attempt, None
        self._is_forced = False
        previous.drop(now=now)
        self._events.append(PathChanged(attempt.paths.active.address))
        self._events.append(Resumed(self.group.held()))

    def _on_ticket(self, event: TicketReceived) -> None:
        try:
            self._resumption = Ticket.from_bytes(event.ticket)
        except TicketError:
            self.dropped += 1

    def _leave_if_done(self, now: float) -> None:
        if self._leaves_at is None or self.ended is not None:
            return
        if now >= self._leaves_at or not any(stream.stop_wanted for stream in self.group.streams.values()):
            self.connection.close(now=now)

    def _require_open(self) -> None:
        ended = self.ended
        if ended is not None:
            raise UsageError(f"the connection has ended ({ended.reason or ended.by})")


def _socket_of(connection: Connection) -> int:
    address = connection.paths.active.address
    assert isinstance(address, tuple)
    number: int = address[0]
    return number
