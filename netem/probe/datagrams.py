"""Datagrams sent by plan and received with the kernel's time stamps; runs in a probe's process.

All times are of the system's wall clock, `time.time_ns`, because that is the clock with which the
kernel stamps a packet when it enters the stack (SO_TIMESTAMPNS). Every process and namespace of a
machine shares it. The difference of a stamp and the time just before the send is therefore what
the link took, without the time until the receiving program ran; that is `read_at`, beside it.
"""

from __future__ import annotations

import select
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

PORT = 5009

_HEAD = struct.Struct(">IHI")  # CRC-32 of all that follows, run, number
_RUN_AND_NUMBER = struct.Struct(">HI")
_CRC = struct.Struct(">I")
MIN_SIZE = _HEAD.size

_SO_NO_CHECK = 11  # asm-generic/socket.h, as the two below
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_BUFFER_BYTES = 8 << 20  # a second of the fastest flow
_ANCILLARY_BYTES = 256
_READS_PER_WAKE_UP = 64  # arbitrary; leaves room for sends between two batches
_MAX_DATAGRAM_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class Flow:
    """What one probe sends: `count` datagrams of `size` bytes of payload, one per `interval_s`.

    `tos` is the byte of the IP header whose last two bits are ECN. Without `has_checksum` a
    datagram arrives although bits of its payload were flipped.
    """

    count: int
    interval_s: float
    size: int = 100
    tos: int = 0
    has_checksum: bool = True


@dataclass(slots=True)
class Record:
    """What one probe has sent and received. Times in ns of the wall clock.

    `sent_at` is by number; the other lists are by arrival, intact datagrams of this run alone.
    """

    sent_at: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    arrived_at: list[int] = field(default_factory=list)
    read_at: list[int] = field(default_factory=list)
    tos: list[int] = field(default_factory=list)
    damaged: int = 0


def open_socket() -> socket.socket:
    """The socket of a probe, which takes everything that comes from now on."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    try:
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    udp.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    udp.bind(("", PORT))
    return udp


class Exchange:
    """One run of a probe: sends its flow, if any, while it receives; `echoes` sends back what comes."""

    def __init__(self, udp: socket.socket, run: int, peer: str, flow: Flow | None, *, echoes: bool) -> None:
        self.record = Record()
        self._udp = udp
        self._run = run
        self._peer = (peer, PORT)
        self._flow = flow or Flow(0, 0.0)
        self._echoes = echoes
        self._padding = bytes(max(self._flow.size - MIN_SIZE, 0))
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._flow.tos)
        udp.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, int(not self._flow.has_checksum))

    def go(self, orders: int, on_sent: Callable[[], None]) -> Record:
        """Run until there is something to read from the file descriptor `orders`."""
        flow, sent_at = self._flow, self.record.sent_at
        arrivals = self._udp.fileno()
        starts_at = time.monotonic()
        has_told = False
        while True:
            is_sending = len(sent_at) < flow.count and not self._echoes
            if not is_sending and not has_told:
                has_told = True
                on_sent()
            due_in = starts_at + len(sent_at) * flow.interval_s - time.monotonic()
            wait_s = max(due_in, 0.0) if is_sending else None
            readable, _, _ = select.select([arrivals, orders], [], [], wait_s)
            if arrivals in readable:
                self._receive()
            if orders in readable:
                self._receive()
                return self.record
            if is_sending and time.monotonic() >= starts_at + len(sent_at) * flow.interval_s:
                self._send(len(sent_at))

    def _send(self, number: int) -> None:
        body = _RUN_AND_NUMBER.pack(self._run, number) + self._padding
        datagram = _CRC.pack(zlib.crc32(body)) + body
        self.record.sent_at.append(time.time_ns())
        try:
            self._udp.sendto(datagram, self._peer)
        except BlockingIOError:
            # The interface is slower than the flow: what cannot be sent now was not sent.
            self.record.sent_at.pop()

    def _receive(self) -> None:
        for _ in range(_READS_PER_WAKE_UP):
            try:
                data, ancillary, _, sender = self._udp.recvmsg(_MAX_DATAGRAM_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            self._take(data, ancillary, sender, time.time_ns())

    def _take(
        self, data: bytes, ancillary: list[tuple[int, int, bytes]], sender: tuple[str, int], read_at: int
    ) -> None:
        record = self.record
        if len(data) < MIN_SIZE or zlib.crc32(data[_CRC.size :]) != _CRC.unpack_from(data)[0]:
            record.damaged += 1
            return
        _, run, number = _HEAD.unpack_from(data)
        if run != self._run:
            return
        arrived_at, tos = read_at, 0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                arrived_at = seconds * 1_000_000_000 + nanoseconds
            elif level == socket.IPPROTO_IP and kind == socket.IP_TOS:
                tos = value[0]
        record.numbers.append(number)
        record.arrived_at.append(arrived_at)
        record.read_at.append(read_at)
        record.tos.append(tos)
        if self._echoes:
            record.sent_at.append(time.time_ns())
            self._udp.sendto(data, sender)
