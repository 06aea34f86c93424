"""A client's UDP sockets: one for each number that the dialer uses, and the choice of IPv4 or IPv6."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from eloquent.addresses import Remote, plain_address
from eloquent.endpoint import Datagrams, UdpSocket, configure
from eloquent.protocol.ticket import Address

OTHER_ADDRESS_AFTER = 0.3
"""Seconds without a reply after which IPv4 is tried instead of IPv6, or back; doubles each time.
RFC 8305 section 5 recommends 0.25 between two attempts."""


class ClientSockets:
    """Connected sockets by number.

    The core says only when another socket is needed. Which of the server's addresses it goes to is
    decided here: the preferred one, or the next that the machine has a route to.
    `on_datagrams(number, datagrams)` and `on_unreachable(number)`, for an ICMP error, report.
    """

    def __init__(
        self,
        remotes: list[Remote],
        *,
        on_datagrams: Callable[[int, Datagrams], None],
        on_unreachable: Callable[[int], None],
    ) -> None:
        self._remotes = remotes
        self._on_datagrams = on_datagrams
        self._on_unreachable = on_unreachable
        self._preferred = 0
        self._open: dict[int, UdpSocket] = {}
        self._choices: dict[int, int] = {}
        self._refused: set[int] = set()

    @property
    def remotes(self) -> list[Remote]:
        """The server's addresses, those of the ticket."""
        return self._remotes

    @property
    def was_refused(self) -> bool:
        """Whether each of the server's addresses has answered that nothing listens there."""
        return len(self._refused) == len(self._remotes)

    def use(self, remotes: list[Remote]) -> None:
        """Open sockets to other addresses from here on."""
        self._remotes = remotes
        self._preferred = 0
        self._choices.clear()
        self._refused.clear()

    def prefer_next(self) -> None:
        """Try another of the server's addresses with the next socket."""
        self._preferred = (self._preferred + 1) % len(self._remotes)

    def prefer_that_of(self, number: int) -> bool:
        """Something came to this socket: stay with its address; True where that is a change."""
        choice = self._choices.get(number, self._preferred)
        has_changed = choice != self._preferred
        self._preferred = choice
        return has_changed

    def note_refusal(self, number: int) -> bool:
        """Nothing listens where this socket goes; True where that is news and there is another address."""
        choice = self._choices.get(number, self._preferred)
        is_news = choice not in self._refused
        self._refused.add(choice)
        return is_news and not self.was_refused

    def send(self, data: bytes, address: tuple[int, str]) -> None:
        """Send to one of the core's addresses, which begin with a socket number."""
        number = address[0]
        udp = self._open.get(number) or self._open_new(number)
        if udp is not None:
            udp.send(data, None)

    def local_address(self, number: int) -> Address | None:
        """Where this client sends from; None where it has no route to the server."""
        udp = self._open.get(number)
        return None if udp is None else plain_address(udp.local_address)

    def keep(self, numbers: set[int]) -> None:
        """Close all sockets but these."""
        for number in self._open.keys() - numbers:
            self._open.pop(number).close()
            self._choices.pop(number, None)

    def close(self) -> None:
        self.keep(set())

    def _open_new(self, number: int) -> UdpSocket | None:
        """A socket to the preferred address or another; None without a network, where datagrams are lost."""
        count = len(self._remotes)
        for choice in ((self._preferred + step) % count for step in range(count)):
            udp = _connected(self._remotes[choice])
            if udp is not None:
                self._choices[number] = choice
                self._open[number] = UdpSocket(
                    udp,
                    lambda datagrams: self._on_datagrams(number, datagrams),
                    on_error=lambda error: self._on_error(number, error),
                )
                return self._open[number]
        return None

    def _on_error(self, number: int, error: OSError) -> None:
        if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
            self._on_unreachable(number)


class FirstReply:
    """Waits for the server's first reply, and meanwhile asks for another address to be tried."""

    def __init__(
        self, timeout: float, *, on_timeout: Callable[[], None], on_delay: Callable[[], None]
    ) -> None:
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._on_delay = on_delay
        self._last: asyncio.TimerHandle | None = None
        self._next: asyncio.TimerHandle | None = None

    def start(self, *, has_alternative: bool) -> None:
        """Begin to wait, or go on where a wait is under way: its end stays where it is."""
        loop = asyncio.get_running_loop()
        self._last = self._last or loop.call_later(self._timeout, self._on_timeout)
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if has_alternative:
            self._next = loop.call_later(OTHER_ADDRESS_AFTER, self._try_next, OTHER_ADDRESS_AFTER)

    def end(self) -> None:
        """It has come, or nobody waits for it any more."""
        for timer in (self._last, self._next):
            if timer is not None:
                timer.cancel()
        self._last = self._next = None

    def _try_next(self, delay: float) -> None:
        self._next = asyncio.get_running_loop().call_later(2 * delay, self._try_next, 2 * delay)
        self._on_delay()


def _connected(remote: Remote) -> socket.socket | None:
    """None where the machine has no route: a UDP connect sends nothing, it only looks one up."""
    udp: socket.socket | None = None
    try:
        udp = socket.socket(remote.family, socket.SOCK_DGRAM)
        configure(udp)
        udp.connect(remote.address)
    except OSError:
        if udp is not None:
            udp.close()
        return None
    return udp
