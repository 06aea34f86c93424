"""An answer over the library's real server and client, each a process of its own on its host.

    python -m netem.probe.stream server ADDRESS RATE TOKENS SEED
    python -m netem.probe.stream client TOKENS SEED

The server says a ticket, and at the end of its standard input when it wrote each token. The client
says that it is ready, takes the ticket, asks, and says when each token could be shown and what of
the answer is not as it should be: both know the text. Times are `time.monotonic`, which all
processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from random import Random

import eloquent
from eloquent.commands.loop import new_event_loop
from eloquent.errors import EloquentError
from eloquent.protocol.content import encode_text
from eloquent.replay import default_text, replay, subword_split

PORT = 4433
_PROMPT = "Why is the sky blue?"

_CONNECT_TIMEOUT_S = 120.0
"""However bad the link: what counts is what comes in the end."""


@dataclass(slots=True)
class Written:
    """What the server did."""

    answers: int = 0
    """How often the prompt ran."""
    at: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Shown:
    """What the client saw."""

    at: list[float] = field(default_factory=list)
    fault: str | None = None
    """What keeps the log from being exact."""


def answer_text(tokens: int, seed: int) -> str:
    """So many tokens of the text in the package, starting somewhere."""
    pieces = subword_split(default_text())
    start = Random(f"{seed}/text").randrange(len(pieces))
    return "".join(islice(cycle(pieces), start, start + tokens))


async def serve(address: str, rate: float, text: str) -> None:
    """Serve that answer until standard input ends."""
    written = Written()

    async def answer(stream: eloquent.ServerStream) -> AsyncIterator[str]:
        await stream.prompt()
        written.answers += 1
        async for token in replay(text, rate=rate):
            written.at.append(time.monotonic())
            yield token

    keys = eloquent.KeyRing.generate(os.urandom)
    async with eloquent.serve(answer, address, PORT, keys=keys) as server:
        print(server.issue(), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        # The client is gone: there is nothing to wait for.
        await server.close(grace_s=0.0)
    print(json.dumps(asdict(written)))


async def read(text: str) -> None:
    """Ask, and read the answer to its end."""
    print("ready", flush=True)
    ticket = sys.stdin.readline().strip()
    shown = Shown()
    async with (
        eloquent.connect(ticket, timeout=_CONNECT_TIMEOUT_S) as connection,
        connection.ask(_PROMPT) as reply,
    ):
        received: list[str] = []
        try:
            async for token in reply.text():
                shown.at.append(time.monotonic())
                received.append(token)
        except EloquentError as error:
            shown.fault = str(error)
        else:
            shown.fault = _fault(reply, "".join(received), text)
    print(json.dumps(asdict(shown)))


def _fault(reply: eloquent.Reply, received: str, text: str) -> str | None:
    log_bytes = sum(len(encode_text(token)) for token in subword_split(text))
    if received != text:
        return f"{len(received)} characters came, {len(text)} were written, or they differ"
    if reply.offset != log_bytes:
        return f"the log has {reply.offset} bytes, {log_bytes} were written"
    return None if reply.is_complete else "the answer came whole but its digest was not confirmed"


def main(role: str, *arguments: str) -> None:
    """Be the server or the client."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        if role == "server":
            address, rate, tokens, seed = arguments
            runner.run(serve(address, float(rate), answer_text(int(tokens), int(seed))))
        else:
            tokens, seed = arguments
            runner.run(read(answer_text(int(tokens), int(seed))))


if __name__ == "__main__":
    main(*sys.argv[1:])
