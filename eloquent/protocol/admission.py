"""Which first flights a server takes (protocol 6): expiry, single use, limits.

First-use tickets work once. A worker remembers the ids that it has seen until they expire, and
refuses tickets that were issued before its own start, since a restart forgets ids.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from eloquent.protocol.ticket import OpenedTicket, TicketKind
from eloquent.protocol.wire import RefusalCode

REMEMBER_AFTER_EXPIRY = 5.0
"""Seconds that a used ticket's id is kept beyond its lifetime."""

MAX_ATTEMPTS = 2
"""Unvalidated connections per resumption ticket."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on; beyond it, clients get REFUSED(BUSY)."""

    connections: int = 20_000
    handshakes: int = 2_000
    """Connections whose client has not yet proved itself."""
    streams: int = 100
    """Open streams per connection."""
    kept_bytes: int = 1024 * 1024 * 1024
    """Bytes of all logs that are kept for resumption."""


class Admission:
    """Decides about first flights; owns the memory of used tickets."""

    __slots__ = ("_clock_skew", "_limits", "_started_at", "_used", "_wall_now", "_worker", "is_closed")

    def __init__(
        self,
        limits: Limits,
        *,
        worker: int,
        clock_skew: float,
        wall_now: Callable[[float], float],
        now: float,
    ) -> None:
        self._limits = limits
        self._worker = worker
        self._clock_skew = clock_skew
        self._wall_now = wall_now
        self._started_at = wall_now(now)
        self._used: dict[bytes, float] = {}
        self.is_closed = False

    def refusal(
        self,
        ticket: OpenedTicket,
        *,
        connections: int,
        handshakes: int,
        attempts: int,
        kept_bytes: int,
        now: float,
    ) -> RefusalCode | None:
        """Why this ticket is refused; None where it is taken. `attempts`: unvalidated ones on it."""
        if ticket.kind is TicketKind.FIRST_USE and ticket.worker != self._worker:
            return RefusalCode.FOREIGN
        if self._wall_now(now) > ticket.issued_at + ticket.lifetime_s:
            return RefusalCode.EXPIRED
        if ticket.kind is TicketKind.FIRST_USE:
            if ticket.id in self._used:
                return RefusalCode.USED
            if ticket.issued_at < self._started_at + self._clock_skew:
                return RefusalCode.EXPIRED
        elif attempts >= MAX_ATTEMPTS:
            return RefusalCode.BUSY
        if self.is_closed:
            return RefusalCode.SHUTDOWN
        limits = self._limits
        if (
            connections >= limits.connections
            or handshakes >= limits.handshakes
            or kept_bytes >= limits.kept_bytes
        ):
            return RefusalCode.BUSY
        return None

    def record(self, ticket: OpenedTicket, *, now: float) -> None:
        """Remember that a first-use ticket was used."""
        if ticket.kind is TicketKind.FIRST_USE:
            left = ticket.issued_at + ticket.lifetime_s - self._wall_now(now)
            self._used[ticket.id] = now + left + REMEMBER_AFTER_EXPIRY

    def forget_expired(self, *, now: float) -> None:
        for ticket_id in [ticket_id for ticket_id, until in self._used.items() if until <= now]:
            del self._used[ticket_id]

    @property
    def remembered(self) -> int:
        """Tickets whose use is remembered."""
        return len(self._used)


FlightKey = tuple[bytes, Hashable]
"""Ticket id and client share: what makes two first flights the same attempt."""
