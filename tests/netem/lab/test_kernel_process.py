"""The process that plays a scenario, on a namespace without any of the interfaces it is told of."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from netem import Impairment, LinkFailed, Scenario
from netem.lab.kernel.hops import PLACES
from netem.lab.kernel.netlink import open_route_socket
from netem.lab.kernel.process import PlayerProcess
from netem.lab.namespace import Namespace, namespace_name
from netem.lab.user.orders import Play

CLEAR = Scenario("clear", Impairment(), Impairment())
NOWHERE = dict.fromkeys(PLACES, 99)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")


@pytest.fixture
def player() -> Iterator[PlayerProcess]:
    namespace = Namespace.create(namespace_name("player", 0, "stage"))
    try:
        with namespace.call(open_route_socket) as route:
            process = PlayerProcess(route, {"up": NOWHERE, "down": NOWHERE}, mtu=1500)
        yield process
        process.end()
    finally:
        namespace.delete()


def order() -> Play:
    return Play(CLEAR, seed=1, begins_at=time.monotonic())


def test_what_the_kernel_refuses_reaches_the_caller(player: PlayerProcess) -> None:
    with pytest.raises(LinkFailed, match=r"ended with status 1: OSError: .*No such device"):
        player.play(order())
    with pytest.raises(LinkFailed, match="No such device"):
        player.check()


def test_a_killed_process_is_reported(player: PlayerProcess) -> None:
    player.check()
    os.kill(player.pid, signal.SIGKILL)
    with pytest.raises(LinkFailed, match="was killed by signal 9"):
        player.play(order())


def test_it_ends_when_told(player: PlayerProcess) -> None:
    player.check()
    player.end()
    player.end()
    with pytest.raises(ProcessLookupError):
        os.kill(player.pid, 0)
