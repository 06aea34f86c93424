import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvloop

from eloquent.errors import UsageError
from netem import Impairment, Outage, Relay, Scenario

TIMEOUT_S = 10.0  # for what must happen; nothing waits that long unless it fails

Case = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Case], None]:
    def run_case(case: Case) -> None:
        async def limited() -> None:
            await asyncio.wait_for(case(), TIMEOUT_S)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(limited())

    return run_case


class Peer(asyncio.DatagramProtocol):
    """A real socket that keeps what it receives, and returns it where `echoes`."""

    def __init__(self, *, echoes: bool) -> None:
        self.echoes = echoes
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is not a subclass of asyncio's.
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))
        if self.echoes:
            self.transport.sendto(data, addr)

    @property
    def address(self) -> tuple[str, int]:
        host, port, *_ = self.transport.get_extra_info("sockname")
        return host, port


@asynccontextmanager
async def peer(*, echoes: bool = False, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Peer(echoes=echoes), local_addr=(host, 0)
    )
    try:
        yield protocol
    finally:
        transport.close()


async def sent_up(relay: Relay, count: int) -> None:
    """Wait for datagrams that nobody receives, so that only the relay can tell."""
    while relay.up.sent < count:  # noqa: ASYNC110
        await asyncio.sleep(0)


def both_ways(*outages: Outage, **settings: Any) -> Scenario:
    impairment = Impairment(**settings)
    return Scenario("test", up=impairment, down=impairment, outages=outages)


def test_datagrams_pass_both_ways_and_not_before_their_time(run: Callable[[Case], None]) -> None:
    async def case() -> None:
        async with (
            peer(echoes=True) as server,
            peer() as client,
            Relay(server.address, both_ways(delay_s=0.02), seed=1) as relay,
        ):
            started = time.monotonic()
            client.transport.sendto(b"hello", relay.address)
            data, sender = await client.received.get()
            assert (data, sender) == (b"hello", relay.address)
            assert time.monotonic() - started >= 0.038  # uvloop's timers can be 1 ms early, twice
            assert relay.up.delivered == relay.down.delivered == 1
            assert relay.up.sent_bytes == 33

    run(case)


def test_the_server_sees_each_client_under_its_own_address(run: Callable[[Case], None]) -> None:
    async def case() -> None:
        async with (
            peer(echoes=True) as server,
            peer() as first,
            peer() as second,
            Relay(server.address, both_ways(), seed=1) as relay,
        ):
            for number in range(3):
                for client, name in ((first, b"first"), (second, b"second")):
                    client.transport.sendto(name + bytes([number]), relay.address)
                    assert (await client.received.get())[0] == name + bytes([number])
            senders: dict[bytes, set[Any]] = {}
            while not server.received.empty():
                data, address = server.received.get_nowait()
                senders.setdefault(data[:-1], set()).add(address)
            assert [len(addresses) for addresses in senders.values()] == [1, 1]
            assert senders[b"first"] != senders[b"second"]

    run(case)


def test_a_burst_with_equal_times_stays_whole_and_in_order(run: Callable[[Case], None]) -> None:
    async def case() -> None:
        scenario = both_ways(Outage(0.0, 0.05, held=True))
        async with (
            peer() as server,
            peer() as client,
            Relay(server.address, scenario, seed=1) as relay,
        ):
            for number in range(100):
                client.transport.sendto(bytes([number]), relay.address)
            received = [(await server.received.get())[0] for _ in range(100)]
            assert received == [bytes([number]) for number in range(100)]

    run(case)


def test_only_upstream_is_answered_for(run: Callable[[Case], None]) -> None:
    async def case() -> None:
        async with (
            peer(echoes=True) as server,
            peer() as stranger,
            peer() as client,
            Relay(server.address, both_ways(), seed=1) as relay,
        ):
            client.transport.sendto(b"1", relay.address)
            _, public = await server.received.get()
            stranger.transport.sendto(b"forged", public)
            client.transport.sendto(b"2", relay.address)
            assert [(await client.received.get())[0] for _ in range(2)] == [b"1", b"2"]
            assert relay.down.sent == 2

    run(case)


def test_what_the_scenario_drops_is_counted(run: Callable[[Case], None]) -> None:
    async def case() -> None:
        lossy = Scenario("test", up=Impairment(loss=1.0), down=Impairment())
        async with (
            peer() as client,
            peer() as server,
            Relay(server.address, lossy, seed=1) as relay,
        ):
            for _ in range(5):
                client.transport.sendto(b"x", relay.address)
            await sent_up(relay, 5)
            assert relay.up.dropped_by_loss == 5
            assert server.received.empty()

    run(case)


def test_ipv6_works_as_well(run: Callable[[Case], None]) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")

    async def case() -> None:
        async with (
            peer(echoes=True, host="::1") as server,
            peer(host="::1") as client,
            Relay(server.address, both_ways(), seed=1, host="::1") as relay,
        ):
            client.transport.sendto(b"six", relay.address)
            assert (await client.received.get())[0] == b"six"

    run(case)


def test_leaving_with_datagrams_under_way_is_clean(run: Callable[[Case], None]) -> None:
    async def case() -> None:
        async with peer() as server, peer() as client:
            relay = Relay(server.address, both_ways(delay_s=0.01), seed=1)
            async with relay:
                client.transport.sendto(b"late", relay.address)
                await sent_up(relay, 1)
            with pytest.raises(UsageError, match="outside of its 'async with'"):
                _ = relay.address

    run(case)


def test_a_port_in_use_is_an_os_error(run: Callable[[Case], None]) -> None:
    async def case() -> None:
        async with peer() as server:
            _, port = server.address
            with pytest.raises(OSError, match="in use"):
                await Relay(server.address, both_ways(), seed=1, port=port).__aenter__()

    run(case)
