"""A program that sends over TCP as fast as it may, and one that throws away what comes::

    python -m netem.lab.bulk receive ADDRESS PORT
    python -m netem.lab.bulk send ADDRESS PORT CONGESTION_CONTROL CONNECTIONS STARTS_AT ENDS_AT

Times are on time.monotonic(), which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import sys
import time

_CHUNK = bytes(1 << 16)
_RETRY_S = 0.05
_DISCARD = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: what is not sent by the end is never sent


def receive(address: str, port: int) -> None:
    """Accept connections and throw away what comes, for ever."""
    with selectors.DefaultSelector() as selector, socket.create_server((address, port)) as listener:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                elif not _drain(key.fileobj):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


def send(
    address: str,
    port: int,
    congestion_control: str,
    connections: int,
    starts_at: float,
    ends_at: float,
) -> None:
    """Send on so many connections from `starts_at` to `ends_at`."""
    time.sleep(max(0.0, starts_at - time.monotonic()))
    with contextlib.ExitStack() as opened, selectors.DefaultSelector() as selector:
        for _ in range(connections):
            sender = opened.enter_context(_connect(address, port, congestion_control, ends_at))
            selector.register(sender, selectors.EVENT_WRITE)
        while (remaining := ends_at - time.monotonic()) > 0.0:
            for key, _ in selector.select(remaining):
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(BlockingIOError):
                    key.fileobj.send(_CHUNK)


def _connect(address: str, port: int, congestion_control: str, ends_at: float) -> socket.socket:
    """Try until it succeeds: the receiver may still be starting, or the link be cut."""
    while True:
        sender = socket.socket()
        try:
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
            sender.settimeout(max(_RETRY_S, ends_at - time.monotonic()))
            sender.connect((address, port))
        except (ConnectionRefusedError, TimeoutError):
            sender.close()
            if time.monotonic() >= ends_at:
                raise
            time.sleep(_RETRY_S)
        else:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)
            sender.setblocking(False)
            return sender


def _drain(source: socket.socket) -> bytes:
    try:
        return source.recv(len(_CHUNK))
    except ConnectionError:
        return b""


if __name__ == "__main__":
    role, host_address, port_text, *rest = sys.argv[1:]
    if role == "receive":
        receive(host_address, int(port_text))
    else:
        control, number, begin, end = rest
        send(host_address, int(port_text), control, int(number), float(begin), float(end))
