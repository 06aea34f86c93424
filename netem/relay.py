"""A UDP relay that sits between real sockets and behaves like a scenario; it needs no root.

    client --> relay.address ==link up==> upstream socket of that client --> upstream
           <--               <==link down==                              <--

Every client address gets an upstream socket of its own, so that the server sees distinct peers as
it would behind a NAT. All clients share the two links, like phones behind one modem. The
scenario's time starts when the relay starts.

Datagrams wait in one heap with one timer of the event loop. Plain call_at() for each would not do:
asyncio does not keep the order of timers with equal times. Reads drain the socket on every
wake-up, because a burst overruns the kernel's buffer otherwise.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from types import TracebackType
from typing import Any, Self

from eloquent.errors import UsageError
from netem.link import Link, LinkCounts
from netem.scenario import Scenario

_READS_PER_WAKE_UP = 64  # arbitrary; leaves room for timers between two batches
_BUFFER_BYTES = 4 << 20  # asks for more than the kernel's usual limit, which then applies
_MAX_DATAGRAM_BYTES = 65_535

SocketAddress = Any
"""An address as the socket module has it, whose form depends on the family."""


class _Delays:
    """Datagrams that wait: sent in order of time, and of addition where times are equal."""

    __slots__ = ("_clock", "_order", "_timer", "_waiting")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, int, socket.socket, bytes, SocketAddress]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, at: float, through: socket.socket, payload: bytes, address: SocketAddress) -> None:
        entry = (at, next(self._order), through, payload, address)
        heappush(self._waiting, entry)
        if self._waiting[0] is entry:
            self._set_timer()

    def cancel(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        at = self._waiting[0][0]
        delay = max(0.0, at - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay, self._send_due, at)

    def _send_due(self, deadline: float) -> None:
        self._timer = None
        # uvloop's timers can fire 0.4 ms early; what this one was set for is due all the same.
        now = max(self._clock(), deadline)
        while self._waiting and self._waiting[0][0] <= now:
            _, _, through, payload, address = heappop(self._waiting)
            with suppress(OSError):  # a full buffer, an unreachable peer: networks drop silently
                through.sendto(payload, address)
        if self._waiting:
            self._set_timer()


class Relay:
    """Relays datagrams to `upstream` through `scenario`; use it as an async context manager.

    `upstream` is host and port, as in socket addresses. `port` 0 takes a free one. Raises
    ConfigurationError where the scenario has cross traffic, and OSError on entry where the address
    cannot be bound or found.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        scenario: Scenario,
        *,
        seed: int,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        scenario.check_simulated()
        self._upstream = upstream
        self._host = host
        self._port = port
        self._up = Link(scenario, "up", seed=seed)
        self._down = Link(scenario, "down", seed=seed)
        self._delays = _Delays(self._now)
        self._started_at = 0.0
        self._socket: socket.socket | None = None
        self._family = socket.AF_INET
        self._upstream_address: SocketAddress = None
        self._upstream_sockets: dict[SocketAddress, socket.socket] = {}

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(*self._upstream, type=socket.SOCK_DGRAM)
        self._family, _, _, _, self._upstream_address = found[0]
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        family, _, _, _, address = found[0]
        self._socket = _open_socket(family)
        try:
            self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        self._started_at = time.monotonic()
        loop.add_reader(self._socket, self._read_clients, self._socket)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        self._delays.cancel()
        for each in (self._socket, *self._upstream_sockets.values()):
            loop.remove_reader(each)
            each.close()
        self._socket = None
        self._upstream_sockets.clear()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to which clients send."""
        if self._socket is None:
            raise UsageError("the relay has no address outside of its 'async with' block")
        host, port, *_ = self._socket.getsockname()
        return host, port

    @property
    def up(self) -> LinkCounts:
        """The fates of datagrams from clients to upstream."""
        return self._up.counts

    @property
    def down(self) -> LinkCounts:
        """The fates of datagrams from upstream to clients."""
        return self._down.counts

    def _now(self) -> float:
        return time.monotonic() - self._started_at

    def _read_clients(self, listener: socket.socket) -> None:
        for payload, client in _read_waiting(listener):
            upstream = self._upstream_sockets.get(client) or self._open_upstream(client, listener)
            self._pass(self._up, payload, upstream, self._upstream_address)

    def _read_upstream(self, upstream: socket.socket, listener: socket.socket, client: SocketAddress) -> None:
        for payload, sender in _read_waiting(upstream):
            if sender == self._upstream_address:
                self._pass(self._down, payload, listener, client)

    def _open_upstream(self, client: SocketAddress, listener: socket.socket) -> socket.socket:
        opened = self._upstream_sockets[client] = _open_socket(self._family)
        loop = asyncio.get_running_loop()
        loop.add_reader(opened, self._read_upstream, opened, listener, client)
        return opened

    def _pass(self, link: Link, payload: bytes, through: socket.socket, address: SocketAddress) -> None:
        for at, delivered in link.send(payload, now=self._now()):
            self._delays.add(at, through, delivered, address)


def _open_socket(family: int) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return opened


def _read_waiting(source: socket.socket) -> list[tuple[bytes, SocketAddress]]:
    waiting: list[tuple[bytes, SocketAddress]] = []
    with suppress(OSError):  # nothing waits, or an ICMP error of an earlier datagram
        while len(waiting) < _READS_PER_WAKE_UP:
            waiting.append(source.recvfrom(_MAX_DATAGRAM_BYTES))
    return waiting
