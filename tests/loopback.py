"""A server and its clients over real loopback sockets, for the tests of the asyncio layer."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

import eloquent
from eloquent import KeyRing, Server, ServerStream, TicketIssuer

TIMEOUT_S = 20.0  # for what must happen; nothing waits that long unless it fails

KEYS = KeyRing.generate(os.urandom)

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Case = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Case], None]


def runner_on(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Run:
    """Runs a case, with a limit of time, on an event loop of its own."""

    def run_case(case: Case) -> None:
        async def limited() -> None:
            await asyncio.wait_for(case(), TIMEOUT_S)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(limited())

    return run_case


@asynccontextmanager
async def served(handler: Any, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[Server]:
    async with eloquent.serve(handler, host, 0, keys=KEYS, **options) as server:
        yield server


async def echo(stream: ServerStream) -> None:
    prompt = await stream.prompt()
    assert isinstance(prompt, str)
    await stream.send(prompt)


def issuer(**options: Any) -> TicketIssuer:
    return TicketIssuer(KEYS, entropy=os.urandom, **options)
