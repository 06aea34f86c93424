"""Any number of sans-IO endpoints and the links between them, in virtual time.

Servers sit on the open network, each under one address. Every client sits behind its own scenario
(one link up, one down) and its own NAT:

    client socket 0 --+                                  server sees
    client socket 1 --+-- NAT -- link up / link down --  ("client", index, port)

A client endpoint gives and gets addresses `(socket number, remote address)`, as a program with
several sockets does; a server endpoint gives and gets plain addresses. A rebinding gives every
socket of the client a new port; what is sent to the old one, or was under way to it, is gone.

Endpoints are drained after every input in the order of their contract: datagrams, timer, events.
Timers fire exactly at their deadline. Runs with the same seed and the same calls are identical.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol

from eloquent.errors import ConfigurationError, EloquentError
from netem.link import Fate, Link
from netem.scenario import Direction, Scenario

Address = Hashable

_MAX_STEPS_AT_ONE_TIME = 100_000
"""Steps without time passing before a run counts as stuck; arbitrary, far above 1000 endpoints
that all start together."""

_FIRST_PORT = 40_000  # arbitrary; ports only need to differ


class Endpoint(Protocol):
    """What the simulation drives: the sans-IO contract of the core.

    `address` is Any because each endpoint accepts only the form that it is given (see above).
    """

    def receive_datagram(self, data: bytes, address: Any, *, now: float) -> None: ...

    def handle_timer(self, *, now: float) -> None: ...

    def datagrams_to_send(self, *, now: float) -> Sequence[tuple[bytes, Address]]: ...

    def next_timer(self) -> float | None: ...

    def next_event(self) -> object | None: ...


EventObserver = Callable[[Any, Any, float], None]
"""Called with (endpoint, event, now). It may give commands to that endpoint."""

DatagramObserver = Callable[[Direction, Address, Address, bytes, float, Fate], None]
"""Called with (direction, source, destination, payload, sent_at, fate) for every datagram sent."""


class Livelock(EloquentError, RuntimeError):
    """The endpoints keep each other busy without time passing."""


class Host:
    """An endpoint and its place in the simulation; made by add_server() and add_client()."""

    __slots__ = ("address", "deadline", "endpoint", "is_attached", "on_event", "wakes_at")

    def __init__(self, endpoint: Endpoint, address: Address, on_event: EventObserver | None) -> None:
        self.endpoint = endpoint
        self.address = address
        self.on_event = on_event
        self.is_attached = True
        self.deadline = math.inf
        """What the endpoint asked for."""
        self.wakes_at = math.inf
        """The earliest entry for this host's timer among the simulation's events."""

    def receive(self, data: bytes, where: Any, *, now: float) -> bool:
        """Hand over a datagram from the address `where`; tell whether somebody took it."""
        self.endpoint.receive_datagram(data, where, now=now)
        return True


class ClientHost(Host):
    """A client with its links and the NAT before it."""

    __slots__ = ("_next_port", "_ports", "_sockets", "down", "index", "up")

    def __init__(
        self,
        endpoint: Endpoint,
        scenario: Scenario,
        *,
        index: int,
        seed: int,
        on_event: EventObserver | None,
    ) -> None:
        super().__init__(endpoint, ("client", index), on_event)
        self.index = index
        self.up = Link(scenario, "up", seed=seed)
        self.down = Link(scenario, "down", seed=seed)
        self._next_port = _FIRST_PORT
        self._ports: dict[int, tuple[str, int, int]] = {}
        self._sockets: dict[Address, int] = {}

    def public_address(self, socket_number: int) -> tuple[str, int, int]:
        """Return the address under which the server sees that socket now."""
        public = self._ports.get(socket_number)
        if public is None:
            public = ("client", self.index, self._next_port)
            self._next_port += 1
            self._ports[socket_number] = public
            self._sockets[public] = socket_number
        return public

    def rebind(self) -> None:
        """Lose every mapping of the NAT; sockets get new ports with their next datagram."""
        self._ports.clear()
        self._sockets.clear()

    def has_mapping(self, public: Address) -> bool:
        """Tell whether the NAT still knows that address."""
        return public in self._sockets

    def receive(self, data: bytes, where: Any, *, now: float) -> bool:
        """Hand over a datagram where `where` is (public address, remote address)."""
        public, remote = where
        socket_number = self._sockets.get(public)
        if socket_number is None:
            return False
        self.endpoint.receive_datagram(data, (socket_number, remote), now=now)
        return True


class Simulation:
    """Virtual time, starting at 0. Add hosts, plan calls, run().

    An exception out of an endpoint or an observer leaves run() with a note that names seed and
    time.
    """

    def __init__(self, *, seed: int, on_datagram: DatagramObserver | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        self.unroutable = 0
        """Datagrams to an address that nobody has, or had any more when they arrived."""
        self._on_datagram = on_datagram
        self._servers: dict[Address, Host] = {}
        self._clients: list[ClientHost] = []
        self._routes: dict[Address, ClientHost] = {}
        # (time, order, host, data, where): a datagram; without data: a timer;
        # without data and host: a call, in `where`. `order` keeps equal times in order.
        self._events: list[tuple[float, int, Host | None, bytes | None, Any]] = []
        self._order = count()
        self._steps = 0
        self._is_stopped = False

    def add_server(
        self, endpoint: Endpoint, address: Address, *, on_event: EventObserver | None = None
    ) -> Host:
        """Attach an endpoint that has one address, and drain it when the run goes on."""
        if address in self._servers:
            raise ConfigurationError(f"address {address!r} is in use; a server needs its own")
        host = self._servers[address] = Host(endpoint, address, on_event)
        self.call_at(self.now, _do_nothing, host)
        return host

    def add_client(
        self, endpoint: Endpoint, scenario: Scenario, *, on_event: EventObserver | None = None
    ) -> ClientHost:
        """Attach an endpoint with numbered sockets behind `scenario`, and drain it likewise.

        Raises ConfigurationError where the scenario has cross traffic.
        """
        scenario.check_simulated()
        index = len(self._clients)
        host = ClientHost(
            endpoint,
            scenario,
            index=index,
            # Client 0 meets the same network alone and in company.
            seed=self.seed + (index << 64),
            on_event=on_event,
        )
        self._clients.append(host)
        self.call_at(self.now, _do_nothing, host)
        return host

    def remove(self, host: Host) -> None:
        """Detach a host, as when its process is killed; a server's address becomes free."""
        host.is_attached = False
        if not isinstance(host, ClientHost):
            del self._servers[host.address]

    def call_at(self, at: float, call: Callable[[float], None], host: Host | None = None) -> None:
        """Call `call(now)` at that time (now, if it is past), then drain `host`, or every host."""
        self._schedule(max(at, self.now), None, None, (call, host))

    def rebind_at(self, at: float, client: ClientHost) -> None:
        """Have the client's NAT forget its mappings at that time."""
        self.call_at(at, lambda now: client.rebind(), client)

    def stop(self) -> None:
        """Make run() return after the step in progress; for use in a call or an observer."""
        self._is_stopped = True

    @property
    def in_flight(self) -> int:
        """How many datagrams are on their way; takes time in proportion to what is planned."""
        return sum(data is not None for _, _, _, data, _ in self._events)

    def run(self, *, until: float) -> None:
        """Run to that time (included) or until stop(); raises Livelock where time stands still."""
        self._is_stopped = False
        try:
            self._run(until)
        except Exception as error:
            error.add_note(f"in the simulation with seed {self.seed} at {self.now!r} s")
            raise
        if not self._is_stopped and until < math.inf:
            self.now = max(self.now, until)

    def _run(self, until: float) -> None:
        events = self._events
        while events and events[0][0] <= until and not self._is_stopped:
            at, _, host, data, where = heappop(events)
            if at > self.now:
                self.now = at
                self._steps = 0
            self._count_step()
            if host is None:
                self._make_call(*where)
            elif data is None:
                self._fire_timer(host)
            elif host.is_attached and host.receive(data, where, now=at):
                self._drain(host)
            else:
                self.unroutable += 1

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS_AT_ONE_TIME:
            raise Livelock(
                f"no time passed in {_MAX_STEPS_AT_ONE_TIME} steps; "
                "an endpoint's timer, its events or a link without delay go round in a circle"
            )

    def _make_call(self, call: Callable[[float], None], host: Host | None) -> None:
        call(self.now)
        if host is not None:
            self._drain(host)
            return
        for each in (*self._servers.values(), *self._clients):
            self._drain(each)

    def _fire_timer(self, host: Host) -> None:
        if not host.is_attached or host.wakes_at > self.now:
            return  # an earlier entry has done this one's work
        host.wakes_at = math.inf
        if host.deadline <= self.now:
            host.endpoint.handle_timer(now=self.now)
            self._drain(host)
        else:
            self._set_timer(host, host.deadline)

    def _set_timer(self, host: Host, deadline: float | None) -> None:
        """Note the deadline; a later one than planned leaves the planned entry to move it on."""
        host.deadline = math.inf if deadline is None else deadline
        if host.deadline < host.wakes_at:
            host.wakes_at = max(host.deadline, self.now)
            self._schedule(host.wakes_at, host, None, None)

    def _drain(self, host: Host) -> None:
        endpoint = host.endpoint
        while host.is_attached:
            for data, address in endpoint.datagrams_to_send(now=self.now):
                self._send(host, data, address)
            self._set_timer(host, endpoint.next_timer())
            if not self._announce_events(host):
                return

    def _announce_events(self, host: Host) -> bool:
        """Tell whether an observer may have given commands, so that there is more to drain."""
        event = host.endpoint.next_event()
        if event is None:
            return False
        while event is not None:
            self._count_step()
            if host.on_event is not None:
                host.on_event(host.endpoint, event, self.now)
            event = host.endpoint.next_event()
        return host.on_event is not None

    def _send(self, host: Host, data: bytes, address: Any) -> None:
        if isinstance(host, ClientHost):
            socket_number, destination = address
            source = host.public_address(socket_number)
            self._routes[source] = host
            target = self._servers.get(destination)
            self._transmit("up", host.up, target, data, source, destination, source)
        else:
            client = self._routes.get(address)
            if client is not None and not client.has_mapping(address):
                client = None
            link = None if client is None else client.down
            where = (address, host.address)
            self._transmit("down", link, client, data, host.address, address, where)

    def _transmit(
        self,
        direction: Direction,
        link: Link | None,
        target: Host | None,
        data: bytes,
        source: Address,
        destination: Address,
        where: Any,
    ) -> None:
        if link is None or target is None:
            fate = Fate.UNROUTABLE
            self.unroutable += 1
        else:
            for arrives_at, payload in link.send(data, now=self.now):
                self._schedule(arrives_at, target, payload, where)
            fate = link.fate
        if self._on_datagram is not None:
            self._on_datagram(direction, source, destination, data, self.now, fate)

    def _schedule(self, at: float, host: Host | None, data: bytes | None, where: Any) -> None:
        heappush(self._events, (at, next(self._order), host, data, where))


def _do_nothing(now: float) -> None:
    """Stand in for a call whose only purpose is the drain after it."""
