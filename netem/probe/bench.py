"""Two probes on the hosts of a laboratory, and what both directions did in an exchange of theirs."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from netem.lab.host import Host
from netem.lab.lab import Lab
from netem.link import LinkCounts
from netem.probe.datagrams import Flow
from netem.scenario import Direction, Scenario

Numbers = NDArray[np.int64]
Times = NDArray[np.float64]
"""Seconds, or numbers of them."""

_CLOCK_READS = 5
_LEAD_S = 0.05
"""From play() to the first datagram of a flow, for a timeline that begins between both; arbitrary."""

_NS = 1e-9


class Probe:
    """A probe's process on a host. Raises EOFError where it has ended; it says why on stderr."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, **order: object) -> None:
        """Send an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()

    async def answer(self) -> object:
        """Wait for the next answer."""
        assert self._process.stdout is not None
        size = await self._process.stdout.readline()
        if not size:
            raise EOFError("a probe has ended")
        return json.loads(await self._process.stdout.readexactly(int(size)))


@asynccontextmanager
async def probe_on(host: Host) -> AsyncIterator[Probe]:
    """A probe on that host, ready to receive."""
    command = [sys.executable, "-m", "netem.probe"]
    async with host.start(command, stdin=asyncio.subprocess.PIPE) as process:
        probe = Probe(process)
        await probe.answer()
        yield probe


@dataclass(frozen=True, slots=True)
class Passage:
    """What one direction did to a flow.

    `sent_at` is by number of the datagram, nan where it was not sent, as what never came is not
    echoed; the others are by arrival. Times are seconds since the
    scenario began. `arrived_at` is the kernel's stamp, `read_at` when the receiving program ran.
    """

    sent_at: Times
    numbers: Numbers
    arrived_at: Times
    read_at: Times
    tos: Numbers
    damaged: int
    counts: LinkCounts
    """Of the whole link."""

    @property
    def first_arrival_at(self) -> Times:
        """By number, that of the first copy; nan where none came."""
        first = np.full(len(self.sent_at), np.nan)
        # Backwards, so that of several copies the first is written last.
        first[self.numbers[::-1]] = self.arrived_at[::-1]
        return first

    @property
    def is_lost(self) -> NDArray[np.bool_]:
        """By number, whether no intact copy came."""
        return np.isnan(self.first_arrival_at)

    @property
    def delays_by_number(self) -> Times:
        """Seconds from send to arrival; nan where none came."""
        return self.first_arrival_at - self.sent_at

    @property
    def delays_s(self) -> Times:
        """Those of the datagrams that came, by number."""
        delays = self.delays_by_number
        return delays[~np.isnan(delays)]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Both directions of a run; where nothing was sent in one, its passage is empty."""

    up: Passage
    down: Passage


class Bench:
    """A laboratory of one cable with a probe on each of its hosts."""

    def __init__(self, lab: Lab, client: Probe, server: Probe, *, seed: int) -> None:
        self.seed = seed
        self._lab = lab
        self._probes: dict[Direction, Probe] = {"up": client, "down": server}
        """By the direction in which they send."""
        self._run = 0

    async def exchange(
        self,
        scenario: Scenario,
        *,
        up: Flow | None = None,
        down: Flow | None = None,
        echoes: bool = False,
        settle_s: float = 0.3,
    ) -> Exchange:
        """Let both probes send their flows while the scenario plays from its beginning.

        With `echoes` the server sends back what comes. Ends `settle_s` after the last send, which
        must be longer than what the link holds back.
        """
        self._run += 1
        begins_at = await self._lab.play(seed=self.seed, scenario=scenario)
        begins_ns = _wall_clock_ns(begins_at)
        await asyncio.sleep(_LEAD_S)
        flows: dict[Direction, Flow | None] = {"down": down, "up": up}
        peers = {"up": self._lab.host("server").address, "down": self._lab.host("client").address}
        for direction, flow in flows.items():
            await self._probes[direction].tell(
                do="exchange",
                run=self._run,
                peer=peers[direction],
                flow=None if flow is None else asdict(flow),
                echoes=echoes and direction == "down",
            )
        for direction in flows:
            await self._probes[direction].answer()
        await asyncio.sleep(settle_s)
        counts = await asyncio.to_thread(self._lab.counts)
        records = {direction: await self._stop(direction) for direction in flows}
        there = _passage(records["up"], records["down"], begins_ns, counts["up"])
        back = _passage(records["down"], records["up"], begins_ns, counts["down"])
        return Exchange(there, _echoes(back, there) if echoes else back)

    async def bulk_bps(self, scenario: Scenario, *, warm_up_s: float, seconds: float) -> float:
        """Payload bits per second of a TCP transfer to the server, after `warm_up_s`."""
        await self._lab.play(seed=self.seed, scenario=scenario)
        await self._probes["down"].tell(do="receive_bulk", warm_up_s=warm_up_s, seconds=seconds)
        peer = self._lab.host("server").address
        await self._probes["up"].tell(do="send_bulk", peer=peer, seconds=warm_up_s + seconds)
        await self._probes["up"].answer()
        received = await self._probes["down"].answer()
        assert isinstance(received, list)
        size, duration_s = received
        return float(size * 8 / duration_s) if duration_s else 0.0

    async def _stop(self, direction: Direction) -> dict[str, list[int]]:
        await self._probes[direction].tell(do="stop")
        record = await self._probes[direction].answer()
        assert isinstance(record, dict)
        return record


@asynccontextmanager
async def bench_on(lab: Lab, *, seed: int) -> AsyncIterator[Bench]:
    """Probes on the hosts `client` and `server` of a laboratory."""
    async with probe_on(lab.host("client")) as client, probe_on(lab.host("server")) as server:
        yield Bench(lab, client, server, seed=seed)


def _passage(
    sender: dict[str, list[int]], receiver: dict[str, list[int]], begins_ns: int, counts: LinkCounts
) -> Passage:
    def seconds(times: list[int]) -> Times:
        return np.array([(at - begins_ns) * _NS for at in times])

    damaged = receiver["damaged"]
    assert isinstance(damaged, int)
    return Passage(
        sent_at=seconds(sender["sent_at"]),
        numbers=np.array(receiver["numbers"], dtype=np.int64),
        arrived_at=seconds(receiver["arrived_at"]),
        read_at=seconds(receiver["read_at"]),
        tos=np.array(receiver["tos"], dtype=np.int64),
        damaged=damaged,
        counts=counts,
    )


def _echoes(back: Passage, there: Passage) -> Passage:
    """The echoes with their times by number, as they were sent in the order of what came."""
    sent_at = np.full(len(there.sent_at), np.nan)
    sent_at[there.numbers] = back.sent_at
    return replace(back, sent_at=sent_at)


def _wall_clock_ns(monotonic_s: float) -> int:
    """A moment of time.monotonic() on time.time_ns()."""
    reads = []
    for _ in range(_CLOCK_READS):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        reads.append((after - before, wall - (before + after) // 2))
    _, offset = min(reads)  # the one that was least interrupted
    return round(monotonic_s * 1e9) + offset
