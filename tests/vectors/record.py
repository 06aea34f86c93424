"""Records whole conversations, datagram by datagram; `generate.py` writes them to datagrams.json.

Keys, connection IDs and times are fixed, and the network is the simulated one, so a run gives the
same bytes each time. The frames beside each datagram were opened by the library; another
implementation has what it needs to open them itself: the ticket and the client's private keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from eloquent.protocol.connection import Settings
from eloquent.protocol.content import Custom, Finish, Reasoning, Role, ToolCall, Usage, encode
from eloquent.protocol.crypto import Aead, FirstFlightKeys, KeyShare, derive_session
from eloquent.protocol.dialer import Dialer
from eloquent.protocol.events import Event, StreamEnded, StreamReadable
from eloquent.protocol.keyphase import ReceiveKeys
from eloquent.protocol.listener import Listener
from eloquent.protocol.streams import LogGroup, Stream
from eloquent.protocol.ticket import KeyRing, Ticket, TicketIssuer
from eloquent.protocol.wire import (
    HEADER_SIZE,
    REFUSAL_NONCE_SIZE,
    Frame,
    Header,
    Kind,
    NewTicket,
    decode_frames_untrusted,
    decode_header_untrusted,
    encode_frame,
    split_initial_untrusted,
    split_reply_untrusted,
)
from eloquent.store import MemoryStore
from netem.impairment import Impairment
from netem.link import Fate
from netem.scenario import Direction, Outage, Scenario
from netem.simulation import ClientHost, Simulation

WALL_OFFSET = 1_750_000_000.0
SERVER = "server"
ONE_WAY = Impairment(delay_s=0.025)
TOKEN_GAP = 0.03
KEY_SIZE = 32
LONG_PTO = 10.0
"""Seconds; the recording opens what the update of a key overtook without any hurry."""

FRAME_NAMES = (
    "TOKENS", "ACK", "PING", "PATH_CHALLENGE", "PATH_RESPONSE", "STOP", "RESET", "RESUME", "TICKET",
    "CLOSE", "WELCOME",
)  # fmt: skip

PROMPT = [Role("user"), "Why is the sky blue? Répondez…"]
LONG_PROMPT = ["Summarise: ", "the sky is blue because short waves scatter more than long ones. " * 20]
ANSWER: list[Any] = [
    Role("assistant"),
    Reasoning("Short waves scatter more."),
    "Ray",
    "leigh",
    " scat",
    "tering",
    b": \xe2\x80",
    b"\x94 bleu",
    ToolCall(0, "call-1", "spectrum", '{"nm": 450}'),
    Custom("source", {"page": 7, "score": 0.5}),
    Usage(21, 9),
    Finish("stop"),
]


def seeded_entropy(name: str, keys: list[bytes] | None = None) -> Callable[[int], bytes]:
    """Not random at all: call n returns the start of SHA-256("name n"). `keys` gets what is a key."""
    calls = 0

    def entropy(size: int) -> bytes:
        nonlocal calls
        calls += 1
        data = hashlib.sha256(f"{name} {calls}".encode()).digest()[:size]
        if keys is not None and size == KEY_SIZE:
            keys.append(data)
        return data

    return entropy


class Opener:
    """Opens the datagrams of one client, as the client and the server together can."""

    def __init__(self, ticket: Ticket, privates: list[bytes]) -> None:
        self._tickets = {ticket.sealed: ticket}
        self._privates = privates
        self._flights: dict[bytes, tuple[Ticket, KeyShare, FirstFlightKeys]] = {}
        self._keys: dict[bytes, ReceiveKeys] = {}
        """By the connection ID in the header, so one for each direction of each connection."""

    def open(self, datagram: bytes, at: float) -> list[Frame] | int:
        """The frames, or the code of a refusal."""
        header = decode_header_untrusted(datagram)
        if header.kind == Kind.REFUSED:
            return self._open_refusal(header, datagram)
        if header.kind == Kind.INITIAL:
            plaintext = self._open_initial(header, datagram)
        else:
            start = HEADER_SIZE
            if header.kind == Kind.REPLY:
                start = self._learn_reply(header, datagram)
            plaintext = self._keys[header.connection_id].open(
                header.phase, header.packet_number, datagram[:start], datagram[start:], now=at, pto=LONG_PTO
            )
        assert plaintext is not None
        frames = decode_frames_untrusted(plaintext)
        for frame in frames:
            if isinstance(frame, NewTicket):
                ticket = Ticket.from_bytes(frame.ticket)
                self._tickets[ticket.sealed] = ticket
        return frames

    def _open_initial(self, header: Header, datagram: bytes) -> bytes | None:
        sealed, share, start = split_initial_untrusted(datagram)
        if header.connection_id not in self._flights:
            ticket = self._tickets[sealed]
            own = next(key for key in map(KeyShare, self._privates) if key.public == share)
            keys = FirstFlightKeys(ticket.secret, ticket.aead, share, sealed)
            self._flights[header.connection_id] = ticket, own, keys
        keys = self._flights[header.connection_id][2]
        return keys.c0.open(header.packet_number, datagram[:start], datagram[start:])

    def _open_refusal(self, header: Header, datagram: bytes) -> int:
        start = HEADER_SIZE + REFUSAL_NONCE_SIZE
        keys = self._flights[header.connection_id][2]
        plaintext = keys.open_refusal(datagram[HEADER_SIZE:start], datagram[:HEADER_SIZE], datagram[start:])
        assert plaintext is not None
        return plaintext[0]

    def _learn_reply(self, header: Header, datagram: bytes) -> int:
        share, server_id, start = split_reply_untrusted(datagram)
        if header.connection_id not in self._keys:
            ticket, own, _ = self._flights[header.connection_id]
            c1, s1 = derive_session(
                ticket.secret, own.exchange(share), own.public, share, ticket.aead, ticket.sealed
            )
            self._keys[header.connection_id] = ReceiveKeys(s1)
            self._keys[server_id] = ReceiveKeys(c1)
        return start


def frame_as_json(frame: Frame) -> dict[str, object]:
    """The fields by name, bytes in hexadecimal; what is left out on the wire is left out here."""
    shown: dict[str, object] = {"frame": FRAME_NAMES[encode_frame(frame)[0]]}  # type: ignore[call-overload]
    for field in fields(frame):
        value = getattr(frame, field.name)
        if field.name == "streams":
            value = [[part for part in entry if part is not None] for entry in value]
        if value is not None:
            shown[field.name] = value.hex() if isinstance(value, bytes) else value
    return shown


class Client:
    """One client of the recording, and the datagrams of both directions."""

    def __init__(self, name: str, ticket: Ticket, prompt: list[Any], *, now: float) -> None:
        self.name = name
        self.prompt = prompt
        self.ticket = ticket
        self._privates: list[bytes] = []
        entropy = seeded_entropy(name, self._privates)
        settings = Settings(keep_alive=True)
        self.dialer = Dialer(ticket, SERVER, settings=settings, entropy=entropy, now=now)
        self._opener = Opener(ticket, self._privates)
        self._datagrams: list[dict[str, object]] = []
        self.quiet_from = self.quiet_until = 0.0
        """Between these times nothing is recorded."""

    def on_datagram(self, direction: Direction, data: bytes, at: float, fate: Fate) -> None:
        opened = self._opener.open(data, at)
        if self.quiet_from <= at < self.quiet_until:
            return
        entry: dict[str, object] = {
            "at": round(at, 6),
            "from": "client" if direction == "up" else "server",
            "arrived": fate is Fate.DELIVERED,
            "datagram": data.hex(),
        }
        if isinstance(opened, int):
            entry["refusal"] = opened
        else:
            entry["frames"] = [frame_as_json(frame) for frame in opened]
        self._datagrams.append(entry)

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "ticket": self.ticket.encode(),
            "client_private_keys": [private.hex() for private in self._privates],
            "datagrams": self._datagrams,
        }

    def ask(self, now: float) -> None:
        stream = self.dialer.open()
        for item in self.prompt:
            stream.write(encode(item), now=now)
        stream.finish()

    def stop(self, now: float) -> None:
        next(stream for stream in self.dialer.group.streams.values() if stream.is_open).stop()

    def on_event(self, dialer: Dialer, event: Event, now: float) -> None:
        if isinstance(event, StreamReadable):
            event.stream.read()


class Recorder:
    """A server and its clients in one simulation."""

    def __init__(self) -> None:
        entropy = seeded_entropy("server")
        self.keys = KeyRing.generate(entropy)
        self._entropy = entropy
        issuer = self.issuer(Aead.AES_128_GCM)
        self.listener = Listener(issuer, MemoryStore(), wall_offset=WALL_OFFSET, entropy=entropy, now=0.0)
        self.simulation = Simulation(seed=1, on_datagram=self._on_datagram)
        self._server = self.simulation.add_server(self.listener, SERVER, on_event=self._on_server_event)
        self.clients: list[Client] = []

    def issuer(self, aead: Aead) -> TicketIssuer:
        return TicketIssuer(self.keys, ipv4=("192.0.2.1", 4433), aead=aead, entropy=self._entropy)

    def ticket(self, aead: Aead) -> Ticket:
        wall_now = self.simulation.now + WALL_OFFSET
        return self.issuer(aead).issue({"sub": "user-17"}, wall_now=wall_now)

    def add(
        self, name: str, ticket: Ticket, prompt: list[Any], outages: tuple[Outage, ...] = ()
    ) -> tuple[Client, ClientHost]:
        """A client that starts now and asks the same in every turn."""
        client = Client(name, ticket, prompt, now=self.simulation.now)
        self.clients.append(client)
        scenario = Scenario("recorded", ONE_WAY, ONE_WAY, outages=outages)
        host = self.simulation.add_client(client.dialer, scenario, on_event=client.on_event)
        return client, host

    def _on_datagram(
        self, direction: Direction, source: Any, destination: Any, data: bytes, at: float, fate: Fate
    ) -> None:
        # A client's public address is ("client", index, port).
        index = (source if direction == "up" else destination)[1]
        self.clients[index].on_datagram(direction, data, at, fate)

    def _on_server_event(self, listener: Listener, pair: tuple[LogGroup, Event], now: float) -> None:
        group, event = pair
        if isinstance(event, StreamReadable):
            event.stream.read()
        elif isinstance(event, StreamEnded) and event.stream.incoming.is_complete:
            self._answer(event.stream, list(ANSWER), now)
        listener.touch(group)

    def _answer(self, stream: Stream, left: list[Any], now: float) -> None:
        if stream.outgoing.has_ended:
            return
        if left:
            stream.write(encode(left.pop(0)), now=now)
            self.simulation.call_at(now + TOKEN_GAP, lambda at: self._answer(stream, left, at), self._server)
        else:
            stream.finish()
        self.listener.touch(stream.group)


def _record_conversation(recorder: Recorder) -> None:
    """Everything that happens in a long conversation, and a second client that uses its ticket."""
    simulation = recorder.simulation
    ticket = recorder.ticket(Aead.AES_128_GCM)
    outages = (Outage(1.16, 0.02), Outage(2.1, 0.02))
    client, host = recorder.add("a conversation", ticket, PROMPT, outages)
    dialer = client.dialer
    # A turn of which one datagram is lost; then one that the client stops.
    simulation.call_at(1.0, client.ask, host)
    simulation.call_at(2.0, client.ask, host)
    simulation.call_at(2.2, client.stop, host)
    # The NAT forgets the client in the middle of an answer; later the network changes.
    simulation.call_at(3.0, client.ask, host)
    simulation.rebind_at(3.112, host)
    simulation.call_at(4.0, client.ask, host)
    simulation.call_at(4.15, lambda now: dialer.network_changed(now=now), host)
    simulation.run(until=5.0)
    late, late_host = recorder.add("a used ticket", ticket, PROMPT)
    simulation.call_at(5.0, late.ask, late_host)
    # An hour of PINGs, after which both sides have new keys.
    client.quiet_from, client.quiet_until = 6.0, 3700.0
    simulation.call_at(3700.0, client.ask, host)
    simulation.call_at(3701.0, lambda now: dialer.leave(now=now), host)
    simulation.run(until=3702.0)


def datagram_vectors() -> dict[str, object]:
    """A whole conversation, a refused first flight, and a short conversation under ChaCha20."""
    recorder = Recorder()
    simulation = recorder.simulation
    simulation.run(until=1.0)
    _record_conversation(recorder)
    ticket = recorder.ticket(Aead.CHACHA20_POLY1305)
    other, other_host = recorder.add("ChaCha20-Poly1305", ticket, LONG_PROMPT)
    simulation.call_at(3702.0, other.ask, other_host)
    simulation.call_at(3703.0, lambda now: other.dialer.leave(now=now), other_host)
    simulation.run(until=3704.0)
    return {
        "sealing_keys": [[key_id.hex(), key.hex()] for key_id, key in recorder.keys],
        "clients": [client.as_json() for client in recorder.clients],
    }
