"""The process that passes packets between two TUN devices, at the times that a scenario says::

    python -m netem.lab.user.forwarder CONTROL MTU CLIENT SERVER [RECORDING]

All but MTU are inherited descriptors; an order is a Play, or None for a report alone, and the answer
to each is a Report. It is a process of its own so that a busy test does not hold
the link up, and single-threaded: one loop sleeps until a packet or an order has come or a packet is
due. It ends when the control socket is closed, thus also when its maker is killed.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pickle
import select
import socket
import sys
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import BinaryIO

from netem.lab.link_process import Play
from netem.lab.user.playback import UNIMPAIRED, Playback
from netem.lab.user.recorder import FLUSH_INTERVAL_S, Recorder
from netem.lab.user.report import Report
from netem.scenario import Direction

_BATCH = 64  # arbitrary; packets read from one end before the other has its turn
_LONGEST_SLEEP_S = 60.0  # arbitrary; a delay may be any float, and select() refuses some centuries
_RECORDING_BUFFER_BYTES = 1 << 18  # arbitrary; some ms of writing at most, when it is full
_REFUSED = (errno.EINVAL, errno.EIO)
"""What a TUN device says to a packet whose version was corrupted, and while it is down."""


class Forwarder:
    """The loop; `ends` are the TUN devices of client and server."""

    def __init__(self, ends: tuple[int, int], *, mtu: int, recorder: Recorder | None) -> None:
        self._ends = ends
        self._mtu = mtu
        self._recorder = recorder
        now = time.monotonic()
        self._playback = Playback(UNIMPAIRED, seed=0, begins_at=now, now=now)
        self._under_way: list[tuple[float, int, int, bytes]] = []
        """A heap of (due time, serial number, index of the end that it goes to, packet)."""
        self._serial = 0
        self._flush_at = now + FLUSH_INTERVAL_S

    def play(self, order: Play) -> None:
        """Replace the scenario; packets under way keep their times."""
        self._playback = Playback(
            order.scenario, seed=order.seed, begins_at=order.begins_at, now=time.monotonic()
        )

    def report(self) -> Report:
        """What became of the packets since play()."""
        return Report(self._playback.counts(), self._recorder.failure if self._recorder else "")

    def run(self, control: int, obey: Callable[[], bool]) -> None:
        """Pass packets on until `obey` returns False; it is called when `control` is readable."""
        client, server = self._ends
        while True:
            readable = select.select((client, server, control), (), (), self._timeout())[0]
            self._write_due(time.monotonic())
            if client in readable:
                self._read(0, "up")
            if server in readable:
                self._read(1, "down")
            if control in readable and not obey():
                return
            self._flush_when_due()

    def _timeout(self) -> float | None:
        if self._under_way:
            return min(_LONGEST_SLEEP_S, max(0.0, self._under_way[0][0] - time.monotonic()))
        return FLUSH_INTERVAL_S if self._recorder is not None else None

    def _read(self, end: int, direction: Direction) -> None:
        """Take what waits at one end, one batch at most, and write what gets due meanwhile."""
        descriptor, mtu, clock = self._ends[end], self._mtu, time.monotonic
        under_way = self._under_way
        for _ in range(_BATCH):
            try:
                packet = os.read(descriptor, mtu)
            except BlockingIOError:
                return
            now = clock()
            fate, copies = self._playback.send(direction, packet, now=now)
            if self._recorder is not None:
                self._recorder.entered(end, packet, fate, copies, now=now)
            for at, copy in copies:
                self._serial += 1
                heappush(under_way, (at, self._serial, 1 - end, copy))
            if under_way and under_way[0][0] <= now:
                self._write_due(now)

    def _write_due(self, now: float) -> None:
        under_way = self._under_way
        while under_way and under_way[0][0] <= now:
            _, _, end, packet = heappop(under_way)
            if self._recorder is not None:
                self._recorder.left(end, packet, now=now)
            try:
                os.write(self._ends[end], packet)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise

    def _flush_when_due(self) -> None:
        if self._recorder is not None and (now := time.monotonic()) >= self._flush_at:
            self._recorder.flush()
            self._flush_at = now + FLUSH_INTERVAL_S


def serve(control: socket.socket, ends: tuple[int, int], mtu: int, recording: BinaryIO | None) -> None:
    """Pass packets on and obey until the other end of `control` is closed."""
    recorder = None if recording is None else Recorder(recording)
    forwarder = Forwarder(ends, mtu=mtu, recorder=recorder)
    orders, answers = control.makefile("rb"), control.makefile("wb")

    def obey() -> bool:
        try:
            order: Play | None = pickle.load(orders)
        except EOFError:
            return False
        if order is not None:
            forwarder.play(order)
        elif recorder is not None:
            recorder.flush()
        pickle.dump(forwarder.report(), answers)
        answers.flush()
        return True

    forwarder.run(control.fileno(), obey)


def main(control: str, mtu: str, client: str, server: str, recording: str | None = None) -> None:
    """Run with the arguments of the command line."""
    gc.disable()  # nothing here makes cycles, and a collection would delay packets
    with contextlib.suppress(OSError):  # an ordinary user's link competes with other programs
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    # Duplicated: the numbers come from a program that may have many open, and select(2) ends at 1024.
    ends = os.dup(int(client)), os.dup(int(server))
    with contextlib.ExitStack() as opened:
        connection = opened.enter_context(socket.socket(fileno=os.dup(int(control))))
        file = None
        if recording is not None:
            file = opened.enter_context(open(int(recording), "wb", buffering=_RECORDING_BUFFER_BYTES))
        serve(connection, ends, int(mtu), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
