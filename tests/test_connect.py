"""How a client reaches a server: tickets, addresses, refusals, timeouts."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

import eloquent
from eloquent import KeyRing, Server, Ticket, TicketIssuer
from eloquent.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionClosed,
    ConnectRefused,
    ConnectTimeout,
    TicketError,
)
from eloquent.protocol.events import StreamOpened
from eloquent.protocol.listener import Listener
from eloquent.protocol.wire import RefusalCode
from eloquent.store import MemoryStore
from tests.loopback import Run, echo, issuer, served


def silent_socket(host: str = "127.0.0.1") -> socket.socket:
    """Takes every datagram and answers none."""
    udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((host, 0))
    return udp


def closed_port(host: str = "127.0.0.1") -> tuple[str, int]:
    with silent_socket(host) as udp:
        address: tuple[str, int] = udp.getsockname()[:2]
        return address


def has_ipv6() -> bool:
    try:
        silent_socket("::1").close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")


def test_the_first_prompt_rides_in_the_first_datagram(run: Run) -> None:
    async def case() -> None:
        with closing(silent_socket()) as server:
            server.setblocking(False)
            tickets = issuer(ipv4=server.getsockname())
            now = time.monotonic()
            offset = time.time() - now
            listener = Listener(tickets, MemoryStore(), wall_offset=offset, entropy=os.urandom, now=now)
            ticket = tickets.issue(wall_now=time.time())
            async with eloquent.connect(ticket) as connection:
                await connection.ask("in the first?").__aenter__()
                first = await asyncio.get_running_loop().sock_recv(server, 2000)
        listener.receive_datagram(first, "client", now=now)
        listener.datagrams_to_send(now=now)
        opened = listener.next_event()
        assert opened is not None
        assert isinstance(opened[1], StreamOpened)
        assert b"in the first?" in opened[1].stream.read()

    run(case)


def test_every_form_of_a_ticket(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:

            def fresh() -> Ticket:
                return Ticket.decode(server.issue())

            async def fetch() -> str:
                return fresh().encode()

            text = fresh().encode()
            padded = f" {fresh().encode()}\n"
            for source in (fresh(), text, padded, fresh().encode().encode(), fresh().to_bytes(), fetch):
                async with eloquent.connect(source) as connection, connection.ask("hello") as reply:
                    assert await reply.read() == "hello"

    run(case)


@pytest.mark.parametrize("source", ["", "no ticket", b"", b"\x98", "QUJD", 42, None, object(), ["ticket"]])
def test_what_is_no_ticket(run: Run, source: Any) -> None:
    with pytest.raises(ConfigurationError):
        eloquent.connect(source)

    async def fetch() -> Any:
        return source

    async def case() -> None:
        with pytest.raises(TicketError):
            await eloquent.connect(fetch)

    run(case)


def test_what_the_function_that_gets_tickets_raises_passes_through(run: Run) -> None:
    async def fetch() -> str:
        raise LookupError("not logged in")

    async def case() -> None:
        with pytest.raises(LookupError, match="not logged in"):
            await eloquent.connect(fetch)
        with pytest.raises(ConfigurationError, match="must be async"):
            await eloquent.connect(lambda: "ticket")  # type: ignore[arg-type, return-value]

    run(case)


def test_a_ticket_that_does_not_come_is_a_timeout(run: Run) -> None:
    async def fetch() -> str:
        await asyncio.Event().wait()
        return ""

    async def case() -> None:
        with pytest.raises(ConnectTimeout, match=r"no ticket came within 0\.05 s"):
            await eloquent.connect(fetch, timeout=0.05)

    run(case)


def test_a_server_that_does_not_answer(run: Run) -> None:
    async def case() -> None:
        with closing(silent_socket()) as udp:
            host, port = udp.getsockname()
            ticket = issuer(ipv4=(host, port)).issue(wall_now=time.time())
            async with (
                eloquent.connect(ticket, timeout=0.05) as connection,
                connection.ask("anyone?") as reply,
            ):
                with pytest.raises(ConnectTimeout, match=rf"no answer from {host}:{port} within 0\.05 s$"):
                    await reply.read()
                # And it stays so, as there is no other ticket.
                with pytest.raises(ConnectTimeout):
                    async with connection.ask("again?"):
                        pass

    run(case)


def test_a_port_on_which_nobody_listens(run: Run) -> None:
    async def case() -> None:
        address = closed_port()
        ticket = issuer(ipv4=address).issue(wall_now=time.time())
        async with eloquent.connect(ticket, timeout=0.1) as connection, connection.ask("anyone?") as reply:
            with pytest.raises(ConnectTimeout, match=r"within 0\.1 s: nothing listens there"):
                await reply.read()

    run(case)


def test_a_host_without_an_address(run: Run) -> None:
    async def case() -> None:
        ticket = issuer(ipv4=("nowhere.invalid", 4433)).issue(wall_now=time.time())
        with pytest.raises(ConnectError, match=r"'nowhere\.invalid' has no address"):
            await eloquent.connect(ticket)

    run(case)


def test_a_ticket_of_other_keys_gets_no_answer_at_all(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            others = TicketIssuer(KeyRing.generate(os.urandom), ipv4=server.address, entropy=os.urandom)
            ticket = others.issue(wall_now=time.time())
            async with eloquent.connect(ticket, timeout=0.05) as connection, connection.ask("?") as reply:
                with pytest.raises(ConnectTimeout):
                    await reply.read()

    run(case)


@needs_ipv6
@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "refusing"])
def test_ipv4_helps_where_ipv6_does_not_answer(run: Run, is_silent: bool) -> None:
    async def case() -> None:
        async with served(echo) as server:
            silent = silent_socket("::1")
            ipv6 = silent.getsockname()[:2]
            if not is_silent:
                silent.close()
            ticket = issuer(ipv4=server.address, ipv6=ipv6).issue(wall_now=time.time())
            async with eloquent.connect(ticket) as connection:
                async with connection.ask("hello") as reply:
                    assert await reply.read() == "hello"
                async with connection.ask("again") as reply:
                    assert await reply.read() == "again"
            silent.close()

    run(case)


@needs_ipv6
def test_an_address_for_which_there_is_no_route_is_skipped(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            # A link-local address without an interface cannot be connected to.
            ticket = issuer(ipv4=server.address, ipv6=("fe80::1", 4433)).issue(wall_now=time.time())
            async with eloquent.connect(ticket) as connection, connection.ask("hello") as reply:
                assert await reply.read() == "hello"

    run(case)


def expired(server: Server) -> Ticket:
    return server.tickets.issue(wall_now=time.time() - 120)


def used_elsewhere(server: Server) -> Ticket:
    return issuer(ipv4=server.address, worker=7).issue(wall_now=time.time())


@pytest.mark.parametrize(
    ("make", "code", "reason"),
    [(expired, RefusalCode.EXPIRED, "expired"), (used_elsewhere, RefusalCode.FOREIGN, "another server")],
)
def test_a_ticket_that_is_refused(
    run: Run, make: Callable[[Server], Ticket], code: RefusalCode, reason: str
) -> None:
    async def case() -> None:
        async with served(echo) as server:
            async with eloquent.connect(make(server)) as connection, connection.ask("?") as reply:
                with pytest.raises(ConnectRefused, match=reason) as caught:
                    await reply.read()
            assert caught.value.code == code

    run(case)


def test_a_ticket_works_once(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            ticket = server.issue()
            async with eloquent.connect(ticket) as connection, connection.ask("first") as reply:
                assert await reply.read() == "first"
            async with eloquent.connect(ticket) as connection, connection.ask("second") as reply:
                with pytest.raises(ConnectRefused, match="used before") as caught:
                    await reply.read()
            assert caught.value.code == RefusalCode.USED

    run(case)


def test_a_refused_ticket_is_replaced_where_there_is_a_source(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            sources = iter([expired(server).encode(), server.issue()])

            async def fetch() -> str:
                return next(sources)

            async with eloquent.connect(fetch) as connection, connection.ask("hello") as reply:
                assert await reply.read() == "hello"

    run(case)


def test_a_source_of_bad_tickets_ends_in_the_refusal(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:

            async def fetch() -> Ticket:
                return expired(server)

            async with eloquent.connect(fetch, timeout=0.2) as connection, connection.ask("?") as reply:
                with pytest.raises(ConnectRefused, match="expired"):
                    await reply.read()

    run(case)


def test_a_source_that_fails_later_is_the_cause_of_the_error(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            sources = iter([expired(server)])

            async def fetch() -> Ticket:
                return next(sources, None) or {}["logged out"]

            async with eloquent.connect(fetch) as connection, connection.ask("?") as reply:
                with pytest.raises(ConnectError, match="getting one failed") as caught:
                    await reply.read()
                assert isinstance(caught.value.__cause__, KeyError)

    run(case)


def test_a_new_turn_reconnects_after_the_server_has_closed(run: Run) -> None:
    async def case() -> None:
        servers: list[Server] = []

        async def fetch() -> str:
            return servers[-1].issue()

        async with served(echo) as first:
            servers.append(first)
            connection = await eloquent.connect(fetch)
            async with connection.ask("one") as reply:
                assert await reply.read() == "one"
            fixed = await eloquent.connect(first.issue())
            async with fixed.ask("one") as reply:
                assert await reply.read() == "one"
        async with served(echo) as second:
            servers.append(second)
            prompts = [f"after {number}" for number in range(3)]

            async def turn(prompt: str) -> None:
                async with connection.ask(prompt) as reply:
                    assert await reply.read() == prompt

            await asyncio.gather(*map(turn, prompts))
            with pytest.raises(ConnectionClosed, match="ended by the server: the server stops") as caught:
                async with fixed.ask("two"):
                    pass
            assert caught.value.by == "remote"
            await connection.close()
            await fixed.close()

    run(case)


def test_closing_while_a_new_ticket_is_fetched_opens_nothing(run: Run) -> None:
    async def case() -> None:
        is_asked, may_come = asyncio.Event(), asyncio.Event()
        may_come.set()

        async with served(echo) as server:

            async def fetch() -> str:
                is_asked.set()
                await may_come.wait()
                return server.issue()

            connection = await eloquent.connect(fetch)
            async with connection.ask("one") as reply:
                assert await reply.read() == "one"
        is_asked.clear()
        may_come.clear()
        asking = asyncio.create_task(connection.ask("two").__aenter__())
        await is_asked.wait()
        await connection.close()
        may_come.set()
        with pytest.raises(ConnectionClosed, match="the connection was closed"):
            await asking

    run(case)
