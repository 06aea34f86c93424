"""Real sockets and real loops; the cores here are scripts, as what is tested is how they are driven."""

import asyncio
import math
import socket
import time
from collections.abc import Hashable

from eloquent.endpoint import MAX_WAITING, READS_PER_WAKE_UP, Datagrams, Driver, UdpSocket, configure
from tests.loopback import Run


def bound(host: str = "127.0.0.1") -> socket.socket:
    udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    configure(udp)
    udp.bind((host, 0))
    return udp


class Received:
    """Collects what a socket reads, and lets a test wait for so many datagrams."""

    def __init__(self) -> None:
        self.batches: list[Datagrams] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def __call__(self, datagrams: Datagrams) -> None:
        self.batches.append(datagrams)
        for count, future in self._waiting:
            if len(self.payloads) >= count and not future.done():
                future.set_result(None)

    @property
    def payloads(self) -> list[bytes]:
        return [data for batch in self.batches for data, _ in batch]

    async def until(self, count: int) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((count, future))
        if len(self.payloads) < count:
            await future


def test_a_burst_is_drained_in_batches_of_bounded_size(run: Run) -> None:
    async def case() -> None:
        received = Received()
        source, sink = bound(), bound()
        endpoint = UdpSocket(sink, received)
        sent = [b"%d" % number for number in range(3 * READS_PER_WAKE_UP + 10)]
        for payload in sent:
            source.sendto(payload, sink.getsockname())
        await received.until(len(sent))
        assert received.payloads == sent
        assert len(received.batches) >= 4
        assert max(map(len, received.batches)) <= READS_PER_WAKE_UP
        assert {address for batch in received.batches for _, address in batch} == {source.getsockname()}
        endpoint.close()
        source.close()

    run(case)


def test_a_full_kernel_queue_keeps_the_newest_datagrams_in_order(run: Run) -> None:
    async def case() -> None:
        # Only sockets of this family push back on one machine: UDP on loopback drops at the receiver.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        theirs.setblocking(False)
        endpoint = UdpSocket(ours, Received())
        sent = [b"%d" % number for number in range(2 * MAX_WAITING)]
        for payload in sent:
            endpoint.send(payload, None)
        lost = endpoint.errors["queue full"]
        received = Received()
        other = UdpSocket(theirs, received)
        await received.until(len(sent) - lost)
        in_kernel = len(sent) - lost - MAX_WAITING
        assert in_kernel > 0
        assert received.payloads == sent[:in_kernel] + sent[-MAX_WAITING:]
        # And then it sends directly again.
        endpoint.send(b"after", None)
        await received.until(len(sent) - lost + 1)
        assert received.payloads[-1] == b"after"
        endpoint.close()
        other.close()

    run(case)


def test_closing_with_datagrams_waiting_leaves_nothing_behind(run: Run) -> None:
    async def case() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        endpoint = UdpSocket(ours, Received())
        for _ in range(MAX_WAITING):
            endpoint.send(b"payload", None)
        endpoint.close()
        theirs.close()

    run(case)


def test_errors_are_counted_and_never_raised(run: Run) -> None:
    async def case() -> None:
        refused = asyncio.get_running_loop().create_future()
        closed = bound()
        address = closed.getsockname()
        closed.close()
        client = bound()
        client.connect(address)

        def on_error(error: OSError) -> None:
            if isinstance(error, ConnectionRefusedError) and not refused.done():
                refused.set_result(None)

        endpoint = UdpSocket(client, Received(), on_error=on_error)
        endpoint.send(b"anyone?", None)
        await refused
        endpoint.send(bytes(70_000), None)
        assert endpoint.errors["ECONNREFUSED"] >= 1
        assert endpoint.errors["EMSGSIZE"] == 1
        endpoint.close()

    run(case)


class Script:
    """A core whose timer is what the test says, and which answers each datagram with an echo."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.timers: list[float] = []
        self.drains = 0
        self.fired = asyncio.Event()
        self._echoes: list[tuple[bytes, Hashable]] = []

    def receive_datagram(self, data: bytes, address: Hashable, *, now: float) -> None:
        self._echoes.append((data, address))

    def handle_timer(self, *, now: float) -> None:
        self.timers.append(now)
        if self.deadline is not None and self.deadline <= now:
            self.deadline = None
            self.fired.set()

    def datagrams_to_send(self, *, now: float) -> list[tuple[bytes, Hashable]]:
        self.drains += 1
        out, self._echoes = self._echoes, []
        return out

    def next_timer(self) -> float | None:
        return self.deadline


def driver_of(core: Script, sent: list[bytes]) -> Driver:
    return Driver(core, send=lambda data, address: sent.append(data), on_drained=lambda now: None)


def test_a_timer_that_is_early_counts_as_on_time(run: Run) -> None:
    async def case() -> None:
        core = Script()
        driver = driver_of(core, [])
        # Fractions of a millisecond, since uvloop counts whole ones.
        for fraction in range(20):
            core.fired.clear()
            core.deadline = deadline = time.monotonic() + 0.003 + fraction / 20_000
            driver.flush()
            await core.fired.wait()
            assert core.timers[-1] >= deadline
        assert len(core.timers) == 20
        driver.close()

    run(case)


def test_the_timer_follows_a_deadline_that_comes_closer(run: Run) -> None:
    async def case() -> None:
        core = Script()
        driver = driver_of(core, [])
        core.deadline = time.monotonic() + 3600
        driver.flush()
        core.deadline = time.monotonic() + 0.005
        driver.flush()
        await core.fired.wait()
        driver.close()

    run(case)


def test_a_deadline_that_moves_away_is_found_by_the_timer_set_before(run: Run) -> None:
    async def case() -> None:
        core = Script()
        driver = driver_of(core, [])
        core.deadline = time.monotonic() + 0.002
        driver.flush()
        core.deadline = later = time.monotonic() + 0.02
        driver.flush()
        await core.fired.wait()
        assert len(core.timers) <= 2
        assert core.timers[-1] >= later
        driver.close()

    run(case)


def test_all_that_is_written_in_one_iteration_is_drained_once(run: Run) -> None:
    async def case() -> None:
        core = Script()
        driver = driver_of(core, [])
        for _ in range(100):
            driver.wake()
        assert core.drains == 0
        await asyncio.sleep(0)
        assert core.drains == 1
        for _ in range(100):
            driver.wake()
        while core.drains == 1:  # noqa: ASYNC110  (it may wait for a millisecond; nothing tells)
            await asyncio.sleep(0)
        assert core.drains == 2
        driver.close()

    run(case)


def test_a_batch_of_datagrams_is_drained_once(run: Run) -> None:
    async def case() -> None:
        core = Script()
        sent: list[bytes] = []
        driver = driver_of(core, sent)
        driver.receive([(b"1", "a"), (b"2", "b")], now=0.0)
        assert (sent, core.drains) == ([b"1", b"2"], 1)
        driver.close()

    run(case)


def test_after_close_nothing_happens(run: Run) -> None:
    async def case() -> None:
        core = Script()
        driver = driver_of(core, [])
        core.deadline = time.monotonic() + 0.001
        driver.flush()
        driver.wake()
        driver.close()
        core.deadline = -math.inf
        # Time for the timer and for the flush that were under way.
        await asyncio.sleep(0.005)
        assert (core.drains, core.timers) == (1, [])

    run(case)
