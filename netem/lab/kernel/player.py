"""The process that changes the queueing disciplines of a cable at the times that a scenario says::

    python -m netem.lab.kernel.player CONTROL ROUTE MTU PLACES

CONTROL and ROUTE are inherited descriptors: a socket for orders, and one to the kernel's traffic
control. PLACES is JSON, {direction: {place: index of the interface}}. It is a process of its own so
that a busy test does not delay a change, and ends when the control socket is closed, thus also when
its maker is killed. An order is a pickled Play; the answer is None when it is in force.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import pickle
import select
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from random import Random

from netem.lab.kernel.hops import PLACES, Interfaces, Settings
from netem.lab.kernel.netlink import qdisc_message, send_all
from netem.lab.kernel.timeline import Timeline
from netem.lab.link_process import Play
from netem.scenario import Direction

_SEED_BITS = 64
_LONGEST_SLEEP_S = 3600.0  # arbitrary; select(2) refuses very long times


class Track:
    """One direction: what its disciplines are set to, and how that goes on."""

    def __init__(self, interfaces: Interfaces, timeline: Timeline, random: Random) -> None:
        self._interfaces = interfaces
        self._timeline = timeline
        self._random = random
        self._current: Settings | None = None
        self.until = 0.0
        """Seconds since the beginning, when changes() is to be called next."""

    def changes(self, t: float) -> Iterator[bytes]:
        """The messages that bring the disciplines to what holds at `t`; all of them at first."""
        previous = self._current
        self._current, self.until = self._timeline.at(t)
        for place in PLACES:
            wanted = getattr(self._current, place)
            if previous is None or wanted != getattr(previous, place):
                # A new seed each time: one and the same would repeat the same chances.
                options = wanted.options(self._random.getrandbits(_SEED_BITS))
                yield qdisc_message(self._interfaces[place], wanted.kind, options)


class Player:
    """Both directions of a scenario on the machine's clock. Raises OSError where the kernel refuses."""

    def __init__(self, route: socket.socket, places: Mapping[Direction, Interfaces], *, mtu: int) -> None:
        self._route = route
        self._places = places
        self._mtu = mtu
        self._begins_at = 0.0
        self._tracks: list[Track] = []

    def play(self, order: Play) -> None:
        """Begin a scenario, in place of the one before."""
        self._begins_at = order.begins_at
        self._tracks = [
            Track(
                interfaces,
                Timeline(order.scenario, direction, seed=order.seed, mtu=self._mtu),
                Random(f"{order.seed}/{direction}/netem"),
            )
            for direction, interfaces in self._places.items()
        ]
        self.follow(time.monotonic())

    def follow(self, now: float) -> None:
        """Make the changes that are due."""
        t = max(0.0, now - self._begins_at)
        due = [track for track in self._tracks if track.until <= t]
        send_all(self._route, [message for track in due for message in track.changes(t)])

    @property
    def next_change_at(self) -> float:
        """When follow() is to be called next."""
        return self._begins_at + min((track.until for track in self._tracks), default=math.inf)


def serve(control: socket.socket, player: Player) -> None:
    """Play and obey until the other end of `control` is closed."""
    orders, answers = control.makefile("rb"), control.makefile("wb")
    while True:
        sleep_s = min(max(0.0, player.next_change_at - time.monotonic()), _LONGEST_SLEEP_S)
        if select.select((control,), (), (), sleep_s)[0]:
            try:
                order: Play = pickle.load(orders)
            except EOFError:
                return
            player.play(order)
            pickle.dump(None, answers)
            answers.flush()
        player.follow(time.monotonic())


def main(control: str, route: str, mtu: str, places: str) -> None:
    """Run with the arguments of the command line."""
    gc.disable()  # nothing here makes cycles, and a collection would delay changes
    with contextlib.suppress(PermissionError):  # an ordinary user's link competes with other programs
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    # Duplicated: the numbers come from a program that may have many open, and select(2) ends at 1024.
    with (
        socket.socket(fileno=os.dup(int(control))) as connection,
        socket.socket(fileno=os.dup(int(route))) as netlink,
    ):
        serve(connection, Player(netlink, json.loads(places), mtu=int(mtu)))


if __name__ == "__main__":
    main(*sys.argv[1:])
