"""Each way in which an answer's tokens travel, over the loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import httpx
import pytest

from eloquent.errors import Interrupted, StreamError
from eloquent.protocol.send import ELOQUENT, RETRANSMISSION_ONLY
from netem.sse import SseTransport
from netem.transport import Transport, UdpTransport

TOKENS = ["Why", " not?\n\n", "data: [DONE]", "\r", "\n", "ä€𝄞", '"quoted\\"', "\u2028", " "]
TIMEOUT_S = 60.0  # for what must happen; nothing waits that long unless it fails

TRANSPORTS = {
    "eloquent": lambda: UdpTransport(ELOQUENT),
    "retransmission": lambda: UdpTransport(RETRANSMISSION_ONLY),
    "sse": SseTransport,
}


async def read(transport: Transport, address: tuple[str, int], received: list[str]) -> None:
    async for token in transport.ask(address):
        received.append(token)


@pytest.fixture(params=TRANSPORTS.values(), ids=TRANSPORTS.keys())
def transport(request: pytest.FixtureRequest) -> Transport:
    make: Callable[[], Transport] = request.param
    return make()


async def test_every_token_comes_as_it_was_written(transport: Transport) -> None:
    async def answer() -> AsyncIterator[str]:
        for token in TOKENS:
            yield token

    async with asyncio.timeout(TIMEOUT_S), transport.serve(answer, "127.0.0.1") as address:
        assert [token async for token in transport.ask(address)] == TOKENS


async def test_a_token_comes_before_the_next_one_is_made(transport: Transport) -> None:
    shown = asyncio.Event()

    async def answer() -> AsyncIterator[str]:
        for token in TOKENS:
            yield token
            await shown.wait()
            shown.clear()

    async with asyncio.timeout(TIMEOUT_S), transport.serve(answer, "127.0.0.1") as address:
        received = []
        async for token in transport.ask(address):
            received.append(token)
            shown.set()
    assert received == TOKENS


async def test_an_answer_that_breaks_off_never_looks_complete(transport: Transport) -> None:
    async def answer() -> AsyncIterator[str]:
        yield "one"
        raise RuntimeError("the model is gone")

    async with asyncio.timeout(TIMEOUT_S), transport.serve(answer, "127.0.0.1") as address:
        received: list[str] = []
        with pytest.raises(StreamError):
            await read(transport, address, received)
    assert received == ["one"]


async def test_a_reader_may_leave_early(transport: Transport) -> None:
    async def answer() -> AsyncIterator[str]:
        while True:
            yield "again "
            await asyncio.sleep(0.001)

    async with (
        asyncio.timeout(TIMEOUT_S),
        transport.serve(answer, "127.0.0.1") as address,
        aclosing(transport.ask(address)) as tokens,
    ):
        assert await anext(tokens) == "again "


async def sse_server(answer: bytes) -> tuple[asyncio.Server, tuple[str, int]]:
    """A web server that gives this body to everyone, and hangs up."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()


async def test_sse_without_its_last_event_is_not_complete() -> None:
    chunk = json.dumps({"choices": [{"delta": {"content": "one"}}]})
    server, address = await sse_server(f"data: {chunk}\n\n".encode())
    async with server, asyncio.timeout(TIMEOUT_S):
        received: list[str] = []
        with pytest.raises(Interrupted, match="without the event"):
            await read(SseTransport(), address, received)
    assert received == ["one"]


async def test_an_sse_event_is_openai_s_chunk() -> None:
    async def answer() -> AsyncIterator[str]:
        yield "sky"

    async with (
        asyncio.timeout(TIMEOUT_S),
        SseTransport().serve(answer, "127.0.0.1") as (host, port),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        url = f"http://{host}:{port}/v1/chat/completions"
        response = await client.post(url, json={"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    event, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunk = json.loads(event.removeprefix("data: "))
    assert set(chunk) == {"id", "object", "created", "model", "choices"}
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"][0]["delta"] == {"content": "sky"}
