import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netem.lab.namespace import DIRECTORY, Namespace, namespace_name, namespaces


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace.create(namespace_name("test_namespace", 0, "host"))
    try:
        yield made
    finally:
        made.delete()


def test_it_has_a_loopback_of_its_own(namespace: Namespace) -> None:
    assert namespace.call(socket.if_nameindex) == [(1, "lo")]
    with namespace.call(socket.create_server, ("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with namespace.call(socket.create_connection, address) as inside:
            assert inside.getpeername() == address


def test_the_calling_thread_stays_outside(namespace: Namespace) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    inside = namespace.call(os.stat, "/proc/thread-self/ns/net").st_ino
    with namespace.netlink() as netlink:
        assert [link.get("ifname") for link in netlink.get_links()] == ["lo"]
    assert os.stat("/proc/thread-self/ns/net").st_ino == before != inside


def test_what_a_call_raises_comes_back(namespace: Namespace) -> None:
    with pytest.raises(ZeroDivisionError):
        namespace.call(divmod, 1, 0)


def test_sysctls_are_set_inside_only(namespace: Namespace) -> None:
    path = Path("/proc/sys/net/ipv4/ip_default_ttl")
    outside = path.read_text()
    namespace.set_sysctl("net/ipv4/ip_default_ttl", 77)
    assert namespace.call(path.read_text).strip() == "77"
    assert path.read_text() == outside


def test_names_keep_to_what_a_file_may_be_called() -> None:
    name = namespace_name("tests/test_x.py::test[a b]" + "é" * 300, 3, "server")
    assert len(name) < 255
    assert "/" not in name
    assert name.isascii()
    assert name.endswith(".3.server")


def test_a_name_that_is_taken_is_refused(namespace: Namespace) -> None:
    with pytest.raises(FileExistsError):
        Namespace.create(namespace.name)
    assert namespace.call(socket.if_nameindex)


def test_deleting_ends_its_processes_and_is_done_once() -> None:
    namespace = Namespace.create(namespace_name("test_namespace", 1, "host"))
    with subprocess.Popen(namespace.command(["sleep", "600"])) as process:
        while process.pid not in namespace.processes():
            time.sleep(0.001)
        namespace.delete()
        assert process.wait() == -9
    assert not namespace.path.exists()
    assert namespace not in namespaces()
    namespace.delete()


def test_a_namespace_that_was_never_mounted_can_be_deleted() -> None:
    name = namespace_name("test_namespace", 2, "host")
    DIRECTORY.mkdir(exist_ok=True)
    (DIRECTORY / name).touch()
    Namespace(name).delete()
    assert not (DIRECTORY / name).exists()


def test_only_namespaces_whose_maker_is_gone_are_stale(namespace: Namespace) -> None:
    program = (
        "from netem.lab.namespace import *; n = Namespace.create(namespace_name('test_stale', 0, 'host'));"
        "print(n.name, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        other = Namespace(maker.stdout.readline().strip())
        try:
            assert other in namespaces()
            assert not other.is_stale
            maker.kill()
            maker.wait()
            assert other.is_stale
        finally:
            other.delete()
    assert not namespace.is_stale
    assert not Namespace("somebody.else").is_stale
