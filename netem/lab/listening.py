"""Whether a server is ready: looks for its listening sockets, so that nothing has to be sent to it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from netem.lab.namespace import Namespace

_TABLES = ("tcp", "tcp6", "udp", "udp6")
_LISTENING = {"0A", "07"}  # TCP_LISTEN, and TCP_CLOSE for a UDP socket without a peer; net/tcp_states.h


def is_listening(namespace: Namespace, *, session: int) -> bool:
    """Whether a program of this session has a socket inside that waits for clients."""
    waiting = namespace.call(_waiting_sockets)
    for pid in namespace.processes():
        with contextlib.suppress(OSError):  # it has just ended
            if os.getsid(pid) == session and not waiting.isdisjoint(_open_files(pid)):
                return True
    return False


def _waiting_sockets() -> set[str]:
    """Those of the calling thread's namespace, as /proc/PID/fd has them."""
    found = set()
    for table in _TABLES:
        for line in Path("/proc/thread-self/net", table).read_text().splitlines()[1:]:
            _, _, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state in _LISTENING:
                found.add(f"socket:[{inode}]")
    return found


def _open_files(pid: int) -> set[str]:
    folder = f"/proc/{pid}/fd"
    return {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
