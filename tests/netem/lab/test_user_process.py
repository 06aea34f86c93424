"""A link whose process ends, or whose maker does."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netem import Impairment, Lab, LinkFailed, Scenario
from netem.lab.namespace import Namespace, namespace_name, namespaces
from netem.lab.user.wire import UserWire
from netem.lab.wire import End

CLEAN = Scenario("clean", up=Impairment(), down=Impairment())
LIMIT_S = 10.0


def forwarders_of(parent: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            is_child = f"PPid:\t{parent}\n" in (process / "status").read_text()
            if is_child and b"netem.lab.user.forwarder" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


@contextlib.contextmanager
def two_hosts(label: str) -> Iterator[list[Namespace]]:
    hosts: list[Namespace] = []
    try:
        for name in ("client", "server"):
            hosts.append(Namespace.create(namespace_name(label, 0, name)))
        yield hosts
    finally:
        for host in hosts:
            host.delete()


def has_device(namespace: Namespace) -> bool:
    with namespace.netlink() as netlink:
        return bool(netlink.link_lookup(ifname="link0"))


async def test_a_link_that_was_killed_is_told_by_every_call() -> None:
    async def use() -> None:
        async with Lab(CLEAN, name="test_user_killed", backend="user") as lab:
            (pid,) = forwarders_of(os.getpid())
            os.kill(pid, signal.SIGKILL)
            for _ in range(2):
                with pytest.raises(LinkFailed, match="killed by signal 9"):
                    lab.counts()
            with pytest.raises(LinkFailed, match="killed by signal 9"):
                await lab.play(seed=1)

    with pytest.raises(LinkFailed, match="killed by signal 9"):
        await use()


def test_a_link_whose_interface_is_gone_says_why() -> None:
    with two_hosts("test_user_gone") as (client, server):
        wire = UserWire(End(client, "link0"), End(server, "link0"), mtu=1500)
        wire.counts()
        with server.netlink() as netlink:
            netlink.link("del", index=netlink.link_lookup(ifname="link0")[0])
        with pytest.raises(LinkFailed, match=r"ended with status 1: OSError: .*bad state") as failure:
            ask_until_it_fails(wire)
        assert "Traceback" in failure.value.__notes__[0]
        with pytest.raises(LinkFailed, match="bad state"):
            wire.close()
        wire.close()


def ask_until_it_fails(wire: UserWire) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        wire.counts()


def test_closing_removes_devices_and_process_and_keeps_the_counts() -> None:
    with two_hosts("test_user_close") as (client, server):
        with contextlib.closing(UserWire(End(client, "link0"), End(server, "link0"), mtu=1500)) as wire:
            assert has_device(client)
            assert has_device(server)
            (pid,) = forwarders_of(os.getpid())
        wire.close()
        assert not has_device(client)
        assert not has_device(server)
        assert not Path(f"/proc/{pid}").exists()
        assert wire.counts()["up"].sent == 0


def test_an_interface_that_exists_is_an_error_that_leaves_nothing() -> None:
    with two_hosts("test_user_exists") as (client, _):
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="busy"):
            UserWire(End(client, "link0"), End(client, "link0"), mtu=1500)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert not has_device(client)


def is_running(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


LIVING = """
import asyncio
from netem import Impairment, Lab, Scenario

async def main():
    async with Lab(Scenario("clean", Impairment(), Impairment()), name="test_user_orphan", backend="user"):
        print("up", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_when_its_maker_is_killed_the_link_ends_with_its_devices() -> None:
    with subprocess.Popen([sys.executable, "-c", LIVING], stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"up\n"
        left = [each for each in namespaces() if f".{maker.pid}." in each.name]
        (pid,) = forwarders_of(maker.pid)
        assert [has_device(each) for each in left] == [True, True]
        maker.kill()
    try:
        deadline = time.monotonic() + LIMIT_S
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_running(pid)
        assert [has_device(each) for each in left] == [False, False]
    finally:
        for each in left:
            each.delete()
