"""Ports of a host that lead out of the laboratory, to a program that runs on this machine anyway.

    client ==link==> listening sockets in the server's namespace --> sockets outside --> target

A socket belongs to the namespace that it was opened in, whoever uses it. So this process opens the
listening ones inside and hands them to a process of its own, which stays outside. That process is
started before the laboratory: the laboratory of an ordinary user takes the process that makes it
off the machine's network. It ends when the control socket is closed, also by kill -9 of the maker.

What the target sees is a near client: the link is between the listening sockets and the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from eloquent.addresses import format_address
from eloquent.errors import ConfigurationError

if TYPE_CHECKING:
    from netem.lab.host import Host

_FORM = re.compile(
    r"(?P<port>\d+)(?:=(?:\[(?P<literal>[^\]]+)\]|(?P<name>[^:\[\]]+)):(?P<target_port>\d+))?", re.ASCII
)
_MAX_PORT = 65_535
_BACKLOG = 512  # arbitrary; a burst of connections must not meet a full queue that no link has
_CHUNK_BYTES = 65_536
_MAX_DATAGRAM_BYTES = 65_535
_MAX_MESSAGE_BYTES = 4096
_READS_PER_WAKE_UP = 64  # arbitrary; leaves room for other flows between two batches
_FLOW_IDLE_S = 300.0
"""How long an idle client address keeps its UDP socket: what RFC 4787 recommends to NATs (REQ-5)."""
_SWEEP_INTERVAL_S = 30.0
_EXIT_LIMIT_S = 2.0

SocketAddress = Any
"""An address as the socket module has it, whose form depends on the family."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Port `port` of a host, TCP and UDP, leads to `target_port` of `target_host` outside."""

    port: int
    target_host: str
    target_port: int

    def __post_init__(self) -> None:
        for port in (self.port, self.target_port):
            if not 1 <= port <= _MAX_PORT:
                raise ConfigurationError(f"port {port} cannot be forwarded; it must be 1 to {_MAX_PORT}")

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Read `PORT`, which leads to the same port of 127.0.0.1, or `PORT=HOST:PORT`."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"cannot forward {text!r}; it must be PORT, PORT=HOST:PORT or PORT=[IPv6 ADDRESS]:PORT"
            )
        port = int(match["port"])
        host = match["literal"] or match["name"] or "127.0.0.1"
        return cls(port, host, int(match["target_port"] or port))

    def check_target(self) -> None:
        """Raise ConfigurationError where the target's host has no address."""
        try:
            socket.getaddrinfo(self.target_host, self.target_port)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"the host {self.target_host!r} has no address: {reason}") from error


class Forwarder:
    """The process outside; a context manager. Enter it before the laboratory."""

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A session of its own, as Ctrl-C is for the user's program alone.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "netem.lab.forward"], stdin=theirs.fileno(), start_new_session=True
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._control.close()
        try:
            self._process.wait(_EXIT_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def add(self, host: Host, forward: Forward) -> None:
        """Begin to forward; clients may connect as soon as this returns. Blocks for milliseconds.

        Raises OSError where the port is taken on that host, or the process has ended.
        """
        target = json.dumps([forward.target_host, forward.target_port]).encode()
        for address in (host.address, host.address_v6):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with host.namespace.call(_listen, address, forward.port, kind) as listener:
                    socket.send_fds(self._control, [target], [listener.fileno()])


def _listen(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket bound to one address, so that answers come from the one that was asked."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, kind)
    try:
        listener.bind((address, port))
        if kind == socket.SOCK_STREAM:
            listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class _Target:
    """An address outside, and what has been said about it."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._failures: set[str] = set()

    def report(self, error: OSError) -> None:
        """Tell the user, each reason once."""
        reason = error.strerror or str(error)
        if reason not in self._failures:
            self._failures.add(reason)
            place = format_address(self.host, self.port)
            with contextlib.suppress(OSError):  # nobody reads it
                print(f"netem: cannot forward to {place}: {reason}", file=sys.stderr, flush=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: _Target) -> None:
    """Pass one TCP connection on, until both directions have ended or one side has reset it."""
    try:
        outer_reader, outer_writer = await asyncio.open_connection(target.host, target.port)
    except OSError as error:
        target.report(error)
        _reset(writer)
        return
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, outer_writer))
            group.create_task(_copy(outer_reader, writer))
    except* OSError:
        _reset(writer)
        _reset(outer_writer)
    finally:
        writer.close()
        outer_writer.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy to the end of `source`, and end that direction of `sink`; the other stays open."""
    while chunk := await source.read(_CHUNK_BYTES):
        sink.write(chunk)
        await sink.drain()
    sink.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the peer sees a reset and not a regular end."""
    with contextlib.suppress(OSError):  # it is gone already
        linger_for_0_s = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_0_s)
    writer.transport.abort()


@dataclass(slots=True)
class _Flow:
    """One client address with its socket outside."""

    outer: socket.socket
    address: SocketAddress
    used_at: float


@dataclass(slots=True)
class _DatagramForward:
    """Passes datagrams on; every client address is a peer of its own to the target.

    `addresses` are the target's, each with its family. When one fails, the next is tried.
    """

    listener: socket.socket
    target: _Target
    addresses: list[tuple[int, SocketAddress]]
    failures: int = 0
    """Of addresses that were the one to use; it moves to the next each time."""
    flows: dict[SocketAddress, _Flow] = field(default_factory=dict)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self.listener, self._read_clients)
        loop.call_later(_SWEEP_INTERVAL_S, self._sweep)

    def _read_clients(self) -> None:
        for payload, client in _read_waiting(self.listener, self.target.report):
            try:
                flow = self.flows.get(client) or self._open_flow(client)
                flow.used_at = asyncio.get_running_loop().time()
                flow.outer.send(payload)
            except BlockingIOError:  # a full buffer: networks drop silently
                continue
            except OSError as error:  # also one that an earlier datagram has brought back
                self._on_error(client, error)

    def _read_outer(self, client: SocketAddress, flow: _Flow) -> None:
        for payload, _ in _read_waiting(flow.outer, partial(self._on_error, client)):
            flow.used_at = asyncio.get_running_loop().time()
            with contextlib.suppress(OSError):
                self.listener.sendto(payload, client)

    def _on_error(self, client: SocketAddress, error: OSError) -> None:
        """Go on with the next address; tell the user when all have failed."""
        if error.errno == errno.EMSGSIZE:  # that of the datagram, not of the address
            self.target.report(error)
            return
        flow = self.flows.get(client)
        _, in_use = self._address()
        if flow is None or flow.address == in_use:
            self.failures += 1
            if self.failures % len(self.addresses) == 0:
                self.target.report(error)
        if flow is not None and len(self.addresses) > 1:
            self._close_flow(client, flow)

    def _address(self) -> tuple[int, SocketAddress]:
        return self.addresses[self.failures % len(self.addresses)]

    def _open_flow(self, client: SocketAddress) -> _Flow:
        loop = asyncio.get_running_loop()
        family, address = self._address()
        outer = socket.socket(family, socket.SOCK_DGRAM)
        try:
            outer.setblocking(False)
            outer.connect(address)
        except BaseException:
            outer.close()
            raise
        flow = self.flows[client] = _Flow(outer, address, loop.time())
        loop.add_reader(outer, self._read_outer, client, flow)
        return flow

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for client, flow in list(self.flows.items()):
            if loop.time() - flow.used_at >= _FLOW_IDLE_S:
                self._close_flow(client, flow)
        loop.call_later(_SWEEP_INTERVAL_S, self._sweep)

    def _close_flow(self, client: SocketAddress, flow: _Flow) -> None:
        del self.flows[client]
        asyncio.get_running_loop().remove_reader(flow.outer)
        flow.outer.close()


def _read_waiting(
    source: socket.socket, on_error: Callable[[OSError], None]
) -> list[tuple[bytes, SocketAddress]]:
    waiting: list[tuple[bytes, SocketAddress]] = []
    try:
        while len(waiting) < _READS_PER_WAKE_UP:
            waiting.append(source.recvfrom(_MAX_DATAGRAM_BYTES))
    except BlockingIOError:
        pass
    except OSError as error:  # what an earlier datagram has brought back, by ICMP
        on_error(error)
    return waiting


async def _forward(listener: socket.socket, target: _Target) -> None:
    listener.setblocking(False)
    if listener.type == socket.SOCK_STREAM:
        await asyncio.start_server(
            lambda reader, writer: _carry(reader, writer, target), sock=listener, backlog=_BACKLOG
        )
        return
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        target.report(error)
        return
    # A server of UDP on `localhost` is more often on 127.0.0.1 alone than on ::1, which may come first.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    _DatagramForward(listener, target, [(entry[0], entry[4]) for entry in found]).start()


async def _main(control: socket.socket) -> NoReturn:
    """Take listening sockets until the other end of `control` is closed."""
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    targets: dict[tuple[str, int], _Target] = {}
    tasks: set[asyncio.Task[None]] = set()

    def on_message() -> None:
        message, descriptors, _, _ = socket.recv_fds(control, _MAX_MESSAGE_BYTES, 1)
        if not message:
            is_over.set()
            return
        host, port = json.loads(message)
        target = targets.setdefault((host, port), _Target(host, port))
        task = loop.create_task(_forward(socket.socket(fileno=descriptors[0]), target))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_reader(control, on_message)
    await is_over.wait()
    # All sockets close at once. Cancelled connections would each be reported by Python 3.11's streams.
    os._exit(0)


def _allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    _allow_many_files()
    asyncio.run(_main(socket.socket(fileno=0)))
