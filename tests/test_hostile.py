"""Hostile bytes: what a stranger, a client with a ticket, or a server may send, and what comes of it.

Nothing here may raise. What is not authentic is dropped, counted and leaves no state; what is
authentic and breaks a rule ends that connection and nothing else; nobody gets more than three
times the bytes that came from an address that has not proved itself (protocol 6).
"""

from random import Random

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.admission import MAX_ATTEMPTS
from eloquent.protocol.compose import MAX_BURST
from eloquent.protocol.delivery import CONNECTION_WINDOW
from eloquent.protocol.events import ConnectionEnded, Event, TicketNeeded
from eloquent.protocol.handshake import ClientProtection
from eloquent.protocol.path import REBINDING_BUDGET
from eloquent.protocol.receive import STREAM_WINDOW
from eloquent.protocol.streams import MAX_STREAMS
from eloquent.protocol.wire import (
    HEADER_SIZE,
    MAX_DATAGRAM,
    MAX_INTEGER,
    MAX_PACKET_NUMBER,
    Ack,
    Close,
    CloseCode,
    Frame,
    Kind,
    NewTicket,
    PathChallenge,
    PathResponse,
    Ping,
    Reset,
    ResetCode,
    Resume,
    Stop,
    Tokens,
    Welcome,
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


def violates(pair: Pair, *frames: Frame) -> str:
    """The reason with which the server ends the connection of a client that sends this."""
    server = pair.server
    pair.to_server(pair.sealed(*frames), pair.public(0))
    ended = end_of(pair.server_events)
    assert ended is not None
    assert ended.code == CloseCode.PROTOCOL_VIOLATION
    assert server.ended is ended
    pair.deliver()
    told = end_of(pair.client_events)
    assert told == ConnectionEnded("remote", CloseCode.PROTOCOL_VIOLATION, ended.reason)
    return ended.reason


def tolerates(pair: Pair, *frames: Frame) -> None:
    """The server takes this without ending the connection, and still answers."""
    pair.to_server(pair.sealed(*frames), pair.public(0))
    pair.wait(0.2)
    assert pair.server.ended is None
    stream = pair.ask(PROMPT)
    pair.wait(0.2)
    assert pair.server_stream(stream).incoming.is_complete


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


# Clients that have a ticket and break the rules


def test_an_acknowledgment_of_what_was_never_sent() -> None:
    pair = connected()
    largest = pair.server.composer.packet_number
    assert "never sent" in violates(pair, Ack(largest, 0, 0, []))


def test_an_acknowledgment_of_bytes_that_were_never_sent() -> None:
    pair = connected()
    assert "never sent" in violates(pair, Ack(0, 0, 0, [(0, 5, None)]))


def test_acknowledgments_of_unknown_streams_mean_nothing() -> None:
    tolerates(
        connected(), Ack(0, 0, 0, [(number, 2**40, MAX_INTEGER) for number in range(50, 90)], MAX_INTEGER)
    )


def test_a_limit_that_goes_back_means_nothing() -> None:
    pair = connected()
    tolerates(pair, Ack(0, 0, 0, [(0, 0, 0)], 0))
    answer = pair.server_stream(pair.dialer.group.streams[0])
    pair.write(answer, b"\xa3abc")
    pair.wait(0.2)
    assert pair.dialer.group.streams[0].read() == b"\xa3abc"


def test_bytes_beyond_the_limit_of_a_stream() -> None:
    pair = connected()
    pair.to_server(pair.sealed(Tokens(1, STREAM_WINDOW - 1, b"x")), pair.public(0))
    assert pair.server.ended is None
    assert "limit" in violates(pair, Tokens(1, STREAM_WINDOW, b"x"))


def test_bytes_beyond_the_limit_of_the_connection() -> None:
    pair = connected()
    streams = CONNECTION_WINDOW // STREAM_WINDOW
    for number in range(1, 1 + streams):
        # All of a stream's window with its last byte; the prompt of the first stream took 3 more.
        pair.to_server(pair.sealed(Tokens(number, STREAM_WINDOW - 1, b"x")), pair.public(0))
    assert end_of(pair.server_events) is not None
    assert end_of(pair.server_events).code == CloseCode.PROTOCOL_VIOLATION


def test_more_pieces_than_a_window_can_hold() -> None:
    pair = connected()
    reason = None
    for start in range(0, 4000, 200):
        pieces = [Tokens(1, 10 + 2 * (start + number), b"x") for number in range(100)]
        pair.to_server(pair.sealed(*pieces), pair.public(0))
        if (ended := end_of(pair.server_events)) is not None:
            reason = ended.reason
            break
    assert reason is not None
    assert "pieces" in reason


@pytest.mark.parametrize(
    "frames",
    [
        (Tokens(1, 0, b"", 5, 1), Tokens(1, 0, b"", 5, 2)),
        (Tokens(1, 0, b"", 5, 1), Tokens(1, 0, b"", 6, 1)),
        (Tokens(1, 0, b"abc", 2, 1),),
        (Tokens(1, 0, b"", 3, 1), Tokens(1, 3, b"x")),
        (Tokens(1, 0, b"abc"), Reset(1, 2, 300)),
        (Reset(1, 5, 300), Reset(1, 6, 300)),
        (Tokens(1, 0, b"", STREAM_WINDOW + 1, 1),),
        (Reset(1, STREAM_WINDOW + 1, 300),),
    ],
)
def test_conflicting_ends(frames: tuple[Frame, ...]) -> None:
    assert violates(connected(), *frames)


def test_an_end_with_another_digest_is_never_complete() -> None:
    pair = connected()
    pair.to_server(pair.sealed(Tokens(1, 0, b"\xa1a", 2, 12345)), pair.public(0))
    incoming = pair.server_group.streams[1].incoming
    assert incoming.has_ended
    assert not incoming.is_complete
    assert incoming.reset_code == ResetCode.MALFORMED


def test_ids_far_apart_open_nothing_and_cost_nothing() -> None:
    pair = connected()
    pair.to_server(pair.sealed(Tokens(MAX_INTEGER, 0, b"\xa1a")), pair.public(0))
    pair.deliver()
    assert MAX_INTEGER not in pair.server_group.streams
    assert len(pair.server_group.unopened) <= MAX_STREAMS


@pytest.mark.parametrize("step", [1, 7, 50, 99])
def test_sparse_ids_leave_a_bounded_memory(step: int) -> None:
    pair = connected()
    for number in range(1, 100 * step, step):
        pair.to_server(pair.sealed(Tokens(number, 0, b"\xa1a", 2, 1)), pair.public(0))
    pair.wait(0.2)
    assert len(pair.server_group.unopened) <= 2 * MAX_STREAMS
    assert pair.server_group.open_count <= 2 * MAX_STREAMS


def test_too_many_streams_get_a_reset() -> None:
    pair = connected()
    for number in range(1, 3 * MAX_STREAMS):
        pair.to_server(pair.sealed(Tokens(number, 0, b"\xa1a")), pair.public(0))
    pair.wait(0.5)
    assert pair.server_group.running_count <= MAX_STREAMS
    assert len(pair.opened()) <= MAX_STREAMS
    assert len(pair.server.delivery.controls) <= MAX_STREAMS
    assert pair.server.ended is None


def test_a_stop_for_a_stream_that_is_gone() -> None:
    pair = connected()
    stream = pair.dialer.group.streams[0]
    pair.finish(pair.server_stream(stream))
    pair.wait(400.0)
    assert pair.listener.connection_count == 0
    # Idle connections end; on a new one the old stream is unknown.
    pair.dialer.use_ticket(pair.new_ticket(), now=pair.now)
    stream = pair.connect()
    pair.finish(pair.server_stream(stream))
    pair.wait(1.0)
    pair.server_group.forget(stream.id)
    pair.to_server(pair.sealed(Stop(stream.id)), pair.public(0))
    assert pair.server.ended is None


def test_stops_for_streams_that_never_were_are_answered_and_bounded() -> None:
    pair = connected()
    for start in range(1, 1000, 200):
        pair.to_server(pair.sealed(*[Stop(number) for number in range(start, start + 200)]), pair.public(0))
    pair.wait(1.0)
    assert len(pair.server_group.streams) <= 4 * MAX_STREAMS
    assert len(pair.server.delivery.controls) <= MAX_STREAMS
    assert len(pair.opened()) == 1
    assert pair.server.ended is None


def test_resumes_for_what_the_server_does_not_have() -> None:
    pair = connected()
    tolerates(pair, Resume(0, 10**9), Resume(5, 0), Resume(MAX_INTEGER, MAX_INTEGER), Resume(0, 0))


@pytest.mark.parametrize("frame", [Welcome(5, 5), NewTicket(b"ticket")])
def test_frames_that_only_a_server_sends(frame: Frame) -> None:
    assert "wrong side" in violates(connected(), frame)


def test_a_frame_that_only_a_client_sends() -> None:
    pair = connected()
    pair.to_client(pair.sealed(Resume(0, 0), connection=pair.server), pair.public(0))
    ended = end_of(pair.client_events)
    assert ended is not None
    assert "wrong side" in ended.reason


@pytest.mark.parametrize(
    "frame",
    [Ping(), PathResponse(bytes(8)), Stop(0), Reset(0, 0, ResetCode.UNKNOWN_STREAM), Tokens(0, 0, b"")],
)
def test_frames_that_mean_nothing_now_are_taken(frame: Frame) -> None:
    tolerates(connected(), frame, frame)


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\x00" * 100,
        b"\x90",
        b"\xc0",
        b"\x91\xc0",
        b"\x91\x90",
        b"\x91" * 1000,
        b"\xdd\xff\xff\xff\xff" + b"\x91" * 100,
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91\x92\x0a\xc1",
        msgpack.packb([[0, 0, 0, "text"]]),
        msgpack.packb([[0, True, 0, b""]]),
        msgpack.packb([[0, 0, 2**63, b""]]),
        msgpack.packb([[0, -1, 0, b""]]),
        msgpack.packb([[1, 0, 0, 0, [0, 0, 0, 0]]]),
        msgpack.packb([[1, 0, 0, 0, *[[0, 0]] * 97]]),
        msgpack.packb([[-1]]),
        msgpack.packb([[11]]),
        msgpack.packb([[2, 2]]),
        msgpack.packb([[9, 0, b"bytes"]]),
        msgpack.packb([[2]]) + b"\x00",
        msgpack.packb([[2]] * 399),
    ],
    ids=lambda plaintext: plaintext[:12].hex() or "empty",
)
def test_bombs_and_shapes(plaintext: bytes) -> None:
    pair = connected()
    server = pair.server
    pair.to_server(pair.sealed_plaintext(plaintext), pair.public(0))
    pair.wait(0.2)
    assert server.ended is None or server.ended.code == CloseCode.PROTOCOL_VIOLATION
    pair = connected()
    client = pair.client
    pair.to_client(pair.sealed_plaintext(plaintext, connection=pair.server), pair.public(0))
    pair.wait(0.2)
    assert client.ended is None or client.ended.code == CloseCode.PROTOCOL_VIOLATION


def test_nothing_happens_after_a_close_in_the_same_datagram() -> None:
    pair = connected()
    frames = (Close(5, "bye"), Tokens(1, 0, b"\xa1a"), Close(6, "again"), Welcome(1, 1))
    pair.to_server(pair.sealed(*frames), pair.public(0))
    ends = [event for event in pair.server_events if isinstance(event, ConnectionEnded)]
    assert ends == [ConnectionEnded("remote", 5, "bye")]
    assert pair.server_events[-1] is ends[0]
    assert len(pair.opened()) == 1


def test_answers_to_a_closed_connection_are_bounded() -> None:
    pair = connected()
    pair.listener.close(now=pair.now)
    pair.drain()
    assert len(pair.down) == 1
    pair.down.clear()
    for _ in range(1000):
        pair.to_server(pair.sealed(Ping()), pair.public(0))
    # Each time that the datagrams have doubled.
    assert 5 <= len(pair.down) <= 10
    pair.up.clear()
    pair.wait(5.0, delivers=False)
    assert pair.listener.connection_count == 0


def test_a_jump_of_packet_numbers_is_the_senders_own_loss() -> None:
    pair = connected()
    pair.client.composer.packet_number = MAX_PACKET_NUMBER - 2
    pair.to_server(pair.sealed(Tokens(1, 0, b"\xa1a")), pair.public(0))
    assert len(pair.opened()) == 2
    assert pair.server.ended is None
    assert pair.server.acks.window.missing() == 2**64 - 1


@pytest.mark.parametrize("is_server", [False, True])
def test_packet_numbers_run_out_in_order(is_server: bool) -> None:
    """Close before 2^32 (protocol 6), with the last numbers kept for saying so."""
    pair = connected()
    sender = pair.server if is_server else pair.client
    sender.composer.packet_number = MAX_PACKET_NUMBER - 2 * MAX_BURST
    stream = pair.dialer.open()
    pair.wait(0.1)
    for _ in range(300):
        if sender.ended is not None:
            break
        if is_server:
            pair.write(pair.server_stream(pair.dialer.group.streams[0]), b"\xa1a")
        else:
            stream.write(b"\xa1a", now=pair.now)
        pair.wait(0.05)
    assert sender.ended is not None
    assert sender.ended.code == CloseCode.KEYS_EXHAUSTED
    assert sender.composer.packet_number <= MAX_PACKET_NUMBER
    told = end_of(pair.client_events if is_server else pair.server_events)
    assert told is not None
    assert told.code == CloseCode.KEYS_EXHAUSTED


def test_a_server_that_names_absurd_terms() -> None:
    pair = connected()
    pair.to_client(pair.sealed(Welcome(MAX_INTEGER, MAX_INTEGER), connection=pair.server), pair.public(0))
    assert pair.client.ended is None
    pair.ask(PROMPT)
    pair.wait(1.0)
    pair.to_client(pair.sealed(NewTicket(b"no ticket"), connection=pair.server), pair.public(0))
    assert pair.dialer.dropped == 1
    assert pair.client.ended is None


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 11), st.lists(st.integers(0, 300), max_size=5)), max_size=30
    )
)
def test_any_small_frames_from_either_side(script: list[tuple[bool, int, list[int]]]) -> None:
    pair = connected()
    client, server = pair.client, pair.server
    for is_up, kind, fields in script:
        items = [[kind, *fields], [0, kind % 3, len(fields), bytes(len(fields))]]
        if is_up:
            pair.to_server(pair.sealed_items(items, connection=client), pair.public(0))
        else:
            pair.to_client(pair.sealed_items(items, connection=server), pair.public(0))
    pair.wait(1.0)
    for connection in (client, server):
        assert connection.recovery.bytes_in_flight >= 0
        assert connection.ended is None or connection.ended.by in ("local", "remote")


def test_keys_change_under_loss_and_reordering() -> None:
    """Two hours of a keep-alive and some text, a fifth lost and the rest in disorder."""
    pair = connected()
    stream = pair.dialer.group.streams[0]
    answer = pair.server_stream(stream)
    random = Random(5)
    phases = set()
    written, read = b"", b""
    for turn in range(400):
        if turn % 3 == 0:
            pair.write(answer, b"\xa3abc")
            written += b"\xa3abc"
        for _ in range(3):
            pair.wait(0.1, delivers=False)
            random.shuffle(pair.up)
            random.shuffle(pair.down)
            for queue, to in ((pair.up, pair.to_server), (pair.down, pair.to_client)):
                for data, address in [queue.pop() for _ in range(len(queue))]:
                    phases.add((to.__name__, data[0] >> 1 & 1))
                    if random.random() > 0.2:
                        to(data, address)
        pair.wait(17.7)
        read += stream.read()
        pair.listener.touch(answer.group)
    assert read == written
    assert len(phases) == 4
    assert pair.server.counters.forged == 0
    assert pair.client.counters.forged == 0
    assert pair.client.ended is None


def test_the_header_is_authenticated() -> None:
    pair = connected()
    datagram = pair.sealed(Ping())
    for position in range(HEADER_SIZE):
        for bit in range(8):
            changed = bytearray(datagram)
            changed[position] ^= 1 << bit
            before = pair.server.counters.datagrams_received
            pair.to_server(bytes(changed), pair.public(0))
            assert pair.server.counters.datagrams_received == before
    assert sum(pair.listener.dropped.values()) == 8 * HEADER_SIZE
