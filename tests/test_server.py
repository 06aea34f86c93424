"""The server over real loopback sockets, on both event loops."""

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eloquent
from eloquent import Server, ServerStream
from eloquent.errors import (
    AnswerFailed,
    ConfigurationError,
    ConnectionClosed,
    ConnectRefused,
    Interrupted,
    TicketError,
    UsageError,
)
from eloquent.keys import create_keys
from eloquent.protocol.content import Content, Custom, Failure, Finish, Reasoning, Text, Undecodable
from eloquent.protocol.listener import GRACE
from eloquent.protocol.streams import LogGroup
from eloquent.protocol.wire import RefusalCode
from eloquent.store import MemoryStore
from tests.loopback import KEYS, Run, served


async def answer_to(server: Server, prompt: Any, claims: dict[str, object] | None = None) -> list[Content]:
    """All events of one answer, on a connection of its own."""
    async with (
        eloquent.connect(server.issue(claims)) as connection,
        connection.ask(prompt) as reply,
    ):
        return [event async for event in reply]


async def echo(stream: ServerStream) -> None:
    prompt = await stream.prompt()
    await stream.send(prompt if isinstance(prompt, (str, bytes)) else Custom("events", len(prompt)))


def test_claims_peer_and_id_reach_the_handler(run: Run) -> None:
    seen: list[Any] = []

    async def handler(stream: ServerStream) -> None:
        seen.append((stream.id, stream.claims, stream.peer))

    async def case() -> None:
        async with (
            served(handler) as server,
            eloquent.connect(server.issue({"sub": "alice"})) as connection,
        ):
            for _ in range(2):
                async with connection.ask("?") as reply:
                    assert await reply.read() == ""
        assert [number for number, _, _ in seen] == [0, 1]
        for _, claims, peer in seen:
            assert claims == {"sub": "alice"}
            assert peer[0] == "127.0.0.1"

    run(case)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Why?", "Why?"),
        ("", ""),
        (b"Why \xf0\x9f\x98\x80?", "Why \U0001f600?"),
        ([b"\xf0\x9f", b"\x98\x80"], "\U0001f600"),
        (b"not \xff UTF-8", b"not \xff UTF-8"),
        (b"half \xf0\x9f", b"half \xf0\x9f"),
        (["two ", "pieces"], "two pieces"),
        ([Text("look: "), Custom("image", b"png")], [Text("look: "), Custom("image", b"png")]),
        (Custom("only", {"n": 1}), [Custom("only", {"n": 1})]),
    ],
)
def test_a_prompt_comes_in_its_plainest_form(run: Run, prompt: Any, expected: Any) -> None:
    seen: list[Any] = []

    async def handler(stream: ServerStream) -> None:
        seen.append(await stream.prompt())

    async def case() -> None:
        async with served(handler) as server:
            await answer_to(server, prompt)
        assert seen == [expected]

    run(case)


def test_a_prompt_can_be_read_while_it_comes(run: Run) -> None:
    async def handler(stream: ServerStream) -> None:
        async for event in stream:
            assert isinstance(event, Text)
            await stream.send(event.text.upper())

    async def case() -> None:
        async with (
            served(handler) as server,
            eloquent.connect(server.issue()) as connection,
            connection.open() as reply,
        ):
            for word in ("one", "two", "three"):
                await reply.send(word)
                assert await anext(reply) == Text(word.upper())
            reply.finish()
            assert await reply.read() == ""
            assert reply.is_complete

    run(case)


def test_a_prompt_over_the_limit_fails_the_handler(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.prompt(max_bytes=1000)

    async def case() -> None:
        async with served(handler) as server:
            with pytest.raises(AnswerFailed, match="more than the 1000 bytes"):
                await answer_to(server, "x" * 300_000)

    run(case)
    assert "the handler of stream 0 failed" in caplog.text


async def as_generator(stream: ServerStream) -> AsyncIterator[Any]:
    for token in tokens():
        yield token


async def with_send(stream: ServerStream) -> None:
    for token in tokens():
        await stream.send(token)


async def with_send_all(stream: ServerStream) -> None:
    await stream.send_all(as_generator(stream))


def tokens() -> list[Any]:
    smile = "\U0001f600".encode()
    return ["Hi ", smile[:1], smile[1:], Reasoning("hm"), b"\xff", Finish("stop"), smile[:2]]


@pytest.mark.parametrize("handler", [as_generator, with_send, with_send_all])
def test_a_handler_sends_text_bytes_and_events(run: Run, handler: Any) -> None:
    async def case() -> None:
        async with served(handler) as server:
            assert await answer_to(server, "?") == [
                Text("Hi "),
                Text("\U0001f600"),
                Reasoning("hm"),
                Undecodable(b"\xff"),
                Finish("stop"),
                Undecodable("\U0001f600".encode()[:2]),
            ]

    run(case)


def test_a_token_of_a_megabyte_comes_whole(run: Run) -> None:
    text = "".join(random.Random(1).choices("abcdeé\U0001f600 ", k=800_000))
    assert len(text.encode()) > 1024 * 1024

    async def case() -> None:
        async with (
            served(echo) as server,
            eloquent.connect(server.issue()) as connection,
            connection.ask(text) as reply,
        ):
            assert await reply.read() == text
            assert reply.is_complete

    run(case)


@pytest.mark.parametrize("result", [None, 42])
def test_a_handler_that_is_not_async_is_an_error_on_both_sides(
    run: Run, caplog: pytest.LogCaptureFixture, result: object
) -> None:
    async def case() -> None:
        async with served(lambda stream: result) as server:
            with pytest.raises(AnswerFailed, match="must be async"):
                await answer_to(server, "?")

    run(case)
    assert "ConfigurationError" in caplog.text


async def collect(reply: eloquent.Reply, events: list[Content]) -> None:
    async for event in reply:
        events.append(event)


def test_a_handler_that_raises_tells_the_client_how_far_the_answer_is_good(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.send("Since ")
        await stream.send("light")
        raise RuntimeError("the model ran out of light")

    async def case() -> None:
        async with (
            served(handler) as server,
            eloquent.connect(server.issue()) as connection,
            connection.ask("Why?") as reply,
        ):
            events: list[Content] = []
            with pytest.raises(AnswerFailed) as caught:
                await collect(reply, events)
            message = "the model ran out of light"
            offset = len(b"_Since _light")
            assert events == [Text("Since "), Text("light"), Failure(message, offset)]
            assert message in str(caught.value)
            assert (caught.value.text, caught.value.offset) == ("Since light", offset)
            assert not reply.is_complete

    run(case)
    assert caplog.text.count("the handler of stream 0 failed") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [(KeyError(), "KeyError"), (ValueError("\udcff"), "?"), (ValueError("x" * 100_000), "x" * 1024)],
)
def test_any_failure_can_be_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    # The log would hold the lone surrogate, which pytest-xdist cannot pass on.
    monkeypatch.setattr(logging.getLogger("eloquent.server"), "disabled", True)

    async def handler(stream: ServerStream) -> None:
        raise error

    async def case() -> None:
        async with (
            served(handler) as server,
            eloquent.connect(server.issue()) as connection,
            connection.ask("?") as reply,
        ):
            assert await anext(reply) == Failure(message, 0)

    run(case)


def test_a_handler_that_fails_to_send_gets_the_error(run: Run) -> None:
    async def handler(stream: ServerStream) -> None:
        for wrong in (42, None, ["a list"], {"a": "dict"}, Custom("set", {1, 2}), "\ud800"):  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError):
                await stream.send(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="an async iterator is expected, not list"):
            await stream.send_all(["a list"])  # type: ignore[arg-type]
        await stream.send("still works")

    async def case() -> None:
        async with served(handler) as server:
            assert await answer_to(server, "?") == [Text("still works")]

    run(case)


def test_a_handler_need_not_read_its_prompt(run: Run) -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.send("no")

    async def case() -> None:
        async with served(handler) as server, eloquent.connect(server.issue()) as connection:
            # Together far more than a connection may send without being read.
            for _ in range(8):
                async with connection.ask("x" * 500_000) as reply:
                    assert await reply.read() == "no"

    run(case)


def test_one_socket_serves_many_clients_and_streams(run: Run) -> None:
    async def handler(stream: ServerStream) -> AsyncIterator[str]:
        seed = await stream.prompt()
        for number in range(40):
            yield f"{seed}-{number} "
            await asyncio.sleep(0)

    async def turn(connection: eloquent.Connection, seed: str) -> None:
        async with connection.ask(seed) as reply:
            assert await reply.read() == "".join(f"{seed}-{number} " for number in range(40))

    async def client(server: Server, number: int) -> None:
        async with eloquent.connect(server.issue()) as connection:
            await asyncio.gather(*(turn(connection, f"{number}/{stream}") for stream in range(20)))

    async def case() -> None:
        async with served(handler) as server:
            await asyncio.gather(*(client(server, number) for number in range(5)))

    run(case)


def test_garbage_is_ignored(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                generator = random.Random(2)
                for size in (0, 1, 10, 100, 1200, 1500, 9000):
                    stranger.sendto(generator.randbytes(size), server.address)
            assert await answer_to(server, "hello") == [Text("hello")]

    run(case)


def test_closing_lets_running_answers_finish(run: Run) -> None:
    async def case() -> None:
        go_on = asyncio.Event()

        async def handler(stream: ServerStream) -> AsyncIterator[str]:
            yield "one "
            await go_on.wait()
            yield "two"

        async with (
            served(handler) as server,
            eloquent.connect(server.issue()) as connection,
            connection.ask("?") as reply,
        ):
            assert await anext(reply) == Text("one ")
            ticket = server.issue()
            closing = asyncio.create_task(server.close())
            await asyncio.sleep(0)
            # What is new is refused meanwhile...
            async with eloquent.connect(ticket) as late, late.ask("me too?") as refused:
                with pytest.raises(ConnectRefused) as caught:
                    await refused.read()
                assert caught.value.code == RefusalCode.SHUTDOWN
            async with connection.ask("another?") as other:
                with pytest.raises(Interrupted, match="the server has ended it"):
                    await other.read()
            # ... and what runs comes to its end.
            go_on.set()
            assert await reply.read() == "two"
            assert reply.is_complete
            await closing

    run(case)


def test_closing_cancels_what_takes_too_long_and_tells_the_client(run: Run) -> None:
    async def case() -> None:
        cancelled = asyncio.Event()

        async def handler(stream: ServerStream) -> None:
            await stream.send("one ")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with (
            served(handler) as server,
            eloquent.connect(server.issue()) as connection,
            connection.ask("?") as reply,
        ):
            assert await anext(reply) == Text("one ")
            await server.close(grace_s=0.05)
            assert cancelled.is_set()
            with pytest.raises(Interrupted) as caught:
                await reply.read()
            assert (caught.value.text, caught.value.offset) == ("one ", 5)
            with pytest.raises(ConnectionClosed, match="the server stops"):
                async with connection.ask("again?"):
                    pass
            await server.close()  # Once more does nothing.

    run(case)


def test_serve_forever_ends_with_the_server(run: Run) -> None:
    async def case() -> None:
        async with served(echo) as server:
            waiting = asyncio.create_task(server.serve_forever())
            await server.close()
            await waiting

    run(case)


class Impatient(MemoryStore):
    """Takes every client that has left for one that has been away for the whole grace period."""

    def running(self, *, detached_before: float) -> list[LogGroup]:
        return super().running(detached_before=detached_before + GRACE)


def test_an_answer_goes_on_without_its_client_until_it_is_abandoned(run: Run) -> None:
    async def case() -> None:
        has_left, gone_on, cancelled, aborted = (asyncio.Event() for _ in range(4))
        seen: list[ServerStream] = []

        async def handler(stream: ServerStream) -> None:
            await stream.send("one ")
            await has_left.wait()
            await stream.send("two ")
            gone_on.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async def on_abort(stream: ServerStream) -> None:
            seen.append(stream)
            aborted.set()

        async with served(handler, store=Impatient(), on_abort=on_abort) as server:
            connection = await eloquent.connect(server.issue({"sub": "alice"}))
            reply = await connection.ask("?").__aenter__()
            assert await anext(reply) == Text("one ")
            await connection.close()  # Closing is not stopping.
            has_left.set()
            await gone_on.wait()
            await cancelled.wait()
            await aborted.wait()
            assert [stream.claims for stream in seen] == [{"sub": "alice"}]

    run(case)


def test_an_abort_hook_that_raises_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def case() -> None:
        called = asyncio.Event()

        async def handler(stream: ServerStream) -> None:
            await stream.send("one ")
            await asyncio.Event().wait()

        def on_abort(stream: ServerStream) -> None:
            called.set()
            raise RuntimeError("no GPU to free")

        async with served(handler, store=Impatient(), on_abort=on_abort) as server:
            connection = await eloquent.connect(server.issue())
            reply = await connection.ask("?").__aenter__()
            assert await anext(reply) == Text("one ")
            await connection.close()
            await called.wait()

    run(case)
    assert "the abort hook failed" in caplog.text


def test_keys_come_from_a_file_too(run: Run, tmp_path: Any) -> None:
    path = tmp_path / "keys"
    create_keys(path)

    async def case() -> None:
        for keys in (path, str(path)):
            async with eloquent.serve(echo, "127.0.0.1", 0, keys=keys) as server:
                assert await answer_to(server, "hello") == [Text("hello")]

    run(case)


def test_a_server_is_started_once(run: Run) -> None:
    async def case() -> None:
        server = eloquent.serve(echo, "127.0.0.1", 0, keys=KEYS)
        for use in (lambda: server.address, lambda: server.tickets, server.issue):
            with pytest.raises(UsageError, match="not been started"):
                use()
        async with server:
            with pytest.raises(UsageError, match="started before"):
                await server.__aenter__()
            with pytest.raises(TicketError, match="claims"):
                server.issue({"sub": "x" * 300})
            with pytest.raises(ConfigurationError, match="grace_s"):
                await server.close(grace_s=-1)

    run(case)
