"""An answer as server-sent events over TCP: uvicorn and Starlette on one side, httpx on the other.

This is how language models are served today, in the format of OpenAI's API: each token is an event
with a JSON object, in a chunk of the HTTP response and, as asyncio sets TCP_NODELAY on all
connections, in a segment of its own::

    data: {"id":...,"object":"chat.completion.chunk",...,"choices":[{"delta":{"content":"sky"},...}]}

There is no TLS, which would add 22 bytes to every event and a round trip to the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from eloquent.errors import Interrupted
from eloquent.protocol.ticket import Address
from netem.transport import CONNECT_TIMEOUT_S, PROMPT, Answer

_PATH = "/v1/chat/completions"
_DATA = b"data: "
_END = b"\n\n"
_DONE = b"[DONE]"

_READ_TIMEOUT_S = 600.0
"""Without a byte from the server: what OpenAI's own client allows."""

_MODEL = "replayed-text"
_ENVELOPE = {
    # A UUID of 29 characters and a time of 10 digits, as in OpenAI's responses.
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": _MODEL,
}


class SseTransport:
    """A token stream as web applications have it now; see Transport in netem.transport."""

    @contextlib.asynccontextmanager
    async def serve(self, answer: Answer, host: str) -> AsyncIterator[Address]:
        """Serve one answer on a free port; gives host and port."""

        async def complete(request: Request) -> StreamingResponse:
            await request.json()
            return StreamingResponse(_events(answer()), media_type="text/event-stream")

        app = Starlette(routes=[Route(_PATH, complete, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
        listener = _listen(host)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()
        finally:
            # The client is gone: there is nothing to wait for.
            server.should_exit = server.force_exit = True
            await serving

    async def ask(self, address: Address) -> AsyncGenerator[str, None]:
        """Ask there, and yield each token as soon as its event is parsed."""
        host, port = address
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=_READ_TIMEOUT_S)
        body = {"model": _MODEL, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
        try:
            async with (
                httpx.AsyncClient(timeout=timeout, trust_env=False) as client,  # trust_env: no proxies
                client.stream("POST", f"http://{host}:{port}{_PATH}", json=body) as response,
            ):
                response.raise_for_status()
                async for data in _data_of_events(response.aiter_bytes()):
                    if data == _DONE:
                        return
                    yield json.loads(data)["choices"][0]["delta"]["content"]
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Interrupted(f"the answer over HTTP was interrupted: {reason}") from error
        raise Interrupted(f"the answer over HTTP ended without the event {_DONE.decode()}")


def _listen(host: str) -> socket.socket:
    # With the protocol spelt out, as where uvicorn itself opens the socket: asyncio sets TCP_NODELAY
    # only on connections of such a listener, and Nagle's algorithm would hold most tokens back.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind((host, 0))
    listener.listen()
    return listener


async def _events(tokens: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for token in tokens:
        choice = {"index": 0, "delta": {"content": token}, "logprobs": None, "finish_reason": None}
        chunk = _ENVELOPE | {"choices": [choice]}
        yield _DATA + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() + _END
    yield _DATA + _DONE + _END


async def _data_of_events(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What each event holds, for events of one `data` line.

    (httpx's own lines also end at U+2028 and others that may stand in a JSON string.)
    """
    rest = b""
    async for piece in body:
        *events, rest = (rest + piece).split(_END)
        for event in events:
            yield event.removeprefix(_DATA)
