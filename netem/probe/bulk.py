"""A plain TCP transfer, as much as fits; runs in a probe's process."""

from __future__ import annotations

import socket
import time

BULK_PORT = 5001

_CHUNK = bytes(256 << 10)
_READ_BYTES = 1 << 20
_ACCEPT_TIMEOUT_S = 30.0
_STALL_TIMEOUT_S = 30.0


def open_listener() -> socket.socket:
    """Where a probe takes the transfers of others."""
    listener = socket.create_server(("", BULK_PORT))
    listener.settimeout(_ACCEPT_TIMEOUT_S)
    return listener


def send_bulk(peer: str, seconds: float) -> int:
    """Send for so many seconds; the bytes handed to the kernel."""
    sent = 0
    with socket.create_connection((peer, BULK_PORT), timeout=_STALL_TIMEOUT_S) as tcp:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            sent += tcp.send(_CHUNK)
    return sent


def receive_bulk(listener: socket.socket, warm_up_s: float, seconds: float) -> tuple[int, float]:
    """(bytes, seconds between the first and the last of them) after `warm_up_s` of one transfer.

    Counts up to `seconds`, and reads on to the end.
    """
    tcp, _ = listener.accept()
    with tcp:
        tcp.settimeout(_STALL_TIMEOUT_S)
        starts_at = time.monotonic() + warm_up_s
        counted, first_at, last_at = 0, 0.0, 0.0
        while data := tcp.recv(_READ_BYTES):
            now = time.monotonic()
            if now < starts_at or now > starts_at + seconds:
                continue
            if first_at:
                counted += len(data)
                last_at = now
            else:
                first_at = now
    return counted, last_at - first_at
