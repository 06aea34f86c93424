"""The client over real loopback sockets, on both event loops."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import eloquent
from eloquent import ServerStream, Ticket, TicketIssuer
from eloquent.errors import (
    ConnectionClosed,
    Interrupted,
    StreamStopped,
    UsageError,
)
from eloquent.keys import create_keys, load_keys
from eloquent.protocol.admission import Limits
from eloquent.protocol.content import Custom, Text, Undecodable
from eloquent.protocol.events import PathChanged, Resumed, Stalled, Thinking
from eloquent.protocol.receive import STREAM_WINDOW
from netem import Impairment, Outage, Relay, Scenario
from tests.loopback import Run, echo, issuer, served


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


@asynccontextmanager
async def behind(scenario: Scenario, handler: Any) -> AsyncIterator[Callable[[], Ticket]]:
    """A server on the other side of a relay, and what issues tickets for it."""
    async with served(handler) as server, Relay(server.address, scenario, seed=3) as relay:
        tickets = issuer(ipv4=relay.address)
        yield lambda: tickets.issue(wall_now=time.time())
        # Without the wait for a client whose CLOSE was lost.
        await server.close(grace_s=0)


def test_answers_are_exact_behind_a_bad_link(run: Run) -> None:
    bad = Impairment(
        delay_s=0.002, loss=0.2, duplication=0.1, reordering=0.2, reordering_delay_s=0.004, corruption=0.05
    )

    async def handler(stream: ServerStream) -> AsyncIterator[str]:
        prompt = await stream.prompt()
        for number in range(300):
            yield f"{prompt}-{number} "
            await asyncio.sleep(0)

    async def turn(connection: eloquent.Connection, prompt: str) -> None:
        async with connection.ask(prompt) as reply:
            assert await reply.read() == "".join(f"{prompt}-{number} " for number in range(300))

    async def case() -> None:
        async with (
            behind(Scenario("bad", bad, bad), handler) as new_ticket,
            eloquent.connect(new_ticket()) as connection,
        ):
            await asyncio.gather(*(turn(connection, str(number)) for number in range(8)))
            assert connection.stats.loss_down > 0

    run(case)


@pytest.mark.slow  # the protocol waits for seconds before it speaks of a stall or of thinking
def test_what_is_announced_besides_the_answer(run: Run) -> None:
    async def case() -> None:
        statuses: list[Any] = []
        is_thinking = asyncio.Event()

        def on_status(status: eloquent.Status) -> None:
            statuses.append(status)
            if isinstance(status, Thinking):
                is_thinking.set()

        async def handler(stream: ServerStream) -> AsyncIterator[str]:
            for number in range(40):
                yield f"{number} "
                await asyncio.sleep(0.1)
            await is_thinking.wait()

        tunnel = Scenario("tunnel", Impairment(), Impairment(), outages=(Outage(1.0, 2.5),))
        async with (
            behind(tunnel, handler) as new_ticket,
            eloquent.connect(new_ticket(), on_status=on_status) as connection,
            connection.ask("?") as reply,
        ):
            assert await reply.read() == "".join(f"{number} " for number in range(40))
        kinds = [type(status) for status in statuses if not isinstance(status, PathChanged)]
        assert kinds[0] is Stalled
        assert Resumed in kinds
        assert kinds[-1] is Thinking
        # From when the silence began, not from when it was long enough to be called a stall.
        assert 1.5 < reply.stats.stalled_s < 4.0
        assert 0.0 < reply.stats.stall_ratio < 1.0

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
    prompt = await stream.prompt()
    yield f"answer to {prompt}"
    if prompt == "wait":
        await asyncio.Event().wait()

async def main():
    async with eloquent.serve(answer, "127.0.0.1", int(sys.argv[1]), keys=Path(sys.argv[2])) as server:
        print(server.address[1], flush=True)
        await server.serve_forever()

asyncio.run(main())
"""


@asynccontextmanager
async def server_process(port: int, keys: Any) -> AsyncIterator[int]:
    """A server in a process of its own, and its port; it is killed at the end, without a word."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER_PROGRAM, str(port), str(keys), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline())
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

        async with server_process(0, path) as port:
            ports.append(port)
            connection = await eloquent.connect(fetch)
            # By the second turn the client has the ticket with which it can resume.
            async with connection.ask("one") as reply:
                assert await reply.read() == "answer to one"
            reply = await connection.ask("wait").__aenter__()
            assert await anext(reply) == Text("answer to wait")
        async with server_process(port, path):
            # Rather than after three seconds of silence.
            connection.network_changed()
            with pytest.raises(Interrupted, match="no longer knows") as caught:
                await reply.read()
            assert (caught.value.text, caught.value.offset) == ("answer to wait", reply.offset)
            await reply.__aexit__(None, None, None)
            async with connection.ask("two") as reply:
                assert await reply.read() == "answer to two"
            await connection.close()

    run(case)
