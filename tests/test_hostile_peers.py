"""What a client or a server with authentic keys may send: it ends its own connection, and no more.

Nothing here may raise. What breaks a rule ends the connection with PROTOCOL_VIOLATION, what means
nothing is taken, and memory and answers stay bounded.
"""

from random import Random

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.compose import MAX_BURST
from eloquent.protocol.delivery import CONNECTION_WINDOW
from eloquent.protocol.events import ConnectionEnded, Event
from eloquent.protocol.receive import STREAM_WINDOW
from eloquent.protocol.streams import MAX_STREAMS
from eloquent.protocol.wire import (
    HEADER_SIZE,
    MAX_INTEGER,
    MAX_PACKET_NUMBER,
    Ack,
    Close,
    CloseCode,
    Frame,
    NewTicket,
    PathResponse,
    Ping,
    Reset,
    ResetCode,
    Resume,
    Stop,
    Tokens,
    Welcome,
)
from tests.pair import Pair

PROMPT = b"\xa2hi"


def connected() -> Pair:
    pair = Pair()
    pair.connect()
    return pair


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
