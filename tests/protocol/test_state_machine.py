"""Any order of commands, times and accidents of the network, over a client and a server.

Whatever happens, what one side has read is a prefix of what the other has written, a log is
complete only where all of it is there, and no timer stays due for ever. Once the network is well
again, everything that was begun comes to its end.
"""

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eloquent.protocol.connection import Connection, Settings
from eloquent.protocol.events import (
    ConnectionEnded,
    Event,
    StreamEnded,
    StreamInterrupted,
    StreamOpened,
    TicketNeeded,
)
from eloquent.protocol.path import AMPLIFICATION_FACTOR
from eloquent.protocol.send import ELOQUENT, RETRANSMISSION_ONLY
from eloquent.protocol.streams import Stream
from tests.pair import CLIENT_HOST, Pair

SIZES = st.sampled_from([0, 1, 5, 40, 300, 1100, 1200, 4000, 30_000, 300_000])
PAUSES = st.sampled_from([0.0, 0.001, 0.012, 0.05, 0.2, 0.7, 3.5, 11.0])
WHICH = st.integers(0, 2**16)
HOSTS = st.sampled_from([CLIENT_HOST, CLIENT_HOST, "203.0.113.40"])


@dataclass
class Half:
    """One direction of a stream: what went in and what came out."""

    written: bytearray = field(default_factory=bytearray)
    read: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    """Its writer has ended it as whole."""
    is_unwanted: bool = False


@dataclass
class Turn:
    client: Stream
    server: Stream | None = None
    prompt: Half = field(default_factory=Half)
    answer: Half = field(default_factory=Half)
    is_interrupted: bool = False
    ends: int = 0


class Conversation(RuleBasedStateMachine):
    """The two sides, the network between them, and what the applications on them know."""

    @initialize(
        seed=st.integers(0, 1000),
        padding=st.sampled_from([0, 64, 1200]),
        coalescing=st.sampled_from([0.0, 0.02]),
        policy=st.sampled_from([ELOQUENT, ELOQUENT, RETRANSMISSION_ONLY]),
    )
    def start(self, seed: int, padding: int, coalescing: float, policy: object) -> None:
        chosen = Settings(padding=padding, coalescing=coalescing, policy=policy)  # type: ignore[arg-type]
        self.pair = Pair(seed=seed, settings=chosen)
        self.turns: list[Turn] = []
        self.needs_ticket = False
        self.is_over = False
        self.pair.on_server_event = self.on_server_event
        self.pair.on_client_event = self.on_client_event

    def on_server_event(self, event: Event) -> None:
        if isinstance(event, StreamOpened):
            turn = self.turns[event.stream.id]
            # Only a server that had lost the first one may be asked again.
            turn.server = event.stream
            turn.prompt.read.clear()
            turn.answer = Half(is_unwanted=turn.answer.is_unwanted)

    def on_client_event(self, event: Event) -> None:
        assert not self.is_over, "an event after the end"
        if isinstance(event, TicketNeeded):
            self.needs_ticket = True
        elif isinstance(event, ConnectionEnded):
            self.is_over = True
        elif isinstance(event, StreamInterrupted):
            self.turns[event.stream.id].is_interrupted = True
        elif isinstance(event, StreamEnded):
            self.turns[event.stream.id].ends += 1

    # The network

    @rule(which=WHICH, is_up=st.booleans(), times=st.integers(1, 2))
    def deliver_one(self, which: int, is_up: bool, times: int) -> None:
        """Some datagram arrives, in any order, once or twice."""
        queue = self.pair.up if is_up else self.pair.down
        if queue:
            entry = queue.pop(which % len(queue))
            for _ in range(times):
                (self.pair.to_server if is_up else self.pair.to_client)(*entry)

    @rule(which=WHICH, is_up=st.booleans())
    def corrupt_one(self, which: int, is_up: bool) -> None:
        queue = self.pair.up if is_up else self.pair.down
        if queue:
            data, address = queue[which % len(queue)]
            changed = bytearray(data)
            changed[which % len(data)] ^= 1 << which % 8
            (self.pair.to_server if is_up else self.pair.to_client)(bytes(changed), address)

    @rule(is_up=st.booleans(), keeps=st.integers(0, 3))
    def lose_some(self, is_up: bool, keeps: int) -> None:
        queue = self.pair.up if is_up else self.pair.down
        del queue[keeps:]

    @rule(pause=PAUSES)
    def work_well(self, pause: float) -> None:
        self.pair.wait(min(pause, 0.7))
        self.get_ticket()

    @rule(pause=PAUSES)
    def keep_everything(self, pause: float) -> None:
        """Time passes and nothing arrives."""
        self.pair.wait(pause, delivers=False)

    @rule(host=HOSTS)
    def rebind(self, host: str) -> None:
        self.pair.rebind(host)

    @precondition(lambda self: self.pair.dialer.ended is None)
    @rule()
    def change_network(self) -> None:
        self.pair.dialer.network_changed(now=self.pair.now)
        self.pair.drain()

    # The client's application

    @precondition(lambda self: self.pair.dialer.ended is None and len(self.turns) < 6)
    @rule(size=SIZES, ends=st.booleans())
    def ask(self, size: int, ends: bool) -> None:
        stream = self.pair.dialer.open()
        assert stream.id == len(self.turns)
        self.turns.append(Turn(stream))
        self.write(self.turns[-1].prompt, stream, size)
        if ends:
            self.end(self.turns[-1].prompt, stream)

    def turn(self, which: int) -> Turn | None:
        return self.turns[which % len(self.turns)] if self.turns else None

    @rule(which=WHICH, size=SIZES, ends=st.booleans())
    def go_on_asking(self, which: int, size: int, ends: bool) -> None:
        if (turn := self.turn(which)) is not None:
            self.write(turn.prompt, turn.client, size)
            if ends:
                self.end(turn.prompt, turn.client)

    @rule(which=WHICH)
    def give_up_asking(self, which: int) -> None:
        if (turn := self.turn(which)) is not None:
            turn.client.reset(300)
            self.pair.drain()

    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        if (turn := self.turn(which)) is not None:
            turn.client.stop()
            turn.answer.is_unwanted |= turn.client.stop_wanted
            self.pair.drain()

    @rule(which=WHICH)
    def read_answer(self, which: int) -> None:
        if (turn := self.turn(which)) is not None:
            turn.answer.read += turn.client.read()
            self.pair.drain()

    # The server's application

    def answering(self, which: int) -> tuple[Turn, Stream] | None:
        turn = self.turn(which)
        return None if turn is None or turn.server is None else (turn, turn.server)

    @rule(which=WHICH, size=SIZES, ends=st.booleans())
    def answer(self, which: int, size: int, ends: bool) -> None:
        if (found := self.answering(which)) is not None:
            turn, stream = found
            self.write(turn.answer, stream, size)
            if ends:
                self.end(turn.answer, stream)
            self.touch(stream)

    @rule(which=WHICH, code=st.sampled_from([2, 3, 300]), drop_unsent=st.booleans())
    def fail(self, which: int, code: int, drop_unsent: bool) -> None:
        if (found := self.answering(which)) is not None:
            found[1].reset(code, drop_unsent=drop_unsent)
            self.touch(found[1])

    @rule(which=WHICH)
    def refuse_prompt(self, which: int) -> None:
        if (found := self.answering(which)) is not None:
            found[1].stop()
            found[0].prompt.is_unwanted |= found[1].stop_wanted
            self.touch(found[1])

    @rule(which=WHICH)
    def read_prompt(self, which: int) -> None:
        if (found := self.answering(which)) is not None:
            found[0].prompt.read += found[1].read()
            self.touch(found[1])

    def touch(self, stream: Stream) -> None:
        self.pair.listener.touch(stream.group)
        self.pair.drain()

    def write(self, half: Half, stream: Stream, size: int) -> None:
        if stream.outgoing.has_ended or stream.stop_received:
            return
        start = len(half.written)
        data = bytes((start + index) % 251 for index in range(size))
        stream.write(data, now=self.pair.now)
        half.written += data
        self.pair.drain()

    def end(self, half: Half, stream: Stream) -> None:
        if not stream.outgoing.has_ended:
            stream.finish()
            half.is_whole = True
            self.pair.drain()

    def get_ticket(self) -> None:
        if self.needs_ticket:
            self.needs_ticket = False
            self.pair.dialer.use_ticket(self.pair.new_ticket(), now=self.pair.now)
            self.pair.drain()

    # What always holds

    def connections(self) -> list[Connection]:
        return [*self.pair.dialer._connections(), *self.pair.listener._by_id.values()]

    @invariant()
    def what_was_read_is_a_prefix_of_what_was_written(self) -> None:
        for turn in self.turns:
            for half in (turn.prompt, turn.answer):
                assert half.is_unwanted or half.written.startswith(half.read)

    @invariant()
    def only_a_whole_log_is_complete(self) -> None:
        for turn in self.turns:
            sides = [(turn.answer, turn.client)]
            if turn.server is not None:
                sides.append((turn.prompt, turn.server))
            for half, stream in sides:
                if stream.incoming.is_complete:
                    assert half.is_whole
                    assert not half.is_unwanted
                    assert stream.incoming.offset == len(half.written)
            assert turn.ends <= 1

    @invariant()
    def what_is_in_flight_adds_up(self) -> None:
        for connection in self.connections():
            recovery = connection.recovery
            assert recovery.bytes_in_flight == sum(packet.size for packet in recovery.in_flight)

    @invariant()
    def an_address_that_proved_nothing_gets_little(self) -> None:
        for connection in self.connections():
            for path in (connection.paths.active, connection.paths.previous):
                if path is not None and not path.is_validated:
                    assert path.sent <= AMPLIFICATION_FACTOR * path.received + path.bonus

    # The end of each run

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        self.get_ticket()
        if self.pair.dialer.ended is None:
            # Where a NAT has forgotten a client that waits for nothing, nobody else can find it.
            self.pair.dialer.ping()
        for _ in range(60):
            self.bring_to_an_end()
            self.pair.wait(0.5)
            self.get_ticket()
            if self.is_over or self.has_settled():
                break
        if self.is_over:
            assert self.pair.dialer.ended is not None
            return
        assert self.has_settled(), [
            (turn.client.id, turn.client.is_open, turn.client.incoming.has_ended, turn.server is not None)
            for turn in self.turns
        ]
        self.bring_to_an_end()
        for turn in self.turns:
            self.check_end(turn)

    def bring_to_an_end(self) -> None:
        for turn in self.turns:
            self.end(turn.prompt, turn.client)
            turn.answer.read += turn.client.read()
            if turn.server is not None:
                self.end(turn.answer, turn.server)
                turn.prompt.read += turn.server.read()
                self.touch(turn.server)
        self.pair.drain()

    def has_settled(self) -> bool:
        groups = [self.pair.dialer.group, *self.pair.listener.groups]
        return not any(group.has_open for group in groups) and not any(
            connection.recovery.bytes_in_flight
            for connection in self.connections()
            if connection.ended is None and connection.protection.is_confirmed
        )

    def check_end(self, turn: Turn) -> None:
        incoming = turn.client.incoming
        assert incoming.has_ended
        assert turn.is_interrupted or turn.ends == 1
        if turn.answer.is_whole and not turn.answer.is_unwanted and not turn.is_interrupted:
            assert incoming.is_complete
            assert turn.answer.read == turn.answer.written
        if turn.server is not None and turn.prompt.is_whole and not turn.prompt.is_unwanted:
            if turn.server.stop_wanted or turn.is_interrupted:
                return
            assert turn.server.incoming.is_complete
            assert turn.prompt.read == turn.prompt.written


Conversation.TestCase.settings = settings(stateful_step_count=40)
TestConversation = Conversation.TestCase
