"""Protocol 1: every datagram that arrives can be rendered by itself.

A real server streams to a real client over no link at all: this file hands datagrams from one to
the other. At first some are lost both ways; then nothing that the client says gets through any
more, so that the window holds everything since the last acknowledgment. Of the datagrams that the
server sends from then on, the client gets one. It must be able to render every token that was
written before that one was sent.

The client that gets it is untouched by the others, so nothing needs to be copied or run again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.connection import Settings
from eloquent.protocol.dialer import Dialer
from eloquent.protocol.events import StreamEnded
from eloquent.protocol.listener import Listener
from eloquent.protocol.send import RETRANSMISSION_ONLY
from eloquent.protocol.streams import Stream
from eloquent.protocol.ticket import KeyRing, TicketIssuer
from eloquent.store import MemoryStore

CLIENT = ("client", 40000)
SERVER = ("server", 4433)
START = 1.0

ROOM = 1000
"""Bytes of tokens that fit one datagram of 1200, whatever frames are around them."""


@dataclass(frozen=True)
class Token:
    """Bytes that the server writes to one of the streams, `gap` seconds after the token before."""

    gap: float
    size: int
    stream: int


@dataclass
class Sent:
    """A datagram of the server, and the ends of its logs at that time."""

    data: bytes
    at: float
    ends: list[int]


@dataclass
class Pair:
    """A client with open streams and the server that answers them, both fed by hand."""

    seed: int
    streams: int
    settings: Settings = field(default_factory=Settings)
    answers: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        entropy = Random(self.seed).randbytes
        issuer = TicketIssuer(KeyRing.generate(entropy), ipv4=SERVER, entropy=entropy)
        self.listener = Listener(
            issuer, MemoryStore(), settings=self.settings, wall_offset=0.0, entropy=entropy, now=0.0
        )
        self.dialer = Dialer(issuer.issue({}, wall_now=START), SERVER, entropy=entropy, now=START)
        self.questions = [self.dialer.open() for _ in range(self.streams)]
        for question in self.questions:
            question.write(b"\xa4why?", now=START)
            question.finish()
        for _ in range(3):  # prompt and reply, the client's proof and the ticket, what that asks for
            self.to_server(now=START)
            self.to_client(self.from_server(now=START), now=START)
        assert len(self.answers) == self.streams

    def to_server(self, *, now: float) -> None:
        """Deliver everything that the client has to say."""
        for data, _ in self.dialer.datagrams_to_send(now=now):
            self.listener.receive_datagram(data, CLIENT, now=now)

    def from_server(self, *, now: float) -> list[bytes]:
        """Everything that the server has to say."""
        datagrams = [data for data, _ in self.listener.datagrams_to_send(now=now)]
        while (pair := self.listener.next_event()) is not None:
            if isinstance(pair[1], StreamEnded):
                self.answers.append(pair[1].stream)
        return datagrams

    def to_client(self, datagrams: list[bytes], *, now: float) -> None:
        for data in datagrams:
            self.dialer.receive_datagram(data, (0, SERVER), now=now)
        while self.dialer.next_event() is not None:
            pass

    def write(self, token: Token, *, now: float) -> None:
        answer = self.answers[token.stream % self.streams]
        answer.write(bytes(token.size), now=now)
        self.listener.touch(answer.group)

    def timers_until(self, until: float) -> Iterator[float]:
        """Fire the server's timers up to that time; yields each time at which one was due."""
        while (at := self.listener.next_timer()) is not None and at <= until:
            self.listener.handle_timer(now=at)
            yield at


def stream_lossily(pair: Pair, tokens: list[Token], losses: Random) -> float:
    """Stream with a third of all datagrams lost; returns the time at the end."""
    now = START
    for token in tokens:
        for at in (*pair.timers_until(now + token.gap), now + token.gap):
            now = at
            arriving = [data for data in pair.from_server(now=now) if losses.random() > 1 / 3]
            pair.to_client(arriving, now=now)
            if losses.random() > 1 / 3:
                pair.to_server(now=now)
            else:
                pair.dialer.datagrams_to_send(now=now)
        pair.write(token, now=now)
    return now


def stream_unheard(pair: Pair, tokens: list[Token], start: float, quiet: float) -> list[Sent]:
    """Stream while nothing comes back, then say nothing new for `quiet` seconds."""
    sent: list[Sent] = []

    def collect(at: float) -> None:
        ends = [answer.outgoing.end for answer in pair.answers]
        sent.extend(Sent(data, at, ends) for data in pair.from_server(now=at))

    now = start
    for token in tokens:
        for at in pair.timers_until(now + token.gap):
            collect(at)
        now += token.gap
        pair.write(token, now=now)
        collect(now)
    for at in pair.timers_until(now + quiet):
        collect(at)
    return sent


TOKENS = st.lists(st.builds(Token, st.floats(0.0, 0.3), st.integers(1, 20), st.integers(0, 2)), max_size=25)


@given(
    seed=st.integers(0, 2**32),
    streams=st.integers(1, 3),
    before=TOKENS,
    since=TOKENS.filter(bool),
    quiet=st.floats(0.1, 2.0),
    choice=st.integers(0),
)
def test_any_single_datagram_makes_everything_before_it_renderable(
    seed: int, streams: int, before: list[Token], since: list[Token], quiet: float, choice: int
) -> None:
    pair = Pair(seed, streams)
    assert sum(token.size for token in before + since) <= ROOM
    now = stream_lossily(pair, before, Random(seed))
    sent = stream_unheard(pair, since, now, quiet)
    assert sent
    chosen = sent[choice % len(sent)]
    pair.to_client([chosen.data], now=chosen.at)
    # protocol 1: "every datagram that arrives can be rendered by itself"
    assert [question.incoming.offset for question in pair.questions] == chosen.ends


def test_a_sender_without_redundancy_does_not_have_this_property() -> None:
    pair = Pair(seed=0, streams=1, settings=Settings(policy=RETRANSMISSION_ONLY))
    sent = stream_unheard(pair, [Token(0.05, 5, 0)] * 3, START, quiet=0.01)
    pair.to_client([sent[-1].data], now=sent[-1].at)
    assert pair.questions[0].incoming.offset < sent[-1].ends[0]
