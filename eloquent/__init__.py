"""The transport: a token stream over UDP in which every datagram can be rendered by itself.

    async with eloquent.serve(answer, "127.0.0.1", 4433) as server:
        ticket = server.issue({"sub": "alice"})

    async with eloquent.connect(ticket) as connection:
        async with connection.ask("Why is the sky blue?") as reply:
            async for text in reply.text(): ...

Errors are in `eloquent.errors`, the events of an answer in `eloquent.protocol.content`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eloquent.answer import ServerStream as ServerStream
    from eloquent.client import Connection as Connection
    from eloquent.client import Status as Status
    from eloquent.client import connect as connect
    from eloquent.protocol.admission import Limits as Limits
    from eloquent.protocol.connection import Settings as Settings
    from eloquent.protocol.ticket import KeyRing as KeyRing
    from eloquent.protocol.ticket import Ticket as Ticket
    from eloquent.protocol.ticket import TicketIssuer as TicketIssuer
    from eloquent.reply import Reply as Reply
    from eloquent.server import Server as Server
    from eloquent.server import serve as serve

_HOMES = {
    "Connection": "eloquent.client",
    "KeyRing": "eloquent.protocol.ticket",
    "Limits": "eloquent.protocol.admission",
    "Reply": "eloquent.reply",
    "Server": "eloquent.server",
    "ServerStream": "eloquent.answer",
    "Settings": "eloquent.protocol.connection",
    "Status": "eloquent.client",
    "Ticket": "eloquent.protocol.ticket",
    "TicketIssuer": "eloquent.protocol.ticket",
    "connect": "eloquent.client",
    "serve": "eloquent.server",
}
"""Where each public name lives: loaded when it is used, so that a client loads no server."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'eloquent' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
