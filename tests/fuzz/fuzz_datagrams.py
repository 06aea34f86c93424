# Whatever arrives, from strangers or under authentic keys, no exception leaves the Listener or the
# Dialer and no timer stays due; what is not authentic is counted and changes nothing.

import sys

import atheris

with atheris.instrument_imports():
    from eloquent.protocol.connection import Connection
    from eloquent.protocol.wire import encode_frames
    from tests.pair import Pair

HOSTS = ("198.51.100.7", "203.0.113.9")
BIG = (2**32 - 1, 2**62 - 1, 2**62, 2**64 - 1, 256 * 1024, 1024 * 1024)


SHAPES = ("iib", "iibii", "iii", "iiie", "iiieei", "", "8", "8", "i", "iii", "ii", "b", "is", "ii", "iib")
KINDS = (0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0)
"""Frames by type, and their fields: integer, bytes, 8 bytes, text, entry of an ACK."""


def number(source: atheris.FuzzedDataProvider) -> int:
    if source.ConsumeIntInRange(0, 15) == 0:
        return BIG[source.ConsumeIntInRange(0, len(BIG) - 1)]
    return source.ConsumeIntInRange(0, 12)


def field_of(shape: str, source: atheris.FuzzedDataProvider) -> object:
    if shape == "i":
        return number(source)
    if shape == "8":
        return source.ConsumeBytes(8).ljust(8, b"\0")
    if shape == "s":
        return "text"
    if shape == "e":
        return [number(source) for _ in range(source.ConsumeIntInRange(2, 3))]
    return source.ConsumeBytes(source.ConsumeIntInRange(0, 20))


def item_of(source: atheris.FuzzedDataProvider) -> list[object]:
    """A frame, now and then with another type than its fields are for."""
    index = source.ConsumeIntInRange(0, len(SHAPES) - 1)
    kind = KINDS[index] if source.ConsumeIntInRange(0, 40) else source.ConsumeIntInRange(0, 11)
    return [kind, *(field_of(shape, source) for shape in SHAPES[index])]


class Run:
    """One pair and what the input does to it."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.pair.connect()
        self.client, self.server = self.pair.client, self.pair.server

    def stranger(self, source: atheris.FuzzedDataProvider) -> None:
        """Bytes that nobody has sealed."""
        pair, data = self.pair, source.ConsumeBytes(source.ConsumeIntInRange(0, 1300))
        before = (sum(pair.listener.dropped.values()), pair.listener.connection_count, pair.store.kept_groups)
        pair.to_server(data, (HOSTS[1], 1))
        dropped, connections, groups = before
        assert sum(pair.listener.dropped.values()) == dropped + 1
        assert (pair.listener.connection_count, pair.store.kept_groups) == (connections, groups)
        dropped = pair.dialer.dropped
        pair.dialer.receive_datagram(data, (0, None), now=pair.now)
        assert pair.dialer.dropped == dropped + 1

    def changed(self, source: atheris.FuzzedDataProvider) -> None:
        """A genuine datagram with some byte replaced."""
        datagram = bytearray(self.pair.sealed_plaintext(b"\x91\x91\x02"))
        position = source.ConsumeIntInRange(0, len(datagram) - 1)
        change = source.ConsumeIntInRange(1, 255)
        datagram[position] ^= change
        received = self.server.counters.datagrams_received
        self.pair.to_server(bytes(datagram), self.pair.public(0))
        assert self.server.counters.datagrams_received == received

    def authentic(self, source: atheris.FuzzedDataProvider) -> None:
        """A plaintext of the input's choice under the keys of either side."""
        plaintext = source.ConsumeBytes(source.ConsumeIntInRange(0, 200))
        self.send(plaintext, source)

    def framed(self, source: atheris.FuzzedDataProvider) -> None:
        items = [item_of(source) for _ in range(source.ConsumeIntInRange(1, 3))]
        self.send(encode_frames(items), source)

    def send(self, plaintext: bytes, source: atheris.FuzzedDataProvider) -> None:
        pair = self.pair
        is_up = source.ConsumeBool()
        sender: Connection = self.client if is_up else self.server
        if source.ConsumeIntInRange(0, 9) == 0:
            sender.composer.packet_number += source.ConsumeIntInRange(0, 2000)
        datagram = pair.sealed_plaintext(plaintext, connection=sender)
        if is_up:
            host = HOSTS[source.ConsumeIntInRange(0, 7) == 0]
            pair.to_server(datagram, (host, source.ConsumeIntInRange(40_000, 40_001)))
        else:
            pair.to_client(datagram, pair.public(0))

    def first_flight(self, source: atheris.FuzzedDataProvider) -> None:
        """The same as the first datagram of somebody with a ticket."""
        dialer = self.pair.new_dialer(self.pair.new_ticket())
        items = [item_of(source) for _ in range(source.ConsumeIntInRange(0, 4))]
        datagram = self.pair.sealed_items(items, connection=dialer.connection)
        self.pair.to_server(datagram, (HOSTS[1], 2))

    def work(self, source: atheris.FuzzedDataProvider) -> None:
        """What both applications do."""
        pair = self.pair
        kind = source.ConsumeIntInRange(0, 4)
        if (
            kind == 0
            and pair.dialer.ended is None
            and pair.dialer.group.open_count < min(5, pair.dialer.group.max_streams)
        ):
            pair.dialer.open().write(source.ConsumeBytes(100), now=pair.now)
        elif kind == 1 and pair.dialer.ended is None:
            pair.dialer.network_changed(now=pair.now)
        for stream in (*self.server.group.streams.values(), *self.client.group.streams.values()):
            if kind == 2 and not stream.outgoing.has_ended and not stream.stop_received:
                stream.write(b"\xa3abc", now=pair.now)
            elif kind == 3:
                stream.stop()
            elif kind == 4:
                stream.finish()
            stream.read()
        pair.listener.touch(self.server.group)
        pair.drain()

    def pause(self, source: atheris.FuzzedDataProvider) -> None:
        seconds = (0.0, 0.01, 0.06, 0.3, 2.0, 12.0)[source.ConsumeIntInRange(0, 5)]
        self.pair.wait(seconds, delivers=source.ConsumeBool())

    def check(self) -> None:
        for connection in (self.client, self.server):
            recovery = connection.recovery
            assert recovery.bytes_in_flight == sum(packet.size for packet in recovery.in_flight)


def test_one_input(data: bytes) -> None:
    source = atheris.FuzzedDataProvider(data)
    run = Run()
    steps = (
        run.stranger,
        run.changed,
        run.authentic,
        run.framed,
        run.framed,
        run.first_flight,
        run.work,
        run.pause,
    )
    for _ in range(30):
        if not source.remaining_bytes():
            break
        steps[source.ConsumeIntInRange(0, len(steps) - 1)](source)
        run.check()
    run.pair.wait(1.0, delivers=False)
    run.check()


atheris.Setup(sys.argv, test_one_input)
atheris.Fuzz()
