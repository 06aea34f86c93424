"""Cross traffic of a scenario: TCP connections beside what is under test."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path

from eloquent.errors import ConfigurationError
from netem.lab.host import Host
from netem.scenario import CrossTraffic

_CONTROLS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_PORTS = count(20_000)  # arbitrary; each transfer of a process has one of its own


class BulkTransfer:
    """One entry of a scenario's cross traffic, between the ends of a cable.

    The sender waits for its time. Must be made in a thread that stays: the programs end with it.
    Raises ConfigurationError where the kernel lacks the congestion control.
    """

    def __init__(self, traffic: CrossTraffic, client: Host, server: Host, *, begins_at: float) -> None:
        available = _CONTROLS.read_text().split()
        if traffic.congestion_control not in available:
            raise ConfigurationError(
                f"this kernel has no congestion control {traffic.congestion_control!r}; "
                f"it has: {', '.join(available)}"
            )
        sender, receiver = (server, client) if traffic.direction == "down" else (client, server)
        address = receiver.attachment_to(sender.name).address
        port = str(next(_PORTS))
        starts_at = begins_at + traffic.start_s
        times = (repr(starts_at), repr(starts_at + traffic.duration_s))
        self._processes = [
            _start(receiver, "receive", address, port),
            _start(
                sender,
                *("send", address, port),
                *(traffic.congestion_control, str(traffic.connections), *times),
            ),
        ]

    def close(self) -> None:
        """End both programs."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def _start(host: Host, *arguments: str) -> subprocess.Popen[bytes]:
    command = host.namespace.command([sys.executable, "-m", "netem.lab.bulk", *arguments])
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
