"""Ports of a namespace that lead to servers outside; no link is needed for that."""

import asyncio
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from eloquent.errors import ConfigurationError
from netem import scenario
from netem.lab.cable import Cable, attachments_of
from netem.lab.forward import Forward, Forwarder
from netem.lab.host import Host
from netem.lab.namespace import Namespace, namespace_name

TIMEOUT_S = 30.0  # for what must happen; nothing waits that long unless it fails


@pytest.fixture
def host() -> Iterator[Host]:
    """A host without a cable: its addresses are on its loopback interface."""
    namespace = Namespace.create(namespace_name("forward", 0, "server"))
    try:
        host = Host("server", namespace, attachments_of([Cable(scenario("clean"))])["server"])
        with namespace.netlink() as netlink:
            netlink.addr("add", index=1, address=host.address, prefixlen=32)
            netlink.addr("add", index=1, address=host.address_v6, prefixlen=128)
        yield host
    finally:
        namespace.delete()


@pytest.fixture
def forwarder() -> Iterator[Forwarder]:
    with Forwarder() as forwarder:
        yield forwarder


def outside(kind: socket.SocketKind, address: str = "127.0.0.1") -> socket.socket:
    """A server's socket outside."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, kind)
    server.settimeout(TIMEOUT_S)
    server.bind((address, 0))
    if kind == socket.SOCK_STREAM:
        server.listen(1000)
    return server


def inside(host: Host, kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    """A client's socket inside, connected."""

    def connect() -> socket.socket:
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        client.settimeout(TIMEOUT_S)
        try:
            client.connect((address, port))
        except OSError:
            client.close()
            raise
        return client

    return host.namespace.call(connect)


def to(server: socket.socket, port: int = 8000) -> Forward:
    target_host, target_port = server.getsockname()[:2]
    return Forward(port, target_host, target_port)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8000", Forward(8000, "127.0.0.1", 8000)),
        ("80=example.org:8080", Forward(80, "example.org", 8080)),
        ("80=[::1]:8080", Forward(80, "::1", 8080)),
    ],
    ids=["port", "name", "IPv6"],
)
def test_forms(text: str, expected: Forward) -> None:
    assert Forward.parse(text) == expected


@pytest.mark.parametrize("text", ["", "x", "80=", "80=8080", "80=::1:8080", "80=host", "-1", "1=a:2=b:3"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot forward"):
        Forward.parse(text)


@pytest.mark.parametrize("text", ["0", "65536", "80=host:0", "80=host:70000"])
def test_ports_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must be 1 to 65535"):
        Forward.parse(text)


def test_a_target_without_an_address_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"the host 'no-such-host\.invalid' has no address"):
        Forward(80, "no-such-host.invalid", 80).check_target()
    Forward(80, "127.0.0.1", 80).check_target()


@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("version", ["address", "address_v6"])
def test_each_direction_of_a_connection_ends_by_itself(
    host: Host, forwarder: Forwarder, version: str, target: str
) -> None:
    with outside(socket.SOCK_STREAM, target) as server:
        forwarder.add(host, to(server))
        with inside(host, socket.SOCK_STREAM, getattr(host, version), 8000) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                assert read_all(peer) == b"question"  # to its end, which has come through
                peer.sendall(b"answer")
                assert client.recv(100) == b"answer"
                peer.close()
            assert client.recv(100) == b""


def test_large_bodies_pass_both_ways_at_once(host: Host, forwarder: Forwarder) -> None:
    body = os.urandom(1 << 20) * 16  # more than the buffers on the way hold
    with outside(socket.SOCK_STREAM) as server:
        forwarder.add(host, to(server))
        with inside(host, socket.SOCK_STREAM, host.address, 8000) as client:
            peer, _ = server.accept()
            peer.settimeout(TIMEOUT_S)

            def send(through: socket.socket) -> threading.Thread:
                def work() -> None:
                    through.sendall(body)
                    through.shutdown(socket.SHUT_WR)

                thread = threading.Thread(target=work)
                thread.start()
                return thread

            with peer:
                threads = [send(client), send(peer)]
                received: list[bytes] = []
                reader = threading.Thread(target=lambda: received.append(read_all(peer)))
                reader.start()
                assert read_all(client) == body
                for thread in (*threads, reader):
                    thread.join()
                assert received == [body]


def test_many_connections_at_once(host: Host, forwarder: Forwarder) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async def ask(number: int) -> bytes:
        reader, writer = await asyncio.open_connection(host.address, 8000)
        writer.write(f"question {number}\n".encode())
        line = await reader.read()
        writer.close()
        return line

    async def ask_all() -> list[bytes]:
        return await asyncio.gather(*(ask(number) for number in range(300)))

    async def main() -> list[bytes]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
        forwarder.add(host, to(server.sockets[0]))
        async with server, asyncio.timeout(TIMEOUT_S):
            return await host.run(ask_all)

    assert asyncio.run(main()) == [f"QUESTION {number}\n".encode() for number in range(300)]


def test_a_reset_comes_through_as_a_reset(host: Host, forwarder: Forwarder) -> None:
    with outside(socket.SOCK_STREAM) as server:
        forwarder.add(host, to(server))
        with inside(host, socket.SOCK_STREAM, host.address, 8000) as client:
            peer, _ = server.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        client = inside(host, socket.SOCK_STREAM, host.address, 8000)
        peer, _ = server.accept()
        peer.settimeout(TIMEOUT_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with closing(peer), pytest.raises(ConnectionResetError):
            peer.recv(100)


def test_without_a_server_outside_the_connection_is_reset_and_the_user_is_told(
    host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    with outside(socket.SOCK_STREAM) as server:
        forward = to(server)
    with Forwarder() as forwarder:
        forwarder.add(host, forward)
        for _ in range(2):
            # It may be reset before connect() has returned.
            with (
                pytest.raises(ConnectionResetError),
                inside(host, socket.SOCK_STREAM, host.address, 8000) as client,
            ):
                client.recv(100)
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"netem: cannot forward to 127.0.0.1:{forward.target_port}: ")


@pytest.mark.parametrize("version", ["address", "address_v6"])
def test_datagrams_of_each_client_come_from_a_socket_of_their_own(
    host: Host, forwarder: Forwarder, version: str
) -> None:
    with outside(socket.SOCK_DGRAM) as server:
        forwarder.add(host, to(server))
        # Connected sockets: they get only what comes from the address that they sent to.
        with (
            inside(host, socket.SOCK_DGRAM, getattr(host, version), 8000) as first,
            inside(host, socket.SOCK_DGRAM, getattr(host, version), 8000) as second,
        ):
            seen = {}
            for client, payload in ((first, b"first"), (second, b"second"), (first, b"first")):
                client.send(payload)
                received, sender = server.recvfrom(100)
                assert received == payload
                assert seen.setdefault(payload, sender) == sender
            assert seen[b"first"] != seen[b"second"]
            for payload, sender in seen.items():
                server.sendto(payload.upper(), sender)
            assert first.recv(100) == b"FIRST"
            assert second.recv(100) == b"SECOND"


def test_datagrams_without_a_server_outside_are_lost_until_there_is_one(
    host: Host, forwarder: Forwarder
) -> None:
    with outside(socket.SOCK_DGRAM) as server:
        address = server.getsockname()
        forward = to(server)
    forwarder.add(host, forward)
    with inside(host, socket.SOCK_DGRAM, host.address, 8000) as client:
        client.send(b"to nobody")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(address)
            server.settimeout(0.05)
            # Until its socket is bound a datagram may still be on its way to nobody.
            for _ in range(int(TIMEOUT_S / 0.05)):
                client.send(b"to somebody")
                try:
                    assert server.recv(100).startswith(b"to")
                    return
                except TimeoutError:
                    continue
    pytest.fail("no datagram has come through")


def test_a_taken_port_is_refused(host: Host, forwarder: Forwarder) -> None:
    forward = Forward(8000, "127.0.0.1", 1)
    forwarder.add(host, forward)
    with pytest.raises(OSError, match="in use"):
        forwarder.add(host, forward)


def test_its_end_in_the_middle_of_a_connection_is_quiet(
    host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    with outside(socket.SOCK_STREAM) as server:
        with Forwarder() as forwarder:
            forwarder.add(host, to(server))
            client = inside(host, socket.SOCK_STREAM, host.address, 8000)
            peer, _ = server.accept()
        with client, peer:
            assert peer.recv(100) == b""
    assert capfd.readouterr().err == ""


def test_the_process_ends_with_its_maker() -> None:
    source = (
        "import time; from netem.lab.forward import Forwarder\n"
        "with Forwarder() as forwarder: print(forwarder._process.pid, flush=True); time.sleep(1000)"
    )
    maker = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    pid = int(maker.stdout.readline())
    handle = os.pidfd_open(pid)
    try:
        maker.send_signal(signal.SIGKILL)
        maker.communicate()
        # Readable means that the process has ended; pidfd_open(2).
        assert select.select([handle], [], [], TIMEOUT_S)[0]
    finally:
        os.close(handle)
