"""A cable of the `user` backend: two TUN devices, and a process that passes packets between them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from netem.errors import LinkFailed
from netem.lab.link_process import LinkProcess, Play
from netem.lab.user.report import Report
from netem.lab.user.tun import missing, open_tun
from netem.lab.wire import End
from netem.link import LinkCounts
from netem.scenario import Direction, Scenario

__all__ = ["UserWire", "missing"]

_ANSWER_LIMIT_S = 10.0  # arbitrary; some ms are usual, and 0.1 s while the process starts


class UserWire:
    """A Wire whose link runs in Python; see `netem.lab.wire`.

    It passes packets of up to `mtu` bytes and cuts longer ones off. A corrupted bit may be anywhere
    in a packet, its IP header included.

    `capture` is a pcapng file to be written, with times of the wall clock; a packet that is still
    under way at the end has entered and never leaves. A failure to write it does not hold the link
    up: close() raises it. play(), counts() and close() raise LinkFailed where the link is dead.
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
                descriptors.append(handed_over.enter_context(capture.open("wb")).fileno())
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
