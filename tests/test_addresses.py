"""Where a server listens and what its tickets say, over real sockets."""

import socket
from typing import Any

import pytest

import eloquent
from eloquent import Server, ServerStream
from eloquent.addresses import advertised
from eloquent.errors import ConfigurationError
from eloquent.protocol.ticket import Ticket
from tests.loopback import KEYS, Run, echo, served


async def is_reached(server: Server) -> bool:
    """Whether a client gets through with a ticket of the server's own."""
    async with eloquent.connect(server.issue()) as connection, connection.ask("hello") as reply:
        return await reply.read() == "hello"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")


def test_a_wildcard_needs_an_advertised_address_before_it_issues(run: Run) -> None:
    async def case() -> None:
        async with served(echo, "0.0.0.0") as server:
            with pytest.raises(ConfigurationError, match=r'advertise="chat.example.com:\d+"'):
                server.issue()
        async with served(echo, "0.0.0.0", advertise="localhost") as server:
            assert Ticket.decode(server.issue()).ipv4 == ("127.0.0.1", server.address[1])
            assert await is_reached(server)

    run(case)


@needs_ipv6
def test_ipv6_alone_and_with_ipv4_on_one_socket(run: Run) -> None:
    peers: list[Any] = []

    async def handler(stream: ServerStream) -> None:
        peers.append(stream.peer)
        await echo(stream)

    async def case() -> None:
        async with served(handler, "::1") as server:
            assert Ticket.decode(server.issue()).ipv6 == server.address
            assert await is_reached(server)
        for advertise in ("127.0.0.1", "[::1]"):
            async with served(handler, "::", advertise=advertise) as server:
                assert await is_reached(server)
        assert [peer[0] for peer in peers] == ["::1", "127.0.0.1", "::1"]

    run(case)


@pytest.mark.parametrize(
    ("advertise", "expected"),
    [
        ("192.0.2.1:4433", (("192.0.2.1", 4433), None)),
        ("192.0.2.1", (("192.0.2.1", 1234), None)),
        ("[2001:db8::1]:4433", (None, ("2001:db8::1", 4433))),
        ("[2001:db8::1]", (None, ("2001:db8::1", 1234))),
        ("192.0.2.1:1, [2001:db8::1]:2", (("192.0.2.1", 1), ("2001:db8::1", 2))),
        (None, (None, None)),
    ],
)
def test_advertised_addresses(run: Run, advertise: str | None, expected: Any) -> None:
    async def case() -> None:
        assert await advertised(("::", 1234, 0, 0), advertise) == expected

    run(case)


@pytest.mark.parametrize(
    ("advertise", "message"),
    [
        ("", "is expected"),
        ("host:port", "is expected"),
        ("host:0", "is expected"),
        ("host:65536", "is expected"),
        ("2001:db8::1:4433", "is expected"),
        ("[2001:db8::1]4433", "is expected"),
        ("192.0.2.1:4433,", "is expected"),
        ("0.0.0.0:4433", "wildcard"),
        ("[::]:4433", "wildcard"),
        ("nowhere.invalid:4433", "'nowhere.invalid' has no address"),
        ("x" * 300 + ":1", "has no address"),
    ],
)
def test_what_cannot_be_advertised(run: Run, advertise: str, message: str) -> None:
    async def case() -> None:
        with pytest.raises(ConfigurationError, match=message):
            async with served(echo, "0.0.0.0", advertise=advertise):
                pass

    run(case)


def test_a_port_in_use_is_named(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            host, port = server.address
            with pytest.raises(ConfigurationError, match=f"on {host}:{port}: Address already in use"):
                async with eloquent.serve(echo, host, port, keys=KEYS):
                    pass

    run(case)


def test_an_address_of_another_machine_cannot_be_served(run: Run) -> None:
    async def case() -> None:
        with pytest.raises(ConfigurationError, match=r"cannot serve on 192\.0\.2\.77:"):
            async with served(echo, "192.0.2.77"):
                pass

    run(case)
