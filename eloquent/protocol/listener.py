"""The server's side of one UDP socket: many connections, and the log groups behind them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from eloquent.protocol.admission import Admission, FlightKey, Limits
from eloquent.protocol.connection import Connection, Settings
from eloquent.protocol.crypto import KeyShare
from eloquent.protocol.events import Connected, ConnectionEnded, Event, StreamAbandoned
from eloquent.protocol.handshake import FirstFlight, ServerProtection
from eloquent.protocol.path import Address
from eloquent.protocol.streams import LogGroup
from eloquent.protocol.ticket import OpenedTicket, TicketIssuer, TicketKind
from eloquent.protocol.timers import TimerQueue
from eloquent.protocol.wire import (
    CONNECTION_ID_SIZE,
    REFUSAL_NONCE_SIZE,
    CloseCode,
    Header,
    Kind,
    RefusalCode,
    ResetCode,
    WireError,
    decode_header_untrusted,
    split_initial_untrusted,
)

GRACE = 120.0
"""Seconds that a generation goes on without a client (protocol 7)."""

ATTEMPT_LIFETIME = 10.0
"""Seconds after which a resumption that was never confirmed is dropped."""

RESUMPTION_LIFETIME = 86_400.0
"""Seconds for which a resumption ticket can be presented; the log itself goes much earlier."""

SWEEP_INTERVAL = 1.0

# Reading a member from its class takes 0.1 us in Python 3.11.
_DATA, _INITIAL = Kind.DATA, Kind.INITIAL


class LogStore(Protocol):
    """Where log groups wait for a resumption."""

    retention: float

    @property
    def kept_bytes(self) -> int: ...
    @property
    def kept_groups(self) -> int: ...
    def add(self, group: LogGroup) -> None: ...
    def get(self, group_id: bytes) -> LogGroup | None: ...
    def detach(self, group: LogGroup, *, now: float) -> None: ...
    def retain(self, group: LogGroup) -> None: ...
    def expire(self, *, now: float) -> None: ...
    def running(self, *, detached_before: float) -> list[LogGroup]: ...


class Listener:
    """Accepts connections; the driving contract is that of `Connection`, over all of them.

    `wall_offset` is wall time minus the driver's clock, in seconds; the driver keeps it right.
    """

    def __init__(
        self,
        issuer: TicketIssuer,
        store: LogStore,
        *,
        worker: int = 0,
        settings: Settings = Settings(),
        limits: Limits = Limits(),
        clock_skew: float = 0.0,
        wall_offset: float,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._issuer = issuer
        self._store = store
        self._worker = worker
        self._settings = settings
        self._limits = limits
        self._entropy = entropy
        self.wall_offset = wall_offset
        self.dropped: Counter[str] = Counter()
        """Datagrams that were dropped, by reason."""
        self.refused: Counter[str] = Counter()
        self._admission = Admission(
            limits, worker=worker, clock_skew=clock_skew, wall_now=lambda at: at + self.wall_offset, now=now
        )
        self._by_id: dict[bytes, Connection] = {}
        self._by_flight: dict[FlightKey, Connection] = {}
        self._owners: dict[LogGroup, Connection] = {}
        self._unconfirmed: dict[Connection, OpenedTicket] = {}
        self._timers = TimerQueue()
        self._dirty: dict[Connection, None] = {}
        self._replies: list[tuple[bytes, Address]] = []
        self._events: deque[tuple[LogGroup, Event]] = deque()
        self._finished: deque[tuple[float, LogGroup, int]] = deque()
        self._sweep_at: float | None = None

    def receive_datagram(self, data: bytes, address: Address, *, now: float) -> None:
        """Process one datagram; whatever the bytes, this leads to an event or a counted drop."""
        try:
            header = decode_header_untrusted(data)
            if header.kind == _DATA:
                connection = self._by_id.get(header.connection_id)
                if connection is None:
                    self.dropped["unknown connection"] += 1
                else:
                    self._deliver(connection, header, data, address, now)
            elif header.kind == _INITIAL:
                self._on_initial_untrusted(header, data, address, now)
            else:
                self.dropped["unexpected kind"] += 1
        except WireError:
            self.dropped["malformed"] += 1

    def handle_timer(self, *, now: float) -> None:
        for connection in self._timers.pop_due(now=now):
            connection.handle_timer(now=now)
            self._dirty[connection] = None
        if self._sweep_at is not None and self._sweep_at <= now:
            self._sweep(now)

    def datagrams_to_send(self, *, now: float) -> list[tuple[bytes, Address]]:
        out, self._replies = self._replies, []
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for connection in dirty:
                # Events first: they may make another connection speak, or this one end.
                if connection.events:
                    self._collect(connection, now)
                out += connection.datagrams_to_send(now=now)
                if connection.events:
                    self._collect(connection, now)
                self._timers.schedule(connection)
        return out

    def next_timer(self) -> float | None:
        at = self._timers.next_at()
        if at is None or (self._sweep_at is not None and self._sweep_at < at):
            return self._sweep_at
        return at

    def next_event(self) -> tuple[LogGroup, Event] | None:
        """The next event and the group that it is about."""
        return self._events.popleft() if self._events else None

    def touch(self, group: LogGroup) -> None:
        """The application wrote to, read from or ended a stream of this group."""
        owner = self._owners.get(group)
        if owner is not None:
            self._dirty[owner] = None
        for connection in self._unconfirmed:
            if connection.group is group:
                self._dirty[connection] = None

    def owner(self, group: LogGroup) -> Connection | None:
        """The connection that a group is attached to now."""
        return self._owners.get(group)

    @property
    def groups(self) -> list[LogGroup]:
        """Groups that a connection serves now."""
        return list(self._owners)

    @property
    def connection_count(self) -> int:
        return len(self._by_id)

    @property
    def has_unacked(self) -> bool:
        """Whether any log of a connected client has an end that is not acknowledged."""
        return any(
            connection.delivery.active for connection in self._by_id.values() if connection.ended is None
        )

    def refuse_new(self) -> None:
        """Take no more connections: the server is about to stop."""
        self._admission.is_closed = True

    def close(self, code: int = CloseCode.SHUTDOWN, reason: str = "the server stops", *, now: float) -> None:
        """End all connections, telling the clients."""
        self.refuse_new()
        for connection in list(self._by_id.values()):
            connection.close(code, reason, now=now)
            self._dirty[connection] = None

    def _deliver(
        self, connection: Connection, header: Header, data: bytes, address: Address, now: float
    ) -> None:
        if connection.receive(header, data, address, now=now):
            self._dirty[connection] = None
        else:
            self.dropped["forged or repeated"] += 1

    def _on_initial_untrusted(self, header: Header, data: bytes, address: Address, now: float) -> None:
        sealed, share, _ = split_initial_untrusted(data)
        ticket = self._issuer.open_untrusted(sealed)
        if ticket is None:
            self.dropped["foreign ticket"] += 1
            return
        known = self._by_flight.get((ticket.id, share))
        if known is not None:
            # Same ticket and same share: the reply was lost, whatever the ticket's age is by now.
            self._deliver(known, header, data, address, now)
            return
        first = FirstFlight(header, data, ticket)
        code = self._refusal(ticket, now)
        group = None
        if code is None and ticket.kind is TicketKind.RESUMPTION:
            group = self._store.get(ticket.group)
            code = RefusalCode.UNKNOWN_LOG if group is None else None
        if code is not None:
            self.refused[code.name.lower()] += 1
            self._replies.append((first.refusal(code, self._entropy(REFUSAL_NONCE_SIZE)), address))
            return
        self._accept(header, data, address, ticket, first, group, now)

    def _refusal(self, ticket: OpenedTicket, now: float) -> RefusalCode | None:
        attempts = sum(other.id == ticket.id for other in self._unconfirmed.values())
        return self._admission.refusal(
            ticket,
            connections=len(self._by_id),
            handshakes=len(self._unconfirmed),
            attempts=attempts if ticket.kind is TicketKind.RESUMPTION else 0,
            kept_bytes=self._store.kept_bytes,
            now=now,
        )

    def _accept(
        self,
        header: Header,
        data: bytes,
        address: Address,
        ticket: OpenedTicket,
        first: FirstFlight,
        group: LogGroup | None,
        now: float,
    ) -> None:
        self._admission.record(ticket, now=now)
        self._sweep_at = self._sweep_at or now + SWEEP_INTERVAL
        connection_id = self._draw_connection_id()
        share = KeyShare(self._entropy(32))
        protection = ServerProtection(ticket, first, share, connection_id, now=now)
        is_new = group is None
        if group is None:
            group = LogGroup(
                self._entropy(16), is_client=False, claims=ticket.claims, max_streams=self._limits.streams
            )
            self._store.add(group)
        connection = Connection(
            protection,
            group,
            address,
            is_client=False,
            settings=self._settings,
            entropy=self._entropy,
            now=now,
        )
        connection.flight = (ticket.id, first.client_share)
        self._by_id[connection_id] = connection
        self._by_flight[connection.flight] = connection
        self._unconfirmed[connection] = ticket
        if is_new:
            self._owners[group] = connection
        self._deliver(connection, header, data, address, now)

    def _draw_connection_id(self) -> bytes:
        while True:
            # The first two bytes name the worker, so that a load balancer can route.
            drawn = self._worker.to_bytes(2, "big") + self._entropy(CONNECTION_ID_SIZE - 2)
            if drawn not in self._by_id:
                return drawn

    def _collect(self, connection: Connection, now: float) -> None:
        group = connection.group
        while (event := connection.next_event()) is not None:
            if isinstance(event, Connected):
                self._on_connected(connection, now)
            elif isinstance(event, ConnectionEnded):
                was_owner = self._owners.get(group) is connection
                self._on_ended(connection, event, now)
                if not was_owner:
                    continue
            self._events.append((group, event))

    def _on_connected(self, connection: Connection, now: float) -> None:
        """The client has shown `c1`: it owns the group from here on (protocol 7, takeover)."""
        self._unconfirmed.pop(connection, None)
        group = connection.group
        owner = self._owners.get(group)
        if owner is not None and owner.created_at > connection.created_at:
            connection.close(CloseCode.SUPERSEDED, "a newer connection has taken over", now=now)
            return
        if owner is not None and owner is not connection:
            self._owners[group] = connection
            owner.close(CloseCode.SUPERSEDED, "a newer connection has taken over", now=now)
            self._dirty[owner] = None
        connection.delivery.take_over()
        self._owners[group] = connection
        self._store.add(group)  # It may have expired while the client was on its way.
        self._store.retain(group)
        ticket = self._issuer.issue_resumption(
            group.id, group.claims, RESUMPTION_LIFETIME, wall_now=now + self.wall_offset
        )
        connection.send_ticket(ticket.to_bytes())
        self._dirty[connection] = None

    def _on_ended(self, connection: Connection, event: ConnectionEnded, now: float) -> None:
        self._unconfirmed.pop(connection, None)
        group = connection.group
        if self._owners.get(group) is connection:
            del self._owners[group]
            self._store.detach(group, now=now)
            if event.by == "silence":
                # The grace period ran while the client was silent.
                self._abandon(group)

    def _sweep(self, now: float) -> None:
        """Let go what is over."""
        self._admission.forget_expired(now=now)
        for connection, ticket in list(self._unconfirmed.items()):
            if ticket.kind is TicketKind.RESUMPTION and now - connection.created_at >= ATTEMPT_LIFETIME:
                connection.drop(now=now)
                self._dirty[connection] = None
        for connection in list(self._by_id.values()):
            if connection.gone_at is not None and connection.gone_at <= now:
                self._forget(connection)
        for group in self._store.running(detached_before=now - GRACE):
            self._abandon(group)
        self._forget_finished(now)
        self._store.expire(now=now)
        has_state = self._by_id or self._store.kept_groups or self._admission.remembered
        self._sweep_at = now + SWEEP_INTERVAL if has_state else None

    def _forget(self, connection: Connection) -> None:
        self._by_id.pop(connection.protection.connection_id, None)
        if connection.flight is not None:
            self._by_flight.pop(connection.flight, None)
        self._timers.remove(connection)

    def _abandon(self, group: LogGroup) -> None:
        """Nobody came back: end what still runs, so that the GPU is free."""
        for stream in group.streams.values():
            if not stream.outgoing.has_ended:
                stream.reset(ResetCode.ABORTED)
                self._events.append((group, StreamAbandoned(stream)))

    def _forget_finished(self, now: float) -> None:
        for group in self._owners:
            self._finished += [(now, group, stream_id) for stream_id in group.finished]
            group.finished.clear()
        while self._finished and self._finished[0][0] <= now - self._store.retention:
            _, group, stream_id = self._finished.popleft()
            group.forget(stream_id)
