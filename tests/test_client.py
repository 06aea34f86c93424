"""The client over real loopback sockets, on both event loops."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import uvloop

import eloquent
from eloquent import KeyRing, Server, ServerStream, Ticket, TicketIssuer
from eloquent.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionClosed,
    ConnectRefused,
    ConnectTimeout,
    Interrupted,
    StreamStopped,
    TicketError,
    UsageError,
)
from eloquent.keys import create_keys, load_keys
from eloquent.protocol.admission import Limits
from eloquent.protocol.content import Custom, Text, Undecodable
from eloquent.protocol.events import PathChanged, Resumed, StreamOpened
from eloquent.protocol.listener import Listener
from eloquent.protocol.receive import STREAM_WINDOW
from eloquent.protocol.wire import RefusalCode
from eloquent.store import MemoryStore

TIMEOUT_S = 20.0  # for what must happen; nothing waits that long unless it fails

KEYS = KeyRing.generate(os.urandom)

Case = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Case], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_case(case: Case) -> None:
        async def limited() -> None:
            await asyncio.wait_for(case(), TIMEOUT_S)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(limited())

    return run_case


@asynccontextmanager
async def served(handler: Any, **options: Any) -> AsyncIterator[Server]:
    async with eloquent.serve(handler, "127.0.0.1", 0, keys=KEYS, **options) as server:
        yield server


async def echo(stream: ServerStream) -> None:
    prompt = await stream.prompt()
    assert isinstance(prompt, str)
    await stream.send(prompt)


def issuer(**options: Any) -> TicketIssuer:
    return TicketIssuer(KEYS, entropy=os.urandom, **options)


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


def test_turns_follow_one_another_on_one_connection(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server, eloquent.connect(server.issue()) as connection:
            for number in range(5):
                async with connection.ask(f"turn {number}") as reply:
                    assert [text async for text in reply.text()] == [f"turn {number}"]
                    assert (reply.id, reply.offset, reply.is_complete) == (number, 7, True)
                    assert await reply.read() == ""

    run(case)


def test_a_connection_can_be_awaited(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            connection = await eloquent.connect(server.issue())
            async with connection.ask("hello") as reply:
                assert await reply.read() == "hello"
            await connection.close()
            await connection.close()

    run(case)


def test_more_turns_than_streams_at_once(run: Run) -> None:
    async def case() -> None:
        limits = Limits(streams=3)
        async with served(echo, limits=limits) as server, eloquent.connect(server.issue()) as connection:
            for number in range(20):
                async with connection.ask(str(number)) as reply:
                    assert await reply.read() == str(number)

    run(case)


def test_too_many_streams_at_once_are_the_callers_mistake(run: Run) -> None:
    async def wait_for_ever(stream: ServerStream) -> None:
        await stream.send("here")
        await asyncio.Event().wait()

    async def case() -> None:
        limits = Limits(streams=2)
        async with (
            served(wait_for_ever, limits=limits) as server,
            eloquent.connect(server.issue()) as connection,
            connection.ask("1") as first,
            connection.ask("2"),
        ):
            assert await anext(first) == Text("here")
            with pytest.raises(UsageError, match="2 streams are open"):
                async with connection.ask("3"):
                    pass

    run(case)


def test_bytes_that_are_no_text_appear_only_among_the_events(run: Run) -> None:
    async def handler(stream: ServerStream) -> AsyncIterator[Any]:
        yield b"a\xffb"
        yield Custom("n", 1)
        yield b"\xe2\x82"

    async def case() -> None:
        async with served(handler) as server, eloquent.connect(server.issue()) as connection:
            async with connection.ask("?") as reply:
                assert [event async for event in reply] == [
                    Text("a"),
                    Undecodable(b"\xff"),
                    Text("b"),
                    Custom("n", 1),
                    Undecodable(b"\xe2\x82"),
                ]
            async with connection.ask("?") as reply:
                assert await reply.read() == "ab"

    run(case)


def test_leaving_early_stops_the_handler(run: Run) -> None:
    async def case() -> None:
        stopped = asyncio.Event()

        async def handler(stream: ServerStream) -> None:
            await stream.send("one ")
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        async with served(handler) as server, eloquent.connect(server.issue()) as connection:
            async with connection.ask("?") as reply:
                async for text in reply.text():
                    assert text == "one "
                    break
            await stopped.wait()
            assert not reply.is_complete
            with pytest.raises(UsageError, match="was left"):
                await reply.read()
            with pytest.raises(UsageError, match="was left"):
                await reply.send("more")

    run(case)


def test_leaving_early_reaches_a_handler_that_only_sends(run: Run) -> None:
    async def case() -> None:
        ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        async def handler(stream: ServerStream) -> None:
            try:
                while True:
                    await stream.send("token " * 1000)
            except BaseException as error:
                ended.set_result(error)
                raise

        async with served(handler) as server, eloquent.connect(server.issue()) as connection:
            async with connection.ask("?") as reply:
                await anext(reply)
            assert isinstance(await ended, (asyncio.CancelledError, StreamStopped))

    run(case)


async def send_for_ever(reply: eloquent.Reply) -> None:
    while True:
        await reply.send("more " * 1000)


def test_a_prompt_that_the_handler_does_not_want_stops(run: Run) -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.send("enough")

    async def case() -> None:
        async with (
            served(handler) as server,
            eloquent.connect(server.issue()) as connection,
            connection.open() as reply,
        ):
            await reply.send("this is ")
            assert await anext(reply) == Text("enough")
            with pytest.raises(StreamStopped):
                await send_for_ever(reply)
            assert await reply.read() == ""
            assert reply.is_complete

    run(case)


def test_a_slow_reader_pushes_back(run: Run) -> None:
    async def case() -> None:
        chunk = "x" * 8000
        count = 2 * 1024 * 1024 // len(chunk)
        pushed_back: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def handler(stream: ServerStream) -> None:
            for _ in range(count):
                sending = asyncio.ensure_future(stream.send(chunk))
                done, _ = await asyncio.wait({sending}, timeout=None if pushed_back.done() else 0.3)
                if not done and not pushed_back.done():
                    pushed_back.set_result(stream.offset)
                await sending

        async with (
            served(handler) as server,
            eloquent.connect(server.issue()) as connection,
            connection.ask("?") as reply,
        ):
            # Nobody reads, so all that can be under way is a window and what waits to be sent.
            offset = await pushed_back
            assert STREAM_WINDOW <= offset <= STREAM_WINDOW + 64 * 1024 + len(chunk) + 3
            assert await reply.read() == chunk * count

    run(case)


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


def test_a_changed_network_does_not_interrupt_the_answer(run: Run) -> None:
    async def case() -> None:
        peers: list[Any] = []
        statuses: list[Any] = []

        async def handler(stream: ServerStream) -> None:
            async for event in stream:
                peers.append(stream.peer)
                assert isinstance(event, Text)
                await stream.send(event.text)

        async with (
            served(handler) as server,
            eloquent.connect(server.issue(), on_status=statuses.append) as connection,
            connection.open() as reply,
        ):
            for number in range(4):
                await reply.send(f"{number} ")
                assert await anext(reply) == Text(f"{number} ")
                connection.network_changed()
            reply.finish()
            assert await reply.read() == ""
            assert reply.is_complete
        assert len(set(peers)) > 1
        changes = [status.address for status in statuses if isinstance(status, PathChanged)]
        assert set(changes) & set(peers)
        assert any(isinstance(status, Resumed) for status in statuses)

    run(case)


def test_statistics(run: Run) -> None:
    async def handler(stream: ServerStream) -> AsyncIterator[str]:
        for token in ("one ", "two ", "three"):
            yield token

    async def case() -> None:
        async with served(handler) as server, eloquent.connect(server.issue()) as connection:
            async with connection.ask("?") as reply:
                assert reply.stats.ttft_s is None
                await reply.read()
                stats = reply.stats
                assert stats.ttft_s is not None
                assert stats.ttft_s > 0
                assert len(stats.itl_s) == 2
                assert (stats.stalled_s, stats.stall_ratio) == (0.0, 0.0)
            before = connection.stats
            assert before.rtt_s is not None
            assert before.datagrams_sent >= 1
            assert before.bytes_received >= len("one two three")
            assert before.loss_down == 0.0
            # What follows is counted on top.
            connection.network_changed()
            async with connection.ask("?") as reply:
                await reply.read()
            after = connection.stats
            assert after.datagrams_sent > before.datagrams_sent
            assert after.bytes_received > before.bytes_received

    run(case)


def test_a_reply_is_used_inside_of_its_block(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            unopened = eloquent.connect(server.issue())._connection
            with pytest.raises(UsageError, match="not open"):
                unopened.network_changed()
            async with eloquent.connect(server.issue()) as connection:
                reply = connection.ask("?")
                for use in (lambda: reply.offset, lambda: reply.is_complete, lambda: reply.id, reply.finish):
                    with pytest.raises(UsageError, match="has not been started"):
                        use()
                with pytest.raises(UsageError, match="has not been started"):
                    await reply.read()
                async with reply:
                    with pytest.raises(UsageError, match="entered before"):
                        await reply.__aenter__()
                    with pytest.raises(UsageError, match="has ended"):
                        await reply.send("more")  # The prompt was whole.
            with pytest.raises(UsageError, match="not open"):
                async with connection.ask("?"):
                    pass

    run(case)


def test_closing_interrupts_readers_in_other_tasks(run: Run) -> None:
    async def wait_for_ever(stream: ServerStream) -> None:
        await stream.send("one ")
        await asyncio.Event().wait()

    async def case() -> None:
        async with served(wait_for_ever) as server:
            connection = await eloquent.connect(server.issue())
            reply = await connection.ask("?").__aenter__()
            assert await anext(reply) == Text("one ")
            reading = asyncio.create_task(reply.read())
            await asyncio.sleep(0)
            await connection.close()
            with pytest.raises(Interrupted) as caught:
                await reading
            assert (caught.value.text, caught.value.offset) == ("one ", 5)
            assert isinstance(caught.value.__cause__, ConnectionClosed)
            await server.close(grace_s=0)

    run(case)


SERVER_PROGRAM = """
import asyncio, sys
from pathlib import Path
import eloquent

async def answer(stream):
    yield f"answer to {await stream.prompt()}"
    if sys.argv[3] == "waits":
        await asyncio.Event().wait()

async def main():
    async with eloquent.serve(answer, "127.0.0.1", int(sys.argv[1]), keys=Path(sys.argv[2])) as server:
        print(server.address[1], flush=True)
        await server.serve_forever()

asyncio.run(main())
"""


@asynccontextmanager
async def server_process(port: int, keys: Any, behaviour: str) -> AsyncIterator[tuple[int, int]]:
    """A server of its own; its port and process id. It is killed at the end, without a word."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER_PROGRAM, str(port), str(keys), behaviour, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline()), process.pid
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # Its pipes outlive the process otherwise.


def test_a_killed_server_interrupts_the_answer_but_not_the_conversation(run: Run, tmp_path: Any) -> None:
    path = tmp_path / "keys"
    create_keys(path)

    async def case() -> None:
        ports: list[int] = []

        async def fetch() -> Ticket:
            tickets = TicketIssuer(load_keys(path), ipv4=("127.0.0.1", ports[0]), entropy=os.urandom)
            return tickets.issue(wall_now=time.time())

        async with server_process(0, path, "waits") as (port, _):
            ports.append(port)
            connection = await eloquent.connect(fetch)
            reply = await connection.ask("one").__aenter__()
            assert await anext(reply) == Text("answer to one")
        async with server_process(port, path, "answers"):
            # Rather than after three seconds of silence.
            connection.network_changed()
            with pytest.raises(Interrupted, match="no longer knows") as caught:
                await reply.read()
            assert (caught.value.text, caught.value.offset) == ("answer to one", reply.offset)
            await reply.__aexit__(None, None, None)
            async with connection.ask("two") as reply:
                assert await reply.read() == "answer to two"
            await connection.close()

    run(case)
