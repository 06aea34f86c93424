"""Tickets over HTTP and answers over UDP from one process: uvicorn fastapi_app:app

A client posts to /tickets, where the application knows its user, and connects with what it gets.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

import eloquent
from eloquent.replay import default_text, replay


async def answer(stream: eloquent.ServerStream) -> AsyncIterator[str]:
    yield f"{stream.claims['sub']} asked: {await stream.prompt()!r}\n\n"
    async for token in replay(default_text(), rate=40, jitter=0.3):  # Your model's stream goes here.
        yield token


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    host = os.environ.get("HOST", "localhost")  # Under which clients reach this machine.
    port = int(os.environ.get("UDP_PORT", "4433"))
    async with eloquent.serve(answer, "::", port, advertise=host) as app.state.server:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/tickets")
async def issue_ticket(request: Request) -> str:
    user = "alice"  # Your own login goes here.
    return str(request.app.state.server.issue({"sub": user}))
