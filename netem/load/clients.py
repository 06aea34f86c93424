"""The clients' process of a run under load, cheap enough that the server is what is measured.

A `Dialer` for each connection would cost about as much as the server. So dialers make the real
handshake and send the real prompts; from then on each connection only opens, parses and
acknowledges what comes, by the rule of protocol 4 and with the core's own parts.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from array import array
from collections import deque
from contextlib import ExitStack
from multiprocessing.connection import Connection
from select import select
from typing import Protocol

from eloquent.endpoint import RECEIVE_SIZE, configure
from eloquent.protocol.acks import ACK_EVERY
from eloquent.protocol.content import encode_text
from eloquent.protocol.dialer import Dialer
from eloquent.protocol.recovery import MAX_ACK_DELAY
from eloquent.protocol.ticket import Ticket
from eloquent.protocol.wire import (
    Ack,
    Tokens,
    decode_frames_untrusted,
    decode_header_untrusted,
    encode_frames,
)
from netem.load.plan import READ, STOP, TOKEN, Load, Reading, pin
from netem.load.server import PLAIN_HEAD, PLAIN_HELLO

TOKEN_SIZE = len(encode_text(TOKEN))

HANDSHAKE_TIMEOUT_S = 30.0
"""For one connection, on a machine that is busy with others."""

_HELLO_INTERVAL_S = 0.2
_MAX_WAIT_S = 1.0
_REMOTE = "server"

PTO_S = 1.0
"""For what key updates need; no run is long enough for one."""


class Client(Protocol):
    """One connection's receiving side."""

    ack_at: float | None
    """When an acknowledgment is due."""

    def receive(self, data: bytes, meter: Meter, *, now: float) -> None: ...
    def ack(self, *, now: float) -> bytes: ...


class Meter:
    """Counts what comes, and how late each token is."""

    __slots__ = ("_load", "ack_bytes", "acks", "datagram_bytes", "datagrams", "delays_s", "start")

    def __init__(self, load: Load) -> None:
        self._load = load
        self.start = 0.0
        self.datagrams = self.datagram_bytes = self.acks = self.ack_bytes = 0
        self.delays_s = array("d")

    def on_tokens(self, stream: int, first: int, stop: int, *, now: float) -> None:
        """The tokens `first` to `stop - 1` of a stream can be rendered."""
        for token in range(first, stop):
            self.delays_s.append(now - self._load.due_at(stream, token, self.start))

    def read(self) -> Reading:
        delays, self.delays_s = self.delays_s, array("d")
        return Reading(
            time.process_time(),
            time.monotonic(),
            datagrams=self.datagrams,
            datagram_bytes=self.datagram_bytes,
            acks=self.acks,
            ack_bytes=self.ack_bytes,
            delays_s=delays,
        )


class EloquentClient:
    """Goes on with a dialer's connection: keys, packet numbers, what is to be acknowledged."""

    def __init__(self, dialer: Dialer, streams: range) -> None:
        connection = dialer.connection
        self._protection = connection.protection
        self._acks = connection.acks
        self._packet_number = connection.composer.packet_number
        self._streams = streams
        self._offsets = [stream.incoming.offset for stream in dialer.group.streams.values()]
        self.ack_at = self._acks.due_at

    def receive(self, data: bytes, meter: Meter, *, now: float) -> None:
        header = decode_header_untrusted(data)
        plaintext = self._protection.open_untrusted(header, data, now=now, pto=PTO_S)
        assert plaintext is not None, "the server's datagram is not authentic"
        is_eliciting = False
        for frame in decode_frames_untrusted(plaintext):
            is_eliciting |= type(frame) is not Ack
            if type(frame) is Tokens:
                self._on_tokens(frame, meter, now)
        self._acks.on_received(
            header.packet_number, is_eliciting=is_eliciting, at_once=header.ack_now, now=now
        )
        self.ack_at = self._acks.due_at

    def ack(self, *, now: float) -> bytes:
        entries = [[number, self._offsets[number]] for number in self._acks.take_touched()]
        plaintext = encode_frames([self._acks.take_frame(entries, None, now=now)])
        self.ack_at = self._acks.due_at
        number = self._packet_number
        self._packet_number = number + 1
        return self._protection.seal(number, plaintext, ack_now=False, now=now)

    def _on_tokens(self, frame: Tokens, meter: Meter, now: float) -> None:
        self._acks.touched[frame.stream] = None
        offset = self._offsets[frame.stream]
        stop = frame.base + len(frame.data)
        if frame.base <= offset < stop:
            self._offsets[frame.stream] = stop
            meter.on_tokens(self._streams[frame.stream], offset // TOKEN_SIZE, stop // TOKEN_SIZE, now=now)


class PlainClient:
    """Takes what a plain sender sends, and answers about as often as the protocol does."""

    def __init__(self, load: Load) -> None:
        self._ack = bytes(load.ack_size)
        self._pending = 0
        self.ack_at: float | None = None

    def receive(self, data: bytes, meter: Meter, *, now: float) -> None:
        stream, token = PLAIN_HEAD.unpack_from(data)
        meter.on_tokens(stream, token, token + 1, now=now)
        self._pending += 1
        if self._pending >= ACK_EVERY:
            self.ack_at = now
        elif self.ack_at is None:
            self.ack_at = now + MAX_ACK_DELAY

    def ack(self, *, now: float) -> bytes:
        self._pending = 0
        self.ack_at = None
        return self._ack


def dial_eloquent(udp: socket.socket, ticket: str, streams: range) -> EloquentClient:
    """Connect, and go on until the server has every prompt."""
    dialer = Dialer(Ticket.decode(ticket), _REMOTE, entropy=os.urandom, now=time.monotonic())
    opened = [dialer.open() for _ in streams]
    for number, stream in zip(streams, opened, strict=True):
        stream.write(encode_text(str(number)), now=time.monotonic())
        stream.finish()
    give_up_at = time.monotonic() + HANDSHAKE_TIMEOUT_S
    while not all(stream.outgoing.is_acked for stream in opened):
        now = time.monotonic()
        for data, _ in dialer.datagrams_to_send(now=now):
            udp.send(data)
        timer = dialer.next_timer() or give_up_at
        if select([udp], [], [], max(timer - now, 0.0))[0]:
            dialer.receive_datagram(udp.recv(RECEIVE_SIZE), (0, _REMOTE), now=time.monotonic())
        else:
            dialer.handle_timer(now=max(time.monotonic(), timer))
        _check_time(give_up_at)
    return EloquentClient(dialer, streams)


def dial_plain(udp: socket.socket, number: int, load: Load) -> PlainClient:
    """Tell the plain sender where this connection is."""
    give_up_at = time.monotonic() + HANDSHAKE_TIMEOUT_S
    while True:
        udp.send(PLAIN_HELLO.pack(number))
        if select([udp], [], [], _HELLO_INTERVAL_S)[0]:
            udp.recv(RECEIVE_SIZE)
            return PlainClient(load)
        _check_time(give_up_at)


def _check_time(give_up_at: float) -> None:
    if time.monotonic() > give_up_at:
        raise TimeoutError(f"the server has not answered for {HANDSHAKE_TIMEOUT_S:g} s")


class Clients:
    """All connections of a run, each on a socket of its own, and the parent's orders."""

    def __init__(self, load: Load, pipe: Connection) -> None:
        self._pipe = pipe
        self._meter = Meter(load)
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)
        self._waiting: deque[tuple[float, Client, socket.socket]] = deque()
        """Acknowledgments by the time at which they are due, which is always the same from now."""
        self.is_stopped = False

    def add(self, client: Client, udp: socket.socket) -> None:
        self._selector.register(udp, selectors.EVENT_READ, client)
        if client.ack_at is not None:
            self._send_ack(client, udp, time.monotonic())

    def step(self, timeout: float) -> None:
        """Take what has come, waiting up to so many seconds for it, and acknowledge what is due."""
        if self._waiting:
            timeout = min(timeout, max(self._waiting[0][0] - time.monotonic(), 0.0))
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._on_order()
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._receive(key.data, key.fileobj)
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, client, udp = self._waiting.popleft()
            if client.ack_at is not None and client.ack_at <= now:
                self._send_ack(client, udp, now)

    def _receive(self, client: Client, udp: socket.socket) -> None:
        now = time.monotonic()
        data = udp.recv(RECEIVE_SIZE)
        self._meter.datagrams += 1
        self._meter.datagram_bytes += len(data)
        had_ack = client.ack_at is not None
        client.receive(data, self._meter, now=now)
        if client.ack_at is None:
            return
        if client.ack_at <= now:
            self._send_ack(client, udp, now)
        elif not had_ack:
            self._waiting.append((client.ack_at, client, udp))

    def _send_ack(self, client: Client, udp: socket.socket, now: float) -> None:
        data = client.ack(now=now)
        udp.send(data)
        self._meter.acks += 1
        self._meter.ack_bytes += len(data)

    def _on_order(self) -> None:
        order = self._pipe.recv()
        if order == READ:
            self._pipe.send(self._meter.read())
        elif order == STOP:
            self.is_stopped = True
        else:
            self._meter.start = order


def run_clients(
    kind: str, address: tuple[str, int], tickets: list[str], load: Load, pipe: Connection
) -> None:
    """The process's whole life: connect everything, say so, then receive until told to stop."""
    pin(-1)
    clients = Clients(load, pipe)
    with ExitStack() as sockets:
        for number in range(load.connections):
            udp = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            configure(udp)
            udp.connect(address)
            if kind == "plain":
                client: Client = dial_plain(udp, number, load)
            else:
                client = dial_eloquent(udp, tickets[number], load.streams_of(number))
            clients.add(client, udp)
            clients.step(0.0)
        pipe.send(None)
        while not clients.is_stopped:
            clients.step(_MAX_WAIT_S)
