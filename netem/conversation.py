"""One client and one server of the real core over a simulated link, for tests and experiments.

Everything is derived from a seed: keys, tickets, connection IDs, the link. The client asks, the
server streams tokens at given times, and the record says when each byte could be rendered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random

from eloquent.protocol.connection import Connection, Settings
from eloquent.protocol.dialer import Dialer
from eloquent.protocol.events import (
    ConnectionEnded,
    Event,
    StreamEnded,
    StreamInterrupted,
    StreamReadable,
    TicketNeeded,
)
from eloquent.protocol.listener import Listener
from eloquent.protocol.streams import LogGroup, Stream
from eloquent.protocol.ticket import KeyRing, Ticket, TicketIssuer
from eloquent.store import MemoryStore
from netem.impairment import IP_UDP_HEADER_BYTES
from netem.link import Fate
from netem.scenario import Direction, Scenario
from netem.simulation import Address, ClientHost, DatagramObserver, Simulation

SERVER = "server"
WALL_OFFSET = 1_700_000_000.0
"""Wall time at the start of each simulation; arbitrary, as nothing depends on it."""

FIRST_START = 1.0
"""Seconds after the server's start at which the client appears: tickets must not be older."""

_CHECK_INTERVAL = 0.25
"""Seconds of virtual time between two looks at whether a run is over; arbitrary."""


@dataclass(slots=True)
class Traffic:
    """Datagrams that one side has sent, with IP and UDP headers in the bytes."""

    datagrams: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Turn:
    """One stream as both sides saw it."""

    prompt: bytes
    answer: bytes
    asked_at: float
    written_at: list[tuple[float, int]] = field(default_factory=list)
    """(time, offset after it) of each token that the server wrote."""
    read_at: list[tuple[float, int]] = field(default_factory=list)
    """(time, offset after it) of each step of the client's contiguous bytes."""
    received: bytearray = field(default_factory=bytearray)
    prompt_received: bytearray = field(default_factory=bytearray)
    prompt_whole_at: float | None = None
    times_answered: int = 0
    """How often the server began an answer; more than once means that a prompt ran twice."""
    ended_at: float | None = None
    is_complete: bool = False
    interrupted_at: int | None = None

    def rendered_at(self) -> list[float]:
        """When each token could first be rendered, in order; tokens that never could are left out."""
        times: list[float] = []
        steps = iter(self.read_at)
        at, held = 0.0, 0
        for _, offset in self.written_at:
            while held < offset:
                step = next(steps, None)
                if step is None:
                    return times
                at, held = step
            times.append(at)
        return times

    def delays(self) -> list[float]:
        """Seconds from writing to the first moment at which it could be rendered, by token."""
        return [
            rendered - written
            for (written, _), rendered in zip(self.written_at, self.rendered_at(), strict=False)
        ]

    def fault(self) -> str | None:
        """What keeps this turn from being exact; None where every byte came and the ends are proved."""
        if self.interrupted_at is not None:
            return f"the answer was interrupted at {self.interrupted_at}"
        if self.prompt_whole_at is None or bytes(self.prompt_received) != self.prompt:
            return f"{len(self.prompt_received)} bytes of the prompt came, {len(self.prompt)} were sent"
        if self.times_answered != 1:
            return f"the prompt ran {self.times_answered} times"
        if bytes(self.received) != self.answer:
            return f"{len(self.received)} bytes of the answer came, {len(self.answer)} were sent"
        return None if self.is_complete else "the answer came whole but was not reported complete"


class Conversation:
    """A client that asks and a server that streams, in one simulation."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        seed: int,
        settings: Settings | None = None,
        client_settings: Settings | None = None,
        on_datagram: DatagramObserver | None = None,
    ) -> None:
        self.seed = seed
        self.simulation = Simulation(seed=seed, on_datagram=self._on_datagram)
        settings = settings or Settings()
        entropy = Random(f"{seed}/entropy").randbytes
        self.issuer = TicketIssuer(KeyRing.generate(entropy), ipv4=(SERVER, 4433), entropy=entropy)
        self.listener = Listener(
            self.issuer,
            MemoryStore(),
            settings=settings,
            wall_offset=WALL_OFFSET,
            entropy=entropy,
            now=0.0,
        )
        self.server = self.simulation.add_server(self.listener, SERVER, on_event=self._on_server_event)
        self.simulation.run(until=FIRST_START)
        self.dialer = Dialer(
            self.ticket(FIRST_START),
            SERVER,
            settings=client_settings or settings,
            entropy=entropy,
            now=FIRST_START,
        )
        self.client: ClientHost = self.simulation.add_client(
            self.dialer, scenario, on_event=self._on_client_event
        )
        self.turns: dict[int, Turn] = {}
        self.traffic: dict[Direction, Traffic] = {"up": Traffic(), "down": Traffic()}
        self.events: list[tuple[float, Event]] = []
        self.server_events: list[tuple[float, Event]] = []
        self.reads = True
        """Whether the client takes what arrives."""
        self.ended: ConnectionEnded | None = None
        self._observer = on_datagram
        self._senders: dict[Direction, dict[Connection, None]] = {"up": {}, "down": {}}
        self._answers: dict[int, Iterator[tuple[bytes, float]]] = {}
        self._unasked = 0

    def ticket(self, now: float) -> Ticket:
        """Issue a new first-use ticket."""
        return self.issuer.issue({"sub": "simulated"}, wall_now=now + WALL_OFFSET)

    def ask_at(self, at: float, prompt: bytes, tokens: list[bytes], gaps: Iterable[float]) -> None:
        """Open a stream at that time; the server answers with `tokens`.

        Each token is followed by one of `gaps`, in seconds, which must not run out before the
        tokens; the end of the answer comes after the last token's gap.
        """

        def ask(now: float) -> None:
            self._unasked -= 1
            stream = self.dialer.open()
            self.turns[stream.id] = Turn(prompt, b"".join(tokens), asked_at=now)
            self._answers[stream.id] = zip(tokens, gaps, strict=False)
            stream.write(prompt, now=now)
            stream.finish()

        self._unasked += 1
        self.simulation.call_at(at, ask, self.client)

    def run(self, *, until: float) -> None:
        """Run to that time, or until every stream is over and acknowledged."""
        simulation = self.simulation
        while simulation.now < until and not self.is_over:
            simulation.run(until=min(simulation.now + _CHECK_INTERVAL, until))

    def settle(self, *, until: float) -> bool:
        """Run on until nothing is in flight; False where that did not come about."""
        simulation = self.simulation
        while self.in_flight and simulation.now < until:
            simulation.run(until=min(simulation.now + _CHECK_INTERVAL, until))
        return not self.in_flight

    @property
    def is_over(self) -> bool:
        """Whether every question was asked, every answer has ended and every end is acknowledged."""
        if self._unasked or any(turn.ended_at is None for turn in self.turns.values()):
            return False
        return not any(group.has_open for group in (self.dialer.group, *self.listener.groups))

    @property
    def in_flight(self) -> int:
        """Datagrams on the links, and those that either side still counts as in flight."""
        owners = (self.listener.owner(group) for group in self.listener.groups)
        connections = [self.dialer.connection, *(owner for owner in owners if owner is not None)]
        counted = sum(
            len(connection.recovery.in_flight) for connection in connections if connection.ended is None
        )
        return counted + self.simulation.in_flight

    def faults(self) -> list[str]:
        """What keeps this run from being exact, in words; empty where everything is."""
        faults = [
            f"stream {number}: {fault}"
            for number, turn in self.turns.items()
            if (fault := turn.fault()) is not None
        ]
        if not self.is_over:
            faults.append(f"not over at {self.simulation.now:.1f} s")
        return faults

    def senders(self, direction: Direction) -> list[Connection]:
        """The connections that have sent in that direction, but for resumptions that came to nothing."""
        return list(self._senders[direction])

    def read(self, stream: Stream, now: float) -> None:
        """Take what has arrived of an answer."""
        data = stream.read()
        if data:
            turn = self.turns[stream.id]
            turn.received += data
            turn.read_at.append((now, len(turn.received)))

    def _on_datagram(
        self,
        direction: Direction,
        source: Address,
        destination: Address,
        data: bytes,
        at: float,
        fate: Fate,
    ) -> None:
        traffic = self.traffic[direction]
        traffic.datagrams += 1
        traffic.bytes += len(data) + IP_UDP_HEADER_BYTES
        if self._observer is not None:
            self._observer(direction, source, destination, data, at, fate)

    def _on_server_event(self, listener: Listener, pair: tuple[LogGroup, Event], now: float) -> None:
        group, event = pair
        owner = listener.owner(group)
        if owner is not None:
            self._senders["down"][owner] = None
        self.server_events.append((now, event))
        if isinstance(event, StreamReadable):
            self._read_prompt(event.stream)
        elif isinstance(event, StreamEnded) and event.stream.incoming.is_complete:
            turn = self.turns[event.stream.id]
            self._read_prompt(event.stream)
            turn.prompt_whole_at = now
            turn.times_answered += 1
            self._write_next(event.stream, now)

    def _read_prompt(self, stream: Stream) -> None:
        self.turns[stream.id].prompt_received += stream.read()
        self.listener.touch(stream.group)

    def _write_next(self, stream: Stream, now: float) -> None:
        if stream.outgoing.has_ended:
            return
        token, gap = next(self._answers[stream.id], (None, 0.0))
        if token is None:
            stream.finish()
        else:
            stream.write(token, now=now)
            self.turns[stream.id].written_at.append((now, stream.outgoing.end))
            self.simulation.call_at(now + gap, lambda at: self._write_next(stream, at), self.server)
        self.listener.touch(stream.group)

    def _on_client_event(self, dialer: Dialer, event: Event, now: float) -> None:
        if isinstance(event, StreamReadable):
            if self.reads:
                self.read(event.stream, now)
            return
        self._senders["up"][dialer.connection] = None
        self.events.append((now, event))
        if isinstance(event, StreamEnded):
            self._on_answer_ended(event.stream, now)
        elif isinstance(event, StreamInterrupted):
            self.turns[event.stream.id].interrupted_at = event.offset
        elif isinstance(event, TicketNeeded):
            dialer.use_ticket(self.ticket(now), now=now)
        elif isinstance(event, ConnectionEnded):
            self.ended = event

    def _on_answer_ended(self, stream: Stream, now: float) -> None:
        if self.reads:
            self.read(stream, now)
        turn = self.turns[stream.id]
        turn.ended_at = now
        turn.is_complete = stream.incoming.is_complete
