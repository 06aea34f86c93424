"""The same answer twice at the same time: over real sockets, through the same bad link.

Each side has a server, a relay and a client of its own. Both relays play the same scenario with the
same seed, so bursts of loss begin and end at the same moments; which datagrams fall into them
depends on when each side sends. Both servers say the same tokens at the same times: they begin
together, once both prompts are here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from eloquent.answer import ServerStream
from eloquent.client import connect
from eloquent.protocol.connection import Settings
from eloquent.protocol.send import Policy
from eloquent.protocol.ticket import KeyRing, Ticket, TicketIssuer
from eloquent.replay import replay
from eloquent.server import serve
from netem.experiments.answer import STALL_S
from netem.link import LinkCounts
from netem.relay import Relay
from netem.scenario import Scenario

PROMPT = "Why is the sky blue?"

CONNECT_TIMEOUT_S = 60.0
"""However bad the link: the demonstration is about what comes after."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the model says, how fast, and over which path."""

    text: str
    rate: float
    scenario: Scenario
    seed: int


@dataclass(frozen=True, slots=True)
class Stall:
    """A gap on the screen that is over 200 ms longer than the model's own."""

    position: int
    """Characters on the screen before it."""
    lost_s: float
    """By how much the gap is longer."""


@dataclass(slots=True)
class Side:
    """One of the two streams, as it goes on. Times are `time.monotonic`."""

    name: str
    policy: Policy
    one_way_s: float
    written_at: list[float] = field(default_factory=list)
    shown_at: list[float] = field(default_factory=list)
    text: str = ""
    stalls: list[Stall] = field(default_factory=list)
    up: LinkCounts = field(default_factory=LinkCounts)
    down: LinkCounts = field(default_factory=LinkCounts)
    is_complete: bool = False

    def on_token(self, text: str, *, now: float) -> None:
        """Show a token, and note the stall before it."""
        self.shown_at.append(now)
        index = len(self.shown_at) - 1
        if index > 0:
            shown = self.shown_at[index] - self.shown_at[index - 1]
            written = self.written_at[index] - self.written_at[index - 1]
            if shown - written > STALL_S:
                self.stalls.append(Stall(len(self.text), shown - written))
        self.text += text

    def stalled_for(self, *, now: float) -> float | None:
        """Seconds since the last token on the screen, where the next one is overdue; None where not."""
        shown = len(self.shown_at)
        if shown == 0 or shown >= len(self.written_at):
            return None
        is_overdue = now - self.written_at[shown] - self.one_way_s > STALL_S
        return now - self.shown_at[-1] if is_overdue else None

    def extra_delays(self) -> list[float]:
        """For each token: seconds from the model's to the reader's, minus the one-way delay."""
        return [
            shown - written - self.one_way_s
            for written, shown in zip(self.written_at, self.shown_at, strict=False)
        ]


async def run_race(plan: Plan, sides: tuple[Side, Side]) -> None:
    """Run both sides to their ends."""
    start = asyncio.Barrier(len(sides))
    async with asyncio.TaskGroup() as group:
        for side in sides:
            group.create_task(_run_side(plan, side, start))


async def _run_side(plan: Plan, side: Side, start: asyncio.Barrier) -> None:
    async def answer(stream: ServerStream) -> AsyncIterator[str]:
        await stream.prompt()
        await start.wait()
        async for token in replay(plan.text, rate=plan.rate):
            side.written_at.append(time.monotonic())
            yield token

    keys = KeyRing.generate(os.urandom)
    settings = Settings(policy=side.policy)
    async with serve(answer, "127.0.0.1", 0, keys=keys, settings=settings) as server:
        try:
            await start.wait()
            async with Relay(server.address, plan.scenario, seed=plan.seed) as relay:
                side.up, side.down = relay.up, relay.down
                issuer = TicketIssuer(keys, ipv4=relay.address, entropy=os.urandom)
                await _read(side, issuer.issue(wall_now=time.time()), settings)
        finally:
            # The client is gone, and the relay with what was on its way: there is nothing to wait for.
            await server.close(grace_s=0.0)


async def _read(side: Side, ticket: Ticket, settings: Settings) -> None:
    async with (
        connect(ticket, settings=settings, timeout=CONNECT_TIMEOUT_S) as connection,
        connection.ask(PROMPT) as reply,
    ):
        async for text in reply.text():
            side.on_token(text, now=time.monotonic())
        side.is_complete = reply.is_complete
