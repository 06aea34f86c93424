"""The process that plays a scenario, on a namespace without any of the interfaces it is told of."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from netem import Impairment, LinkFailed, Scenario
from netem.lab.kernel.hops import PLACES
from netem.lab.kernel.netlink import open_route_socket
from netem.lab.kernel.wire import start_player
from netem.lab.link_process import LinkProcess, Play
from netem.lab.namespace import Namespace, namespace_name

CLEAR = Scenario("clear", Impairment(), Impairment())
NOWHERE = dict.fromkeys(PLACES, 99)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")


@pytest.fixture
def player() -> Iterator[LinkProcess]:
    namespace = Namespace.create(namespace_name("player", 0, "stage"))
    try:
        with namespace.call(open_route_socket) as route:
            process = start_player(route, {"up": NOWHERE, "down": NOWHERE}, mtu=1500)
        yield process
        process.end()
    finally:
        namespace.delete()


def order() -> Play:
    return Play(CLEAR, seed=1, begins_at=time.monotonic())


def test_what_the_kernel_refuses_reaches_the_caller(player: LinkProcess) -> None:
    with pytest.raises(LinkFailed, match=r"ended with status 1: OSError: .*No such device"):
        player.ask(order())
    with pytest.raises(LinkFailed, match="No such device"):
        player.check()


def test_a_killed_process_is_reported(player: LinkProcess) -> None:
    player.check()
    os.kill(player.pid, signal.SIGKILL)
    with pytest.raises(LinkFailed, match="was killed by signal 9"):
        player.ask(order())


def test_it_ends_when_told(player: LinkProcess) -> None:
    player.check()
    player.end()
    player.end()
    with pytest.raises(ProcessLookupError):
        os.kill(player.pid, 0)
