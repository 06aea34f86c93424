"""The same answer several times at once: over real sockets, through the same bad link.

Each side has a server, a client and a path of its own. All paths play the same scenario with the
same seed, so bursts of loss begin and end at the same moments; which packets fall into them depends
on when each side sends. All servers say the same tokens at the same times: they begin together,
once all prompts are here.

In the laboratory each client is a host of its own with a cable to the server's host, and whatever
the kernel sends crosses it, TCP included. Each client and each server runs on an event loop in a
thread of its own. The scenario begins anew with the answer, and so do the counts of packets: what it
takes to connect is not in them. Elsewhere each path is a relay for UDP on the loopback, where the
scenario and the counts begin with the connection.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eloquent.protocol.ticket import Address
from eloquent.replay import replay
from netem.experiments.answer import STALL_S
from netem.link import LinkCounts
from netem.relay import Relay
from netem.scenario import Scenario
from netem.transport import Transport

if TYPE_CHECKING:
    from netem.lab.cable import Cable
    from netem.lab.host import Host
    from netem.lab.lab import Lab

SERVER = "server"


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
    """One of the streams, as it goes on. Times are `time.monotonic`."""

    name: str
    transport: Transport
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


class Start:
    """Holds the sides back, each on its own event loop, until all prompts are here."""

    def __init__(self, sides: int) -> None:
        self._missing = sides
        self._lock = threading.Lock()
        self._all_here: Future[None] = Future()
        self._go: Future[None] = Future()

    async def wait(self) -> None:
        """Say that one side's prompt is here, and wait for go()."""
        with self._lock:
            self._missing -= 1
            if self._missing == 0:
                self._all_here.set_result(None)
        # Shielded: one side that is cancelled would cancel the future that all share.
        await asyncio.shield(asyncio.wrap_future(self._go))

    async def all_here(self) -> None:
        """Wait until every side waits."""
        await asyncio.wrap_future(self._all_here)

    def go(self) -> None:
        """Let all of them begin."""
        self._go.set_result(None)


async def run_over_relays(plan: Plan, sides: Sequence[Side]) -> None:
    """Run all sides to their ends, each through a relay on the loopback."""
    start = Start(len(sides))
    relays = asyncio.Barrier(len(sides))
    async with asyncio.TaskGroup() as group:
        for side in sides:
            group.create_task(_run_over_relay(plan, side, start, relays))
        await start.all_here()
        start.go()


async def _run_over_relay(plan: Plan, side: Side, start: Start, relays: asyncio.Barrier) -> None:
    async with side.transport.serve(partial(_answer, plan, side, start), "127.0.0.1") as address:
        await relays.wait()
        async with Relay(address, plan.scenario, seed=plan.seed) as relay:
            side.up, side.down = relay.up, relay.down
            await _read(side, relay.address)


def cables(scenario: Scenario, sides: int) -> list[Cable]:
    """What the laboratory for a race consists of."""
    from netem.lab.cable import Cable

    return [Cable(scenario, client=_client(number), server=SERVER) for number in range(sides)]


def _client(number: int) -> str:
    return f"client{number}"


def congestion_control(lab: Lab) -> str:
    """What TCP uses on the server's host, which has it from this machine."""
    setting = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return lab.host(SERVER).namespace.call(setting.read_text).strip()


async def run_in_laboratory(plan: Plan, sides: Sequence[Side], lab: Lab) -> None:
    """Run all sides to their ends, each over its own one of `cables`."""
    start = Start(len(sides))
    async with asyncio.TaskGroup() as group:
        for number, side in enumerate(sides):
            server, client = lab.host(SERVER), lab.host(_client(number))
            group.create_task(_run_over_cable(plan, side, start, server, client))
        await start.all_here()
        await lab.play(seed=plan.seed)
        start.go()
    for number, side in enumerate(sides):
        counts = await asyncio.to_thread(lab.counts, number)
        side.up, side.down = counts["up"], counts["down"]


async def _run_over_cable(plan: Plan, side: Side, start: Start, server: Host, client: Host) -> None:
    listening: Future[Address] = Future()
    is_read: Future[None] = Future()

    async def serve() -> None:
        host = client.attachment_to(SERVER).peer_address
        async with side.transport.serve(partial(_answer, plan, side, start), host) as address:
            listening.set_result(address)
            await asyncio.wrap_future(is_read)

    async with asyncio.TaskGroup() as group:
        group.create_task(server.run(serve))
        address = await asyncio.wrap_future(listening)
        await client.run(partial(_read, side, address))
        is_read.set_result(None)


async def _answer(plan: Plan, side: Side, start: Start) -> AsyncIterator[str]:
    await start.wait()
    async for token in replay(plan.text, rate=plan.rate):
        side.written_at.append(time.monotonic())
        yield token


async def _read(side: Side, address: Address) -> None:
    async with aclosing(side.transport.ask(address)) as tokens:
        async for token in tokens:
            side.on_token(token, now=time.monotonic())
    side.is_complete = True
