import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from eloquent.errors import ConfigurationError
from netem import Fate, Impairment, Outage, Scenario, Simulation, scenario
from netem.simulation import Livelock

SERVER = "server"


@dataclass
class Echo:
    """A server that returns every datagram and announces it."""

    received: list[tuple[float, bytes, Any]] = field(default_factory=list)
    outbox: list[tuple[bytes, Any]] = field(default_factory=list)
    events: deque[bytes] = field(default_factory=deque)
    deadline: float | None = None

    def receive_datagram(self, data: bytes, address: Any, *, now: float) -> None:
        self.received.append((now, data, address))
        self.outbox.append((data, address))
        self.events.append(data)

    def handle_timer(self, *, now: float) -> None: ...

    def datagrams_to_send(self, *, now: float) -> list[tuple[bytes, Any]]:
        taken, self.outbox = self.outbox, []
        return taken

    def next_timer(self) -> float | None:
        return self.deadline

    def next_event(self) -> bytes | None:
        return self.events.popleft() if self.events else None


@dataclass
class Pinger(Echo):
    """A client that sends numbered datagrams at an interval and keeps what comes back."""

    count: int = 0
    interval_s: float = 0.01
    called_at: list[float] = field(default_factory=list)
    fired_at: list[float] = field(default_factory=list)
    deadline: float | None = 0.0

    def receive_datagram(self, data: bytes, address: Any, *, now: float) -> None:
        self.received.append((now, data, address))

    def handle_timer(self, *, now: float) -> None:
        self.called_at.append(now)
        if self.deadline is None or now < self.deadline:
            return
        self.fired_at.append(now)
        self.outbox.append((len(self.fired_at).to_bytes(4), (0, SERVER)))
        is_done = len(self.fired_at) >= self.count
        self.deadline = None if is_done else now + self.interval_s


def path(**settings: Any) -> Scenario:
    return Scenario("test", up=Impairment(**settings), down=Impairment(**settings))


def run_pings(through: Scenario, *, seed: int = 1, count: int = 500) -> tuple[Echo, Pinger, Simulation]:
    simulation = Simulation(seed=seed)
    server, client = Echo(), Pinger(count=count)
    simulation.add_server(server, SERVER)
    simulation.add_client(client, through)
    simulation.run(until=60.0)
    return server, client, simulation


def test_an_echo_takes_one_round_trip() -> None:
    server, client, simulation = run_pings(path(delay_s=0.025), count=1)
    public = ("client", 0, 40_000)
    assert server.received == [(0.025, b"\0\0\0\1", public)]
    assert client.received == [(0.05, b"\0\0\0\1", (0, SERVER))]
    assert simulation.in_flight == 0
    assert simulation.now == 60.0


def test_timers_fire_exactly_at_their_deadline() -> None:
    _, client, _ = run_pings(path(delay_s=0.025), count=4)
    assert client.called_at == client.fired_at == [0.0, 0.01, 0.02, 0.03]


def test_a_seed_repeats_a_run_and_another_changes_it() -> None:
    through = path(delay_s=0.05, jitter_s=0.02, loss=0.1, duplication=0.1)
    _, first, _ = run_pings(through, seed=7)
    _, again, _ = run_pings(through, seed=7)
    _, other, _ = run_pings(through, seed=8)
    assert 300 < len(first.received) < 600
    assert first.received == again.received
    assert first.received != other.received


def test_every_scenario_carries_datagrams_both_ways() -> None:
    for name in ("bursty", "2g-rural", "wifi-scan-hard", "starlink-handover", "driving-hspa"):
        _, client, simulation = run_pings(scenario(name), count=100)
        assert client.received, name
        assert simulation.in_flight == 0, name


def test_clients_have_links_of_their_own() -> None:
    simulation = Simulation(seed=1)
    server = Echo()
    simulation.add_server(server, SERVER)
    clients = [Pinger(count=200) for _ in range(3)]
    hosts = [simulation.add_client(client, path(loss=0.5)) for client in clients]
    simulation.run(until=10.0)
    alone = run_pings(path(loss=0.5), count=200)[1]
    assert clients[0].received == alone.received
    assert len({tuple(at for at, _, _ in client.received) for client in clients}) == 3
    assert {address[1] for _, _, address in server.received} == {0, 1, 2}
    assert sum(host.up.counts.delivered for host in hosts) == len(server.received)


def test_sockets_differ_at_the_server_and_a_rebinding_moves_them() -> None:
    simulation = Simulation(seed=1)
    server, client = Echo(), Echo()
    simulation.add_server(server, SERVER)
    host = simulation.add_client(client, path(delay_s=0.1))

    def ask(now: float) -> None:
        client.outbox += [(b"a", (0, SERVER)), (b"b", (1, SERVER))]

    simulation.call_at(0.0, ask, host)
    simulation.rebind_at(0.15, host)  # the replies are on their way down
    simulation.call_at(1.0, ask, host)
    simulation.call_at(1.05, lambda now: client.received.clear())
    simulation.run(until=1.25)
    ports = [address[2] for _, _, address in server.received]
    assert len(set(ports)) == 4
    assert simulation.unroutable == 2
    assert [(data, address) for _, data, address in client.received] == [
        (b"a", (0, SERVER)),
        (b"b", (1, SERVER)),
    ]


def test_a_reply_to_an_old_mapping_goes_nowhere() -> None:
    fates: list[tuple[str, Fate]] = []
    simulation = Simulation(seed=1, on_datagram=lambda way, s, d, p, t, fate: fates.append((way, fate)))
    simulation.add_server(Echo(), SERVER)
    host = simulation.add_client(Pinger(count=1), path(delay_s=0.1))
    simulation.rebind_at(0.05, host)
    simulation.run(until=1.0)
    assert fates == [("up", Fate.DELIVERED), ("down", Fate.UNROUTABLE)]


def test_the_observer_sees_every_datagram_and_its_fate() -> None:
    seen: list[tuple[Any, ...]] = []
    simulation = Simulation(seed=1, on_datagram=lambda *facts: seen.append(facts))
    simulation.add_server(Echo(), SERVER)
    simulation.add_client(Pinger(count=2, interval_s=1.0), path(delay_s=0.1).with_outages(Outage(0.9, 0.5)))
    simulation.run(until=2.0)
    public = ("client", 0, 40_000)
    assert seen == [
        ("up", public, SERVER, b"\0\0\0\1", 0.0, Fate.DELIVERED),
        ("down", SERVER, public, b"\0\0\0\1", 0.1, Fate.DELIVERED),
        ("up", public, SERVER, b"\0\0\0\2", 1.0, Fate.OUTAGE),
    ]


def test_events_are_announced_and_commands_given_there_are_sent() -> None:
    def answer_again(endpoint: Echo, event: bytes, now: float) -> None:
        heard.append((event, now))
        endpoint.outbox.append((b"more", ("client", 0, 40_000)))

    heard: list[tuple[bytes, float]] = []
    simulation = Simulation(seed=1)
    simulation.add_server(Echo(), SERVER, on_event=answer_again)
    client = Pinger(count=1)
    simulation.add_client(client, path(delay_s=0.1))
    simulation.run(until=1.0)
    assert heard == [(b"\0\0\0\1", 0.1)]
    assert [data for _, data, _ in client.received] == [b"\0\0\0\1", b"more"]


def test_a_killed_server_hears_nothing_and_its_address_can_be_taken_over() -> None:
    simulation = Simulation(seed=1)
    before, after = Echo(), Echo()

    def restart(now: float) -> None:
        simulation.add_server(after, SERVER)

    host = simulation.add_server(before, SERVER)
    simulation.add_client(Pinger(count=10, interval_s=1.0), path(delay_s=0.1))
    simulation.call_at(2.5, lambda now: simulation.remove(host))
    simulation.call_at(5.5, restart)
    simulation.run(until=20.0)
    assert [round(at, 6) for at, _, _ in before.received] == [0.1, 1.1, 2.1]
    assert [round(at, 6) for at, _, _ in after.received] == [6.1, 7.1, 8.1, 9.1]
    assert simulation.unroutable == 3


def test_a_killed_client_is_not_called_any_more() -> None:
    simulation = Simulation(seed=1)
    simulation.add_server(Echo(), SERVER)
    client = Pinger(count=10)
    host = simulation.add_client(client, path(delay_s=0.1))
    simulation.call_at(0.025, lambda now: simulation.remove(host))
    simulation.run(until=1.0)
    assert client.called_at == [0.0, 0.01, 0.02]
    assert client.received == []
    assert simulation.unroutable == 3


def test_one_address_has_one_server() -> None:
    simulation = Simulation(seed=1)
    simulation.add_server(Echo(), SERVER)
    with pytest.raises(ConfigurationError, match="'server' is in use"):
        simulation.add_server(Echo(), SERVER)


def test_stop_and_run_go_on_where_they_were() -> None:
    simulation = Simulation(seed=1)
    simulation.add_server(Echo(), SERVER)
    client = Pinger(count=100)
    simulation.add_client(client, path(delay_s=0.1))
    simulation.call_at(0.5, lambda now: simulation.stop())
    simulation.run(until=60.0)
    assert simulation.now == 0.5
    assert simulation.in_flight > 0
    simulation.run(until=60.0)
    assert [at for at, _, _ in client.received] == [
        at for at, _, _ in run_pings(path(delay_s=0.1))[1].received[:100]
    ]


def test_a_deadline_that_moves_later_fires_once() -> None:
    simulation = Simulation(seed=1)
    endpoint = Pinger(count=1, deadline=1.0)
    simulation.add_server(Echo(), SERVER)
    host = simulation.add_client(endpoint, path())

    def move(deadline: float) -> Callable[[float], None]:
        return lambda now: setattr(endpoint, "deadline", deadline)

    simulation.call_at(0.1, move(3.0), host)
    simulation.call_at(0.2, move(0.5), host)
    simulation.call_at(0.3, move(2.0), host)
    simulation.run(until=10.0)
    assert endpoint.called_at == endpoint.fired_at == [2.0]


class Stuck(Echo):
    """Its timer is always due."""

    def next_timer(self) -> float | None:
        return -math.inf


class Chatty(Echo):
    """Its events never end."""

    def next_event(self) -> bytes | None:
        return b"again"


@pytest.mark.parametrize("endpoint", [Stuck(), Chatty()])
def test_time_that_stands_still_is_reported_with_the_seed(endpoint: Echo) -> None:
    simulation = Simulation(seed=4711)
    simulation.add_server(endpoint, SERVER)
    with pytest.raises(Livelock) as caught:
        simulation.run(until=1.0)
    assert "seed 4711" in caught.value.__notes__[0]


def test_an_endless_exchange_without_delay_is_a_livelock() -> None:
    simulation = Simulation(seed=1)
    simulation.add_server(Echo(), SERVER)
    simulation.add_client(Echo(outbox=[(b"x", (0, SERVER))]), path())
    with pytest.raises(Livelock):
        simulation.run(until=1.0)
