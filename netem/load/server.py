"""The server's process of a run under load: the real one, a plain sender, or tokens that go nowhere."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import cast

import eloquent
from eloquent.endpoint import BUFFER_SIZE
from netem.load.plan import Load, Orders, pin, tokens

PLAIN_HEAD = struct.Struct(">IQ")
"""Stream and number of a plain sender's token; the rest of its datagram is zeros."""

PLAIN_HELLO = struct.Struct(">I")
"""Number of a connection: how a plain sender learns where to send; it gives the same bytes back."""

TICKET_LIFETIME_S = 600.0
"""Long enough for all connections of a run to be made on a busy machine."""


def _new_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # not everywhere: it is no part of the installation on Windows

    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": _new_uvloop,
}


async def _serve_eloquent(load: Load, pipe: Connection) -> None:
    orders = Orders(pipe)

    async def answer(stream: eloquent.ServerStream) -> None:
        number = await stream.prompt()
        assert isinstance(number, str)
        start = await asyncio.shield(orders.start)
        async for token in tokens(load, int(number), start):
            orders.tokens += 1
            await stream.send(token)

    keys = eloquent.KeyRing.generate(os.urandom)
    async with eloquent.serve(
        answer, "127.0.0.1", 0, keys=keys, ticket_lifetime_s=TICKET_LIFETIME_S
    ) as server:
        pipe.send((server.address, [server.issue() for _ in range(load.connections)]))
        await orders.stop.wait()
        await server.close(grace_s=0.0)


class _PlainPeer(asyncio.DatagramProtocol):
    """Where a plain sender's clients are."""

    def __init__(self) -> None:
        self.addresses: dict[int, tuple[str, int]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own is no subclass of DatagramTransport before Python 3.13.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(data) == PLAIN_HELLO.size:
            self.addresses[PLAIN_HELLO.unpack(data)[0]] = addr
            self._transport.sendto(data, addr)


async def _send_plain(load: Load, pipe: Connection) -> None:
    """Each token is one datagram on asyncio's own transport, without protocol or encryption."""
    orders = Orders(pipe)
    loop = asyncio.get_running_loop()
    peer = _PlainPeer()
    transport, _ = await loop.create_datagram_endpoint(lambda: peer, local_addr=("127.0.0.1", 0))
    udp = transport.get_extra_info("socket")
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_SIZE)
    padding = bytes(max(load.datagram_size - PLAIN_HEAD.size, 0))

    async def answer(stream: int) -> None:
        start = await asyncio.shield(orders.start)
        address = peer.addresses[stream // load.streams_per_connection]
        number = 0
        async for _ in tokens(load, stream, start):
            orders.tokens += 1
            transport.sendto(PLAIN_HEAD.pack(stream, number) + padding, address)
            number += 1

    await _run_all(load, answer, orders, ready=(transport.get_extra_info("sockname"), []), pipe=pipe)
    transport.close()


async def _generate_only(load: Load, pipe: Connection) -> None:
    orders = Orders(pipe)

    async def answer(stream: int) -> None:
        start = await asyncio.shield(orders.start)
        async for _ in tokens(load, stream, start):
            orders.tokens += 1

    await _run_all(load, answer, orders, ready=None, pipe=pipe)


async def _run_all(
    load: Load,
    answer: Callable[[int], Coroutine[None, None, None]],
    orders: Orders,
    *,
    ready: object,
    pipe: Connection,
) -> None:
    tasks = [asyncio.create_task(answer(stream)) for stream in range(load.streams)]
    pipe.send(ready)
    await orders.stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


SERVERS: dict[str, Callable[[Load, Connection], Coroutine[None, None, None]]] = {
    "eloquent": _serve_eloquent,
    "plain": _send_plain,
    "generator": _generate_only,
}


def run_server(kind: str, loop: str, load: Load, pipe: Connection) -> None:
    """The process's whole life: one of `SERVERS` on one of `LOOPS`, told by `pipe` what to do."""
    pin(0)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(SERVERS[kind](load, pipe))
