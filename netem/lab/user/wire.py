"""A cable of the `user` backend: two TUN devices, and a process that passes packets between them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from eloquent.errors import ConfigurationError
from netem.errors import LinkFailed
from netem.lab.link_process import LinkProcess, Play
from netem.lab.user.report import Report
from netem.lab.user.tun import missing, open_tun
from netem.lab.wire import End
from netem.link import LinkCounts
from netem.scenario import Direction, Scenario

__all__ = ["UserWire", "missing"]

_NO_FILE = "it is neither a regular file nor a device"
_ANSWER_LIMIT_S = 10.0  # arbitrary; some ms are usual, and 0.1 s while the process starts


class UserWire:
    """A Wire whose link runs in Python; see `netem.lab.wire`.

    It passes packets of up to `mtu` bytes and cuts longer ones off. A corrupted bit may be anywhere
    in a packet, its IP header included.

    `capture` is a pcapng file to be written, with times of the wall clock; a packet that is still
    under way at the end has entered and never leaves. A failure to write it does not hold the link
    up: close() raises it. What is neither a regular file nor a character device, such as a pipe that
    nobody may read, is refused with ConfigurationError, as is a file that cannot be made.

    play(), counts() and close() raise LinkFailed where the link is dead.
    """

    def __init__(self, client: End, server: End, *, mtu: int, capture: Path | None = None) -> None:
        self._capture = capture
        self._final: Report | None = None
        self._is_closed = False
        with contextlib.ExitStack() as handed_over:
            descriptors = []
            for end in (client, server):
                descriptors.append(end.namespace.call(open_tun, end.interface))
                handed_over.callback(os.close, descriptors[-1])
            if capture is not None:
                descriptors.append(_open_recording(capture))
                handed_over.callback(os.close, descriptors[-1])
            self._process = LinkProcess(
                "netem.lab.user.forwarder",
                [str(mtu), *map(str, descriptors)],
                descriptors=descriptors,
                answer_limit_s=_ANSWER_LIMIT_S,
            )

    def play(self, scenario: Scenario, *, seed: int, begins_at: float) -> None:
        """Begin a scenario; its impairments of time 0 are in force until `begins_at`."""
        self._process.ask(Play(scenario, seed=seed, begins_at=begins_at))

    def counts(self) -> dict[Direction, LinkCounts]:
        """What became of the packets since play(), also after close()."""
        return (self._final or self._report()).counts

    def close(self) -> None:
        """End the process, and with it both interfaces; finish the recording."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._final = self._report()
        finally:
            self._process.end()
        if self._final.recording_failure:
            raise LinkFailed(f"{self._capture} is incomplete: {self._final.recording_failure}")

    def _report(self) -> Report:
        report: Report = self._process.ask(None)
        return report


def _open_recording(path: Path) -> int:
    """A descriptor to write to, which never blocks. Raises ConfigurationError."""
    unusable = f"cannot record to {str(path)!r}: "
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.ENXIO:  # a pipe without a reader, or a socket
            reason = _NO_FILE
        raise ConfigurationError(unusable + reason) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
        os.close(descriptor)
        raise ConfigurationError(unusable + _NO_FILE)
    return descriptor
