"""One client and one server of the real core over a simulated link, for tests and experiments.

Everything is derived from a seed: keys, tickets, connection IDs, the link. The client asks, the
server streams tokens at given times, and the record says when each byte could be rendered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from eloquent.protocol.connection import Settings
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
from netem.link import Fate
from netem.scenario import Direction, Scenario
from netem.simulation import ClientHost, Simulation

SERVER = "server"
WALL_OFFSET = 1_700_000_000.0
"""Wall time at the start of each simulation; arbitrary, as nothing depends on it."""

FIRST_START = 1.0
"""Seconds after the server's start at which the client appears: tickets must not be older."""


@dataclass(slots=True)
class Traffic:
    """Datagrams of one direction, with IP and UDP headers in the bytes."""

    datagrams: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Turn:
    """One stream as both sides saw it."""

    prompt: bytes
    answer: bytes
    written_at: list[tuple[float, int]] = field(default_factory=list)
    """(time, offset after it) of each token that the server wrote."""
    read_at: list[tuple[float, int]] = field(default_factory=list)
    """(time, offset after it) of each step of the client's contiguous bytes."""
    received: bytearray = field(default_factory=bytearray)
    prompt_received: bytearray = field(default_factory=bytearray)
    asked_at: float = 0.0
    prompt_whole_at: float | None = None
    ended_at: float | None = None
    is_complete: bool = False
    interrupted_at: int | None = None

    def delays(self) -> list[float]:
        """Seconds from writing to the first moment at which it could be rendered, by token."""
        delays = []
        steps = iter(self.read_at)
        step = next(steps, None)
        for at, offset in self.written_at:
            while step is not None and step[1] < offset:
                step = next(steps, None)
            if step is None:
                break
            delays.append(step[0] - at)
        return delays


class Conversation:
    """A client that asks and a server that streams, in one simulation."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        seed: int,
        settings: Settings = Settings(),
        client_settings: Settings | None = None,
    ) -> None:
        self.seed = seed
        self.rng = Random(f"{seed}/conversation")
        self.simulation = Simulation(seed=seed, on_datagram=self._on_datagram)
        entropy = Random(f"{seed}/entropy").randbytes
        self._entropy = entropy
        self.issuer = TicketIssuer(KeyRing.generate(entropy), ipv4=("server", 4433), entropy=entropy)
        self.listener = Listener(
            self.issuer, MemoryStore(), settings=settings, wall_offset=WALL_OFFSET, entropy=entropy, now=0.0
        )
        self.server = self.simulation.add_server(self.listener, SERVER, on_event=self._on_server_event)
        self._client_settings = client_settings or settings
        self._scenario = scenario
        self.dialer: Dialer
        self.client: ClientHost
        self.turns: dict[int, Turn] = {}
        self.traffic: dict[Direction, Traffic] = {"up": Traffic(), "down": Traffic()}
        self.events: list[tuple[float, Event]] = []
        self.server_events: list[tuple[float, Event]] = []
        self.reads = True
        """Whether the client takes what arrives."""
        self.ended: ConnectionEnded | None = None
        self._gaps: dict[int, Iterable[float]] = {}
        self._tokens: dict[int, list[bytes]] = {}
        self._start()

    def _start(self) -> None:
        self.simulation.run(until=FIRST_START)
        self.dialer = Dialer(
            self.ticket(FIRST_START),
            SERVER,
            settings=self._client_settings,
            entropy=self._entropy,
            now=FIRST_START,
        )
        self.client = self.simulation.add_client(self.dialer, self._scenario, on_event=self._on_client_event)

    def ticket(self, now: float) -> Ticket:
        """A new first-use ticket."""
        return self.issuer.issue({"sub": "simulated"}, wall_now=now + WALL_OFFSET)

    def ask_at(
        self, at: float, prompt: bytes, tokens: list[bytes], gaps: Iterable[float]
    ) -> None:
        """Open a stream at that time; the server answers with `tokens`, `gaps` seconds apart."""

        def ask(now: float) -> None:
            stream = self.dialer.open()
            self.turns[stream.id] = Turn(prompt, b"".join(tokens), asked_at=now)
            self._tokens[stream.id] = tokens
            self._gaps[stream.id] = gaps
            stream.write(prompt, now=now)
            stream.finish()

        self.simulation.call_at(at, ask, self.client)

    def run(self, *, until: float) -> None:
        """Run to that time, or until every stream is over and nothing is left to acknowledge."""
        self.simulation.run(until=until)

    @property
    def is_over(self) -> bool:
        """Whether every answer has ended and every end is acknowledged."""
        groups = self.listener.groups
        return all(turn.ended_at is not None for turn in self.turns.values()) and not any(
            stream.is_open for group in [self.dialer.group, *groups] for stream in group.streams.values()
        )

    def _on_datagram(
        self, direction: Direction, source: object, destination: object, data: bytes, at: float, fate: Fate
    ) -> None:
        traffic = self.traffic[direction]
        traffic.datagrams += 1
        traffic.bytes += len(data) + 28

    def _on_server_event(self, listener: Listener, pair: tuple[LogGroup, Event], now: float) -> None:
        group, event = pair
        self.server_events.append((now, event))
        if isinstance(event, StreamReadable):
            self._read_prompt(event.stream, now)
        elif isinstance(event, StreamEnded):
            turn = self.turns.get(event.stream.id)
            if turn is not None and event.stream.incoming.is_complete:
                self._read_prompt(event.stream, now)
                turn.prompt_whole_at = now
                self._write_next(event.stream, iter(self._tokens[event.stream.id]), iter(self._gaps[event.stream.id]), now)
                listener.touch(group)

    def _read_prompt(self, stream: Stream, now: float) -> None:
        data = stream.read()
        if data:
            self.turns[stream.id].prompt_received += data
            self.listener.touch(stream.group)

    def _write_next(self, stream: Stream, tokens: object, gaps: object, now: float) -> None:
        if stream.outgoing.has_ended:
            return
        token = next(tokens, None)  # type: ignore[call-overload]
        if token is None:
            stream.finish()
        else:
            stream.write(token, now=now)
            self.turns[stream.id].written_at.append((now, stream.outgoing.end))
            self.simulation.call_at(
                now + next(gaps),  # type: ignore[call-overload]
                lambda at: self._write_next(stream, tokens, gaps, at),
                self.server,
            )
        self.listener.touch(stream.group)

    def _on_client_event(self, dialer: Dialer, event: Event, now: float) -> None:
        if isinstance(event, StreamReadable):
            if self.reads:
                self.read(event.stream, now)
            return
        self.events.append((now, event))
        if isinstance(event, StreamEnded):
            self._on_answer_ended(event.stream, now)
        elif isinstance(event, StreamInterrupted):
            self.turns[event.stream.id].interrupted_at = event.offset
        elif isinstance(event, TicketNeeded):
            dialer.use_ticket(self.ticket(now), now=now)
        elif isinstance(event, ConnectionEnded):
            self.ended = event

    def read(self, stream: Stream, now: float) -> None:
        """Take what has arrived of an answer."""
        data = stream.read()
        if data:
            turn = self.turns[stream.id]
            turn.received += data
            turn.read_at.append((now, len(turn.received)))

    def _on_answer_ended(self, stream: Stream, now: float) -> None:
        if self.reads:
            self.read(stream, now)
        turn = self.turns[stream.id]
        turn.ended_at = now
        turn.is_complete = stream.incoming.is_complete

