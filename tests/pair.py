"""A client and a server of the real core, and a network between them that the test drives by hand."""

from collections.abc import Callable
from random import Random

from eloquent.protocol.admission import Limits
from eloquent.protocol.connection import Connection, Settings
from eloquent.protocol.dialer import Dialer
from eloquent.protocol.events import Event, StreamOpened
from eloquent.protocol.listener import Listener
from eloquent.protocol.streams import LogGroup, Stream
from eloquent.protocol.ticket import KeyRing, Ticket, TicketIssuer
from eloquent.protocol.wire import Frame, encode_frame, encode_frames
from eloquent.store import MemoryStore

START = 1.0
WALL_OFFSET = 1_700_000_000.0
SERVER = ("192.0.2.1", 4433)
CLIENT_HOST = "198.51.100.7"

MAX_IDLE_STEPS = 200
"""Timer calls at one time, without a datagram in between, that count as a busy loop; arbitrary."""

Datagram = tuple[bytes, tuple[str, int]]
"""A payload and the address on the server's side of the NAT: its source or its destination."""


class Pair:
    """What one side sends waits in `up` or `down` until the test delivers, changes or drops it."""

    def __init__(
        self,
        *,
        seed: int = 0,
        settings: Settings = Settings(),
        client_settings: Settings | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.now = START
        self.entropy = Random(seed).randbytes
        self.settings = client_settings or settings
        self.keys = KeyRing.generate(self.entropy)
        self.issuer = TicketIssuer(self.keys, ipv4=SERVER, entropy=self.entropy)
        self.store = MemoryStore()
        self.listener = self.new_listener(settings=settings, limits=limits)
        self.now += 0.001
        self.ticket = self.new_ticket()
        self.dialer = Dialer(self.ticket, SERVER, settings=self.settings, entropy=self.entropy, now=self.now)
        self.up: list[Datagram] = []
        self.down: list[Datagram] = []
        self.server_events: list[Event] = []
        self.client_events: list[Event] = []
        self.ports: dict[int, int] = {}
        self.next_port = 40_000
        self.host = CLIENT_HOST
        self.on_server_event: Callable[[Event], None] = lambda event: None
        self.on_client_event: Callable[[Event], None] = lambda event: None

    def new_listener(
        self, *, settings: Settings = Settings(), limits: Limits = Limits(), worker: int = 0
    ) -> Listener:
        """A server that starts now, with the same keys and the present store."""
        return Listener(
            self.issuer,
            self.store,
            worker=worker,
            settings=settings,
            limits=limits,
            wall_offset=WALL_OFFSET,
            entropy=self.entropy,
            now=self.now,
        )

    def restart_server(self) -> None:
        """Another process with the same keys, which has forgotten everything else."""
        self.now += 0.001
        self.store = MemoryStore()
        self.listener = self.new_listener()

    def new_ticket(self) -> Ticket:
        return self.issuer.issue({"sub": "somebody"}, wall_now=self.now + WALL_OFFSET)

    def new_dialer(self, ticket: Ticket) -> Dialer:
        return Dialer(ticket, SERVER, settings=self.settings, entropy=self.entropy, now=self.now)

    @property
    def server(self) -> Connection:
        """The server's connection that the group is attached to."""
        (group,) = self.listener.groups
        owner = self.listener.owner(group)
        assert owner is not None
        return owner

    @property
    def client(self) -> Connection:
        return self.dialer.connection

    @property
    def server_group(self) -> LogGroup:
        return self.server.group

    def server_stream(self, stream: Stream) -> Stream:
        """The server's side of a stream."""
        return self.server_group.streams[stream.id]

    def public(self, socket: int) -> tuple[str, int]:
        """Where the server sees that socket of the client."""
        if socket not in self.ports:
            self.ports[socket] = self.next_port
            self.next_port += 1
        return self.host, self.ports[socket]

    def rebind(self, host: str = CLIENT_HOST) -> None:
        """The NAT forgets its mappings, and may have another address from now on."""
        self.ports.clear()
        self.host = host

    def drain(self) -> None:
        """Collect what both sides want to send and say."""
        for _ in range(8):
            before = len(self.up) + len(self.down) + len(self.server_events) + len(self.client_events)
            self.down += self.listener.datagrams_to_send(now=self.now)  # type: ignore[arg-type]
            while (entry := self.listener.next_event()) is not None:
                self.server_events.append(entry[1])
                self.on_server_event(entry[1])
            for data, address in self.dialer.datagrams_to_send(now=self.now):
                self.up.append((data, self.public(address[0])))  # type: ignore[index]
            while (event := self.dialer.next_event()) is not None:
                self.client_events.append(event)
                self.on_client_event(event)
            if before == len(self.up) + len(self.down) + len(self.server_events) + len(self.client_events):
                return

    def to_server(self, data: bytes, source: tuple[str, int]) -> None:
        self.listener.receive_datagram(data, source, now=self.now)
        self.drain()

    def to_client(self, data: bytes, destination: tuple[str, int]) -> None:
        for socket, port in self.ports.items():
            if destination == (self.host, port):
                self.dialer.receive_datagram(data, (socket, SERVER), now=self.now)
                break
        self.drain()

    def deliver(self) -> None:
        """Deliver all that waits, and what is sent in answer at the same time."""
        self.drain()
        for _ in range(2000):
            if self.up:
                self.to_server(*self.up.pop(0))
            elif self.down:
                self.to_client(*self.down.pop(0))
            else:
                return
        raise AssertionError("the two sides keep each other busy")

    def next_timer(self) -> float | None:
        timers = (self.listener.next_timer(), self.dialer.next_timer())
        return min([at for at in timers if at is not None], default=None)

    def wait(self, seconds: float, *, delivers: bool = True) -> None:
        """Let time pass; fire each timer when it is due."""
        until = self.now + seconds
        step = self.deliver if delivers else self.drain
        idle = 0
        step()
        while (at := self.next_timer()) is not None and at <= until:
            idle = 0 if at > self.now else idle + 1
            assert idle < MAX_IDLE_STEPS, f"a timer at {at} stays due at {self.now}"
            self.now = max(self.now, at)
            self.listener.handle_timer(now=self.now)
            self.dialer.handle_timer(now=self.now)
            step()
        self.now = until

    def connect(self) -> Stream:
        """Open a stream with a short prompt and let both sides get to know each other."""
        stream = self.ask(b"\xa2hi")
        self.wait(0.1)
        return stream

    def ask(self, prompt: bytes) -> Stream:
        stream = self.dialer.open()
        stream.write(prompt, now=self.now)
        stream.finish()
        return stream

    def write(self, stream: Stream, data: bytes) -> None:
        """The server's application adds to its answer."""
        stream.write(data, now=self.now)
        self.listener.touch(stream.group)

    def finish(self, stream: Stream) -> None:
        stream.finish()
        self.listener.touch(stream.group)

    def opened(self) -> list[Stream]:
        """The streams that were announced to the server's application."""
        return [event.stream for event in self.server_events if isinstance(event, StreamOpened)]

    def sealed(self, *frames: Frame, connection: Connection | None = None) -> bytes:
        """An authentic datagram with frames of the test's choice, from the client unless told."""
        return self.sealed_items([encode_frame(frame) for frame in frames], connection=connection)

    def sealed_items(self, items: list[list[object]], *, connection: Connection | None = None) -> bytes:
        return self.sealed_plaintext(encode_frames(items), connection=connection)

    def sealed_plaintext(self, plaintext: bytes, *, connection: Connection | None = None) -> bytes:
        connection = connection or self.client
        number = connection.composer.packet_number
        connection.composer.packet_number += 1
        return connection.protection.seal(number, plaintext, ack_now=False, now=self.now)
