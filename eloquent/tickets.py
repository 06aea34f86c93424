"""Where a client's tickets come from."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from eloquent.errors import ConfigurationError, ConnectTimeout
from eloquent.protocol.ticket import Ticket

TicketLike = Ticket | str | bytes
"""A ticket, its text, or its binary form."""

TicketSource = TicketLike | Callable[[], Awaitable[TicketLike]]
"""A ticket, or an async function that gets one, called again whenever a new one is needed."""

_FIRST_BINARY = 0x80
"""Binary tickets begin with a MessagePack array, which is above all ASCII."""


class Tickets:
    """Gets tickets from a source; raises ConfigurationError for what is none."""

    def __init__(self, source: TicketSource) -> None:
        self._fetch: Callable[[], Awaitable[TicketLike]] | None = None
        self._fixed: Ticket | None = None
        if isinstance(source, (Ticket, str, bytes)):
            self._fixed = read_ticket(source)
        elif callable(source):
            self._fetch = source
        else:
            raise ConfigurationError(
                f"a ticket, or an async function that gets one, is expected, not {type(source).__name__}"
            )

    @property
    def is_renewable(self) -> bool:
        """Whether there can be another ticket after the first one: it works once."""
        return self._fetch is not None

    async def get(self, *, timeout: float) -> Ticket:
        """A ticket; what the application's own function raises passes through.

        Raises ConnectTimeout where none comes within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout) as scope:
                return await self._get()
        except TimeoutError:
            if scope.expired():
                raise ConnectTimeout(f"no ticket came within {timeout:g} s") from None
            raise

    async def _get(self) -> Ticket:
        if self._fetch is None:
            assert self._fixed is not None
            return self._fixed
        waiting = self._fetch()
        if not inspect.isawaitable(waiting):
            raise ConfigurationError(
                f"the function that gets tickets must be async; it returned {type(waiting).__name__}"
            )
        return read_ticket(await waiting)


def read_ticket(ticket: object) -> Ticket:
    """A ticket in any of its forms; raises TicketError for what is none."""
    if isinstance(ticket, Ticket):
        return ticket
    if isinstance(ticket, bytes) and ticket and ticket[0] >= _FIRST_BINARY:
        return Ticket.from_bytes(ticket)
    return Ticket.decode(ticket)  # type: ignore[arg-type]  # It refuses other types itself.
