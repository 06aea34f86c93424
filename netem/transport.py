"""How the tokens of one answer travel: what every side of a race has to do, and Eloquent's way."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from eloquent.answer import ServerStream
from eloquent.client import connect
from eloquent.protocol.connection import Settings
from eloquent.protocol.send import Policy
from eloquent.protocol.ticket import Address, KeyRing, TicketIssuer
from eloquent.server import serve

PROMPT = "Why is the sky blue?"

CONNECT_TIMEOUT_S = 60.0
"""However bad the link: what is compared comes after."""

Answer = Callable[[], AsyncIterator[str]]
"""Called when the question is here; yields the tokens as the model makes them."""


class Transport(Protocol):
    """A server and a client; each runs on an event loop of its own."""

    def serve(self, answer: Answer, host: str) -> AbstractAsyncContextManager[Address]:
        """Serve one answer on a free port; gives host and port."""
        ...

    def ask(self, address: Address) -> AsyncGenerator[str, None]:
        """Ask there, and yield each token as soon as it could be shown.

        Ends when the answer is complete; raises ConnectError or StreamError where it is not.
        """
        ...


class UdpTransport:
    """Eloquent's client and server, both with the same policy."""

    def __init__(self, policy: Policy) -> None:
        self._settings = Settings(policy=policy)
        self._keys = KeyRing.generate(os.urandom)

    @contextlib.asynccontextmanager
    async def serve(self, answer: Answer, host: str) -> AsyncIterator[Address]:
        """See Transport."""

        async def handle(stream: ServerStream) -> AsyncIterator[str]:
            await stream.prompt()
            async for token in answer():
                yield token

        async with serve(handle, host, 0, keys=self._keys, settings=self._settings) as server:
            try:
                yield server.address
            finally:
                # The client is gone, with what was on its way: there is nothing to wait for.
                await server.close(grace_s=0.0)

    async def ask(self, address: Address) -> AsyncGenerator[str, None]:
        """See Transport."""
        ticket = TicketIssuer(self._keys, ipv4=address, entropy=os.urandom).issue(wall_now=time.time())
        async with (
            connect(ticket, settings=self._settings, timeout=CONNECT_TIMEOUT_S) as connection,
            connection.ask(PROMPT) as reply,
        ):
            async for text in reply.text():
                yield text
