"""What a stranger may send, and what comes of it: nothing.

What is not authentic is dropped, counted and leaves no state; a first flight that is sent again runs
nothing again; nobody gets more than three times the bytes that came from an address that has not
proved itself (protocol 6).
"""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.admission import MAX_ATTEMPTS
from eloquent.protocol.events import ConnectionEnded, Event, TicketNeeded
from eloquent.protocol.handshake import ClientProtection
from eloquent.protocol.path import REBINDING_BUDGET
from eloquent.protocol.wire import (
    MAX_DATAGRAM,
    Close,
    Kind,
    PathChallenge,
    Ping,
    Tokens,
)
from tests.pair import CLIENT_HOST, SERVER, Pair

STRANGER = ("203.0.113.9", 666)
VICTIM = "203.0.113.77"
PROMPT = b"\xa2hi"


def connected() -> Pair:
    pair = Pair()
    pair.connect()
    return pair


def first_flight(pair: Pair) -> bytes:
    """The first datagram of a client that has just asked something; not delivered."""
    pair.ask(PROMPT)
    pair.drain()
    return pair.up.pop(0)[0]


def bytes_to(pair: Pair, host: str) -> int:
    """Take what the server sends to that host; how many bytes."""
    sent = sum(len(data) for data, address in pair.down if address[0] == host)
    pair.down = [entry for entry in pair.down if entry[1][0] != host]
    return sent


def end_of(events: list[Event]) -> ConnectionEnded | None:
    return next((event for event in events if isinstance(event, ConnectionEnded)), None)


# Strangers


@pytest.mark.parametrize("size", [0, 1, 12, 13, 29, 30, 100, 1199, 1200, 1201, 65535])
def test_garbage_is_dropped_counted_and_forgotten(size: int) -> None:
    pair = Pair()
    random = Random(size)
    for _ in range(100):
        data = random.randbytes(size)
        pair.to_server(data, STRANGER)
        pair.dialer.receive_datagram(data, (0, STRANGER), now=pair.now)
    assert sum(pair.listener.dropped.values()) == 100
    assert pair.dialer.dropped == 100
    assert pair.listener.connection_count == 0
    assert pair.store.kept_groups == 0
    assert pair.down == []
    assert pair.listener.next_timer() is None


@given(st.data())
def test_a_changed_first_flight_leaves_no_state(data: st.DataObject) -> None:
    pair = Pair()
    datagram = bytearray(first_flight(pair))
    if data.draw(st.booleans(), label="flip"):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del datagram[data.draw(st.integers(0, len(datagram) - 1)) :]
    pair.to_server(bytes(datagram), STRANGER)
    assert sum(pair.listener.dropped.values()) == 1
    assert pair.listener.connection_count == 0
    assert pair.store.kept_groups == 0
    assert pair.down == []


@given(st.data())
def test_changed_datagrams_of_a_connection_are_dropped(data: st.DataObject) -> None:
    pair = connected()
    is_up = data.draw(st.booleans(), label="to the server")
    sender = pair.client if is_up else pair.server
    datagram = bytearray(pair.sealed(Close(7, "forged"), connection=sender))
    if data.draw(st.booleans(), label="flip"):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del datagram[data.draw(st.integers(0, len(datagram) - 1)) :]
    if is_up:
        pair.to_server(bytes(datagram), pair.public(0))
        assert sum(pair.listener.dropped.values()) == 1
    else:
        pair.to_client(bytes(datagram), pair.public(0))
        assert pair.dialer.dropped == 1
    assert pair.server.ended is None
    assert pair.client.ended is None


def test_a_repeated_datagram_counts_once() -> None:
    pair = connected()
    received = pair.server.counters.datagrams_received
    datagram = pair.sealed(Tokens(1, 0, b"\xa1a"))
    for _ in range(5):
        pair.to_server(datagram, pair.public(0))
    assert pair.server.counters.datagrams_received == received + 1
    assert pair.server.counters.duplicates == 4
    assert pair.listener.dropped["forged or repeated"] == 4
    assert len(pair.opened()) == 2


def test_a_datagram_does_not_count_for_another_connection() -> None:
    pair, other = connected(), Pair(seed=1)
    other.listener, other.store = pair.listener, pair.store
    other.dialer = pair.new_dialer(pair.new_ticket())
    other.now = pair.now
    other.ask(PROMPT)
    other.drain()
    other.deliver()
    data = bytearray(pair.sealed(Ping()))
    data[1:9] = other.client.protection.peer_id
    pair.to_server(bytes(data), pair.public(0))
    assert pair.listener.dropped["forged or repeated"] == 1


# First flights, seen by somebody else and sent again


def test_a_repeated_first_flight_is_the_same_connection() -> None:
    pair = Pair()
    datagram = first_flight(pair)
    pair.to_server(datagram, pair.public(0))
    replies = bytes_to(pair, CLIENT_HOST)
    for source in (pair.public(0), STRANGER):
        pair.to_server(datagram, source)
    assert pair.listener.connection_count == 1
    assert len(pair.opened()) == 1
    assert pair.listener.dropped["forged or repeated"] == 2
    assert replies
    assert pair.down == []


def test_a_used_ticket_with_another_share_is_refused_statelessly() -> None:
    pair = connected()
    thief = pair.new_dialer(pair.ticket)
    thief.open().write(PROMPT, now=pair.now)
    (datagram, _), *_ = thief.datagrams_to_send(now=pair.now)
    pair.to_server(datagram, STRANGER)
    # protocol 6: used (other share) gets one stateless REFUSED, never longer than the request
    ((refused, address),) = pair.down
    assert address == STRANGER
    assert refused[0] >> 5 == Kind.REFUSED
    assert len(refused) <= len(datagram)
    assert pair.listener.refused == {"used": 1}
    assert pair.listener.connection_count == 1
    thief.receive_datagram(refused, (0, STRANGER), now=pair.now)
    assert isinstance(thief.next_event(), TicketNeeded)


@pytest.mark.parametrize("wait", [0.0, 30.0, 400.0])
def test_a_first_flight_after_its_connection_runs_nothing_again(wait: float) -> None:
    pair = Pair()
    datagram = first_flight(pair)
    pair.to_server(datagram, pair.public(0))
    pair.deliver()
    pair.dialer.leave(now=pair.now)
    pair.wait(5.0 + wait)
    pair.to_server(datagram, STRANGER)
    assert len(pair.opened()) == 1
    assert len(pair.down) == 1
    assert pair.down[0][0][0] >> 5 == Kind.REFUSED
    assert sum(pair.listener.refused.values()) == 1


def test_a_first_flight_after_a_restart_is_refused() -> None:
    pair = Pair()
    datagram = first_flight(pair)
    pair.to_server(datagram, pair.public(0))
    pair.restart_server()
    pair.down.clear()
    pair.to_server(datagram, STRANGER)
    # protocol 6: a worker refuses tickets issued before its own start (a restart forgets ids)
    assert pair.listener.refused == {"expired": 1}
    assert pair.listener.connection_count == 0


def test_a_first_flight_at_another_worker_is_refused() -> None:
    pair = Pair()
    datagram = first_flight(pair)
    pair.listener = pair.new_listener(worker=1)
    pair.to_server(datagram, pair.public(0))
    assert pair.listener.refused == {"foreign": 1}
    assert pair.listener.connection_count == 0


def test_an_expired_ticket_opens_nothing() -> None:
    pair = Pair()
    datagram = first_flight(pair)
    pair.now += 61.0
    pair.to_server(datagram, pair.public(0))
    assert pair.listener.refused == {"expired": 1}
    assert pair.listener.connection_count == 0


class LowOrderShare:
    """A key share that forces the exchange to a result that everybody knows."""

    public = bytes(32)

    def exchange(self, peer: bytes) -> bytes:
        return bytes(32)


def test_a_client_share_that_is_no_key_opens_nothing() -> None:
    pair = Pair()
    hostile = ClientProtection(pair.ticket, LowOrderShare(), bytes(8))  # type: ignore[arg-type]
    pair.to_server(hostile.seal(0, b"\x90", ack_now=True, now=pair.now), STRANGER)
    assert pair.listener.dropped == {"malformed": 1}
    assert pair.listener.connection_count == 0
    assert pair.store.kept_groups == 0
    # That the ticket was used is forgotten in time, although no connection was made.
    pair.wait(120.0)
    assert pair.listener.next_timer() is None


def resumption_flight(pair: Pair) -> bytes:
    pair.up.clear()
    pair.dialer.network_changed(now=pair.now)
    pair.drain()
    return next(data for data, _ in pair.up if data[0] >> 5 == Kind.INITIAL)


def test_a_replayed_resumption_takes_nothing_over() -> None:
    pair = connected()
    stream = pair.dialer.group.streams[0]
    owner, answer = pair.server, pair.server_stream(stream)
    replayed = resumption_flight(pair)
    # The client itself does not get through with it, and stays on the old path.
    pair.dialer._attempt = None
    pair.up.clear()
    pair.write(answer, b"\xa3abc")
    pair.to_server(replayed, STRANGER)
    assert pair.listener.connection_count == 2
    pair.wait(0.5)
    assert pair.server is owner
    assert stream.read() == b"\xa3abc"
    pair.wait(15.0)
    # protocol 7: an unconfirmed attempt expires after 10 s, and nobody else notices
    assert pair.listener.connection_count == 1
    assert pair.server is owner
    assert end_of(pair.server_events) is None
    assert end_of(pair.client_events) is None


def test_a_replayed_resumption_after_a_takeover_takes_nothing_back() -> None:
    pair = connected()
    replayed = resumption_flight(pair)
    pair.deliver()
    owner = pair.server
    pair.wait(20.0)
    pair.to_server(replayed, STRANGER)
    pair.wait(30.0)
    assert pair.server is owner
    assert pair.listener.connection_count == 1


def test_two_unvalidated_connections_for_a_resumption_ticket() -> None:
    pair = connected()
    ticket = pair.dialer._resumption
    assert ticket is not None
    for _ in range(5):
        replay = pair.new_dialer(ticket)
        replay.open()
        replay.connection.composer.wants_ping = True
        pair.to_server(replay.datagrams_to_send(now=pair.now)[0][0], STRANGER)
    # protocol 7: at most two unvalidated connections per ticket
    assert pair.listener.connection_count == 1 + MAX_ATTEMPTS
    assert pair.listener.refused == {"busy": 5 - MAX_ATTEMPTS}


# Amplification


def stream_to_nobody(pair: Pair, seconds: float) -> None:
    """The server's application answers a stream whose client is not who it says."""
    for _ in range(int(seconds / 0.02)):
        for stream in pair.opened():
            pair.write(stream, b"\xb9" + bytes(25))
        pair.wait(0.02, delivers=False)


def test_a_spoofed_first_flight_gets_three_times_its_bytes() -> None:
    pair = Pair()
    datagram = first_flight(pair)
    pair.to_server(datagram, (VICTIM, 53))
    stream_to_nobody(pair, 20.0)
    sent = bytes_to(pair, VICTIM)
    # protocol 6: at most 3x the bytes received on a path until it is validated
    assert 2 * len(datagram) < sent <= 3 * len(datagram)
    assert pair.down == []


def test_a_spoofed_resumption_gets_three_times_its_bytes() -> None:
    pair = connected()
    answer = pair.server_stream(pair.dialer.group.streams[0])
    pair.write(answer, b"\xc5\x27\x10" + bytes(10_000))
    pair.wait(0.001, delivers=False)
    pair.down.clear()
    datagram = resumption_flight(pair)
    pair.to_server(datagram, (VICTIM, 53))
    pair.wait(20.0, delivers=False)
    assert len(datagram) < bytes_to(pair, VICTIM) <= 3 * len(datagram)


def test_a_ticket_holder_cannot_validate_an_address_that_is_not_its_own() -> None:
    """The REPLY goes to the client's own address first; then it claims to be somebody else."""
    pair = Pair()
    pair.to_server(first_flight(pair), pair.public(0))
    (reply, own), *_ = pair.down
    numbers = pair.client.composer
    numbers.packet_number = 50
    claim = pair.sealed(Ping())
    pair.to_server(claim, (VICTIM, 53))
    pair.dialer.receive_datagram(reply, (0, SERVER), now=pair.now)
    received = len(claim)
    for number, source in ((20, own), (21, (VICTIM, 53)), (51, (VICTIM, 53))):
        numbers.packet_number = number
        proof = pair.sealed(Ping())
        assert proof[0] >> 5 == Kind.DATA
        received += len(proof) if source[0] == VICTIM else 0
        pair.to_server(proof, source)
    stream_to_nobody(pair, 10.0)
    # protocol 6: only what proves this path validates it
    assert bytes_to(pair, VICTIM) <= 3 * received


def test_hopping_ports_of_a_foreign_host_earns_no_bonus() -> None:
    pair = connected()
    answer = pair.server_stream(pair.dialer.group.streams[0])
    pair.write(answer, b"\xc6\x00\x01\x00\x00" + bytes(65_536))
    pair.drain()
    pair.down.clear()
    received = 0
    for port in range(50):
        datagram = pair.sealed(Ping())
        received += len(datagram)
        pair.to_server(datagram, (VICTIM, 1000 + port))
        pair.wait(0.01, delivers=False)
    assert bytes_to(pair, VICTIM) <= 3 * received < REBINDING_BUDGET * 50 / 10


def test_acknowledgments_of_many_streams_respect_the_limit_too() -> None:
    pair = Pair()
    for _ in range(60):
        pair.ask(PROMPT)
    pair.wait(0.5)
    pair.down.clear()
    # A PING makes the server name all of its streams.
    datagram = pair.sealed(Ping())
    pair.to_server(datagram, (VICTIM, 53))
    pair.wait(1.0, delivers=False)
    assert bytes_to(pair, VICTIM) <= 3 * len(datagram)


@pytest.mark.parametrize("host", [VICTIM, CLIENT_HOST])
def test_an_exhausted_limit_is_no_busy_loop(host: str) -> None:
    pair = connected()
    # 32 bytes: enough for a challenge, too few for an acknowledgment as well.
    pair.to_server(pair.sealed(Ping()), (host, 53))
    pair.wait(30.0, delivers=False)  # Asserts that no timer stays due.


@pytest.mark.parametrize("source", [(VICTIM, 53), None])
def test_a_flood_of_challenges_gets_one_answer(source: tuple[str, int] | None) -> None:
    pair = connected()
    flood = pair.sealed(*[PathChallenge(bytes([number]) * 8) for number in range(90)])
    assert len(flood) <= MAX_DATAGRAM
    pair.to_server(flood, source or pair.public(0))
    assert len(pair.down) <= 4  # The answer, a challenge on each path, and an acknowledgment.
