"""UDP sockets and the timer that drive a sans-IO core on an event loop.

A socket is drained on each wake-up rather than read one datagram at a time: of a burst of 60,000
the stock `DatagramProtocol` kept 2,014, a drained socket all. The core is drained once for all of
them, and once per loop iteration for all that the application wrote in it.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Protocol

READS_PER_WAKE_UP = 64
"""Datagrams after which timers and tasks get their turn."""

RECEIVE_SIZE = 2048
"""Bytes; a datagram is at most 1200, and a longer one that was cut does not authenticate."""

BUFFER_SIZE = 4 * 1024 * 1024
"""Bytes to ask the kernel for; its own limit applies where that is lower."""

MIN_INTERVAL = 0.001
"""Seconds from one drain of a core to the next for what the application has written and for timers.
Connections then share a drain, and code that runs for one after the other stays in the processor's
caches: 200 streams at 50 tok/s took 62 instead of 80 us per token, with uvloop 60 instead of 70.
What comes after a pause, such as a first token, does not wait."""

MAX_WAITING = 256
"""Datagrams that wait for room in the kernel; arbitrary, as beyond it the oldest are lost anyway."""

# The `socket` module has no names for these before Python 3.14; the values are those of <linux/in.h>
# and <linux/in6.h>. PROBE sets don't-fragment and, unlike DO, believes no ICMP that anyone could
# have sent: every datagram is small enough for a path that carries the protocol at all.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3

SocketAddress = Any
"""An address as the socket module has it, whose form depends on the family."""

Datagrams = list[tuple[bytes, SocketAddress]]


class Core(Protocol):
    """What a `Listener` and a `Dialer` have in common."""

    def receive_datagram(self, data: bytes, address: Hashable, *, now: float) -> None: ...
    def handle_timer(self, *, now: float) -> None: ...
    def datagrams_to_send(self, *, now: float) -> list[tuple[bytes, Hashable]]: ...
    def next_timer(self) -> float | None: ...


def configure(udp: socket.socket) -> None:
    """Make a UDP socket non-blocking, with large buffers and don't-fragment where they can be had."""
    udp.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with suppress(OSError):
            udp.setsockopt(socket.SOL_SOCKET, option, BUFFER_SIZE)
    if sys.platform == "linux":
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        if udp.family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)


class UdpSocket:
    """A configured UDP socket on the running loop, closed with `close`.

    `on_datagrams` gets what each wake-up has read; `on_error` every error of the socket. No error
    is raised, as networks lose datagrams in any case: `errors` counts them by name.
    """

    __slots__ = ("_loop", "_on_datagrams", "_on_error", "_udp", "_waiting", "errors")

    def __init__(
        self,
        udp: socket.socket,
        on_datagrams: Callable[[Datagrams], None],
        *,
        on_error: Callable[[OSError], None] | None = None,
    ) -> None:
        self._udp = udp
        self._on_datagrams = on_datagrams
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, SocketAddress]] = deque()
        self.errors: Counter[str] = Counter()
        """Errors by name (ENETUNREACH...); "queue full" counts datagrams lost for want of room."""
        self._loop.add_reader(udp, self._read)

    def send(self, data: bytes, address: SocketAddress) -> None:
        """Send a datagram, now or as soon as the kernel has room. A connected socket needs no address."""
        if self._waiting or not self._transmit(data, address):
            self._queue(data, address)

    def close(self) -> None:
        self._loop.remove_reader(self._udp)
        if self._waiting:
            self._loop.remove_writer(self._udp)
            self._waiting.clear()
        self._udp.close()

    @property
    def local_address(self) -> SocketAddress:
        return self._udp.getsockname()

    def _transmit(self, data: bytes, address: SocketAddress) -> bool:
        """False where the kernel has no room."""
        try:
            if address is None:
                self._udp.send(data)
            else:
                self._udp.sendto(data, address)
        except BlockingIOError:
            return False
        except OSError as error:
            self._count(error)
        return True

    def _queue(self, data: bytes, address: SocketAddress) -> None:
        if not self._waiting:
            self._loop.add_writer(self._udp, self._write_waiting)
        elif len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.errors["queue full"] += 1
        self._waiting.append((data, address))

    def _write_waiting(self) -> None:
        while self._waiting and self._transmit(*self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting:
            self._loop.remove_writer(self._udp)

    def _read(self) -> None:
        datagrams: Datagrams = []
        for _ in range(READS_PER_WAKE_UP):
            try:
                datagrams.append(self._udp.recvfrom(RECEIVE_SIZE))
            except BlockingIOError:
                break
            except OSError as error:
                # An ICMP error for an earlier datagram; what waits behind it can be read all the same.
                self._count(error)
                if self._udp.fileno() < 0:
                    return
        if datagrams:
            self._on_datagrams(datagrams)

    def _count(self, error: OSError) -> None:
        self.errors[errno.errorcode.get(error.errno or 0, "unknown")] += 1
        if self._on_error is not None:
            self._on_error(error)


class Driver:
    """Feeds a core and sends what it has to say.

    `send` gets each datagram; `on_drained` is called after each drain, to take the core's events.
    """

    __slots__ = (
        "_core",
        "_drained_at",
        "_is_closed",
        "_is_woken",
        "_loop",
        "_on_drained",
        "_send",
        "_timer",
        "_timer_at",
    )

    def __init__(
        self, core: Core, *, send: Callable[[bytes, Any], None], on_drained: Callable[[float], None]
    ) -> None:
        self._core = core
        self._send = send
        self._on_drained = on_drained
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._drained_at = -math.inf
        self._is_woken = False
        self._is_closed = False

    def receive(self, datagrams: Datagrams, *, now: float) -> None:
        """Process what a socket has read."""
        receive = self._core.receive_datagram
        for data, address in datagrams:
            receive(data, address, now=now)
        self._drain(now)

    def wake(self) -> None:
        """The application gave the core a command: drain it soon, once for all that is written until then."""
        if self._is_woken:
            return
        self._is_woken = True
        wait = self._drained_at + MIN_INTERVAL - time.monotonic()
        if wait > 0.0:
            self._loop.call_later(wait, self.flush)
        else:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Drain the core at once."""
        self._is_woken = False
        if not self._is_closed:
            self._drain(time.monotonic())

    def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _drain(self, now: float) -> None:
        self._drained_at = now
        try:
            for data, address in self._core.datagrams_to_send(now=now):
                self._send(data, address)
            self._on_drained(now)
        finally:
            # Also after a bug in the core: the other connections go on.
            self._arm(now)

    def _arm(self, now: float) -> None:
        """Set the timer where the deadline has come closer; one that fires too early does nothing."""
        at = self._core.next_timer()
        if self._is_closed or at is None or at >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at = max(at, now + MIN_INTERVAL)
        self._timer = self._loop.call_later(at - now, self._on_timer)

    def _on_timer(self) -> None:
        # uvloop's timers can fire 0.4 ms early; what this one was set for is due all the same.
        now = max(time.monotonic(), self._timer_at)
        self._timer = None
        self._timer_at = math.inf
        self._core.handle_timer(now=now)
        self._drain(now)
