"""The datagram and frame codec: round trips, limits, and bytes from anyone."""

import contextlib
from dataclasses import astuple

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eloquent.protocol.wire import (
    CONNECTION_ID_SIZE,
    HEADER_SIZE,
    INITIAL_OVERHEAD,
    MAX_ACK_ENTRIES,
    MAX_DATAGRAM,
    MAX_INTEGER,
    MAX_PACKET_NUMBER,
    MAX_REASON_SIZE,
    REPLY_OVERHEAD,
    SHARE_SIZE,
    TAG_SIZE,
    VERSION,
    Ack,
    Close,
    Frame,
    NewTicket,
    PathChallenge,
    PathResponse,
    Ping,
    Reset,
    Resume,
    Stop,
    Tokens,
    Welcome,
    WireError,
    decode_frames_untrusted,
    decode_header_untrusted,
    encode_frame,
    encode_frames,
    encode_header,
    encode_initial_clear,
    integer_size,
    split_initial_untrusted,
    split_reply_untrusted,
    tokens_overhead,
)

integers = st.integers(0, MAX_INTEGER) | st.sampled_from(
    [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32]
)
packet_numbers = st.integers(0, MAX_PACKET_NUMBER)
digests = st.integers(0, 2**64 - 1)
challenges = st.binary(min_size=8, max_size=8)
entries = st.tuples(integers, integers, st.none() | integers)
frames = st.one_of(
    st.builds(Tokens, integers, integers, st.binary(max_size=300)),
    st.builds(Tokens, integers, integers, st.binary(max_size=300), integers, digests),
    st.builds(
        Ack, packet_numbers, packet_numbers, digests, st.lists(entries, max_size=5), st.none() | integers
    ),
    st.builds(Ping),
    st.builds(PathChallenge, challenges),
    st.builds(PathResponse, challenges),
    st.builds(Stop, integers),
    st.builds(Reset, integers, integers, integers),
    st.builds(Resume, integers, integers),
    st.builds(NewTicket, st.binary(max_size=300)),
    st.builds(Close, integers, st.text(max_size=64)),
    st.builds(Welcome, integers, integers),
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=9)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)


def decoded(*items: object) -> list[Frame]:
    return decode_frames_untrusted(msgpack.packb(list(items)))


@given(st.lists(frames, max_size=8), st.integers(0, 70))
def test_frames_come_back_whatever_the_padding(sent: list[Frame], padding: int) -> None:
    # protocol 3: padded with zeros to a multiple of 64 bytes
    plaintext = encode_frames([encode_frame(frame) for frame in sent])
    assert decode_frames_untrusted(bytes(padding) + plaintext) == sent


@given(st.binary(max_size=200))
@example(b"")
@example(bytes(64))
@example(b"\xdd\xff\xff\xff\xff")
def test_garbage_gives_frames_or_a_wire_error(plaintext: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_frames_untrusted(plaintext)


@given(plain)
def test_any_value_gives_frames_or_a_wire_error(value: object) -> None:
    with contextlib.suppress(WireError):
        decode_frames_untrusted(msgpack.packb(value))


@given(frames, st.data())
def test_whatever_passes_for_a_frame_is_one(frame: Frame, data: st.DataObject) -> None:
    """With one element replaced, removed or added, what is accepted is exactly what was written."""
    item = encode_frame(frame)
    position = data.draw(st.integers(0, len(item)))
    item[position : position + data.draw(st.integers(0, 1))] = data.draw(st.lists(plain, max_size=1))
    try:
        (accepted,) = decode_frames_untrusted(encode_frames([item]))
    except WireError:
        return
    again = msgpack.unpackb(encode_frames([encode_frame(accepted)]))
    assert again == [item]
    assert [type(field) for field in again[0]] == [type(field) for field in item]


@pytest.mark.parametrize(
    "item",
    [
        b"\x02",  # as an array of integers this would be a PING
        b"\x05\x07",
        "ping",
        2,
        [],
        [True, 1, 0, 0],  # as an integer this would be an ACK
        [2.0],
        [11],
        [2, 0],
        [0, 0, 0, "text"],
        [0, 0, -1, b""],
        [0, MAX_INTEGER + 1, 0, b""],
        [0, 0, 0, b"", 1],
        [1, 2**32, 0, 0],
        [1, 0, 0, 2**64 - 1, [1]],
        [1, 0, 0, 0, [0, 1, 2, 3]],
        [1, 0, 0, 0, 5, [0, 1]],
        [3, b"short"],
        [9, 0, b"reason"],
        [9, 0, "x" * (MAX_REASON_SIZE + 1)],
        [6, 0, True, 0],
    ],
    ids=repr,
)
def test_what_is_no_frame(item: object) -> None:
    with pytest.raises(WireError):
        decoded(item)


@pytest.mark.parametrize("value", [None, 5, b"", {}, "", [[2], 2]], ids=repr)
def test_what_is_no_array_of_frames(value: object) -> None:
    with pytest.raises(WireError):
        decode_frames_untrusted(msgpack.packb(value))


def test_nothing_may_follow_the_frames() -> None:
    with pytest.raises(WireError):
        decode_frames_untrusted(encode_frames([[2]]) + b"\0")


def test_a_datagram_full_of_small_frames_is_taken() -> None:
    stops: list[Frame] = [Stop(stream) for stream in range(300)]
    plaintext = encode_frames([encode_frame(stop) for stop in stops])
    assert len(plaintext) <= MAX_DATAGRAM
    assert decode_frames_untrusted(plaintext) == stops


def test_most_streams_in_one_ack() -> None:
    entry = [[stream, 0] for stream in range(MAX_ACK_ENTRIES)]
    (ack,) = decoded([1, 0, 0, 0, *entry, 7])
    assert isinstance(ack, Ack)
    assert len(ack.streams) == MAX_ACK_ENTRIES
    assert ack.connection_limit == 7
    with pytest.raises(WireError):
        decoded([1, 0, 0, 0, *entry, [0, 0]])


@given(integers)
@example(0x7F)
@example(0x80)
@example(0xFF)
@example(0x100)
@example(0xFFFF)
@example(0x10000)
@example(2**32 - 1)
@example(2**32)
def test_size_of_an_integer(value: int) -> None:
    assert integer_size(value) == len(msgpack.packb(value))


@given(integers, integers, st.sampled_from([0, 1, 255, 256, 1200, 65535]), st.none() | integers, digests)
def test_overhead_of_tokens_is_never_less_than_they_need(
    stream: int, base: int, size: int, length: int | None, digest: int
) -> None:
    frame = Tokens(stream, base, bytes(size), length, None if length is None else digest)
    needed = len(encode_frames([encode_frame(frame)])) - 1 - size
    stated = tokens_overhead(stream, base, fin_length=length)
    assert needed <= stated
    # The digest and the length of the data are all that is not known in advance.
    assert stated - needed <= 1 + (0 if length is None else 9 - integer_size(digest))


@given(st.integers(0, 7), st.integers(0, 1), st.booleans(), st.binary(min_size=8, max_size=8), packet_numbers)
def test_headers_come_back(kind: int, phase: int, ack_now: bool, connection_id: bytes, number: int) -> None:
    header = encode_header(kind, phase, ack_now, connection_id, number)
    assert len(header) == HEADER_SIZE
    found = decode_header_untrusted(header + bytes(TAG_SIZE + 1))
    assert astuple(found) == (kind, phase, ack_now, connection_id, number)


def test_the_bits_of_the_first_byte() -> None:
    # protocol 3: one byte (3 bits kind, 3 bits version, key phase, ack now)
    assert encode_header(2, 1, False, bytes(8), 0)[0] == 0b010_001_1_0
    assert encode_header(3, 0, True, bytes(8), 0)[0] == 0b011_001_0_1


@pytest.mark.parametrize("size", [0, 12, HEADER_SIZE, HEADER_SIZE + TAG_SIZE, MAX_DATAGRAM + 1])
def test_a_datagram_of_an_impossible_size(size: int) -> None:
    with pytest.raises(WireError):
        decode_header_untrusted(bytes([VERSION << 2]) * size)


@pytest.mark.parametrize("version", [0, 2, 7])
def test_another_version(version: int) -> None:
    with pytest.raises(WireError, match="version"):
        decode_header_untrusted(bytes([version << 2]) + bytes(60))


def first_flight(ticket: bytes, share: bytes) -> bytes:
    return (bytes(HEADER_SIZE) + encode_initial_clear(ticket, share)).ljust(MAX_DATAGRAM, b"c")


def test_a_first_flight_is_split_where_it_was_joined() -> None:
    ticket, share = bytes(range(200)), bytes(range(100, 132))
    datagram = first_flight(ticket, share)
    assert split_initial_untrusted(datagram) == (ticket, share, INITIAL_OVERHEAD - TAG_SIZE + len(ticket))


@pytest.mark.parametrize("size", [0, 60, MAX_DATAGRAM - 1])
def test_a_first_flight_of_another_size(size: int) -> None:
    # protocol 6: exactly 1200 bytes
    with pytest.raises(WireError):
        split_initial_untrusted(first_flight(bytes(100), bytes(32))[:size])


def test_a_ticket_that_leaves_no_room_for_a_tag() -> None:
    most = MAX_DATAGRAM - INITIAL_OVERHEAD
    assert split_initial_untrusted(first_flight(bytes(most), bytes(32)))[2] == MAX_DATAGRAM - TAG_SIZE
    with pytest.raises(WireError):
        split_initial_untrusted(first_flight(bytes(most + 1), bytes(32)))


def test_a_reply_is_split_where_it_was_joined() -> None:
    share, connection_id = bytes(range(SHARE_SIZE)), bytes(range(50, 50 + CONNECTION_ID_SIZE))
    datagram = bytes(HEADER_SIZE) + share + connection_id + bytes(TAG_SIZE)
    assert split_reply_untrusted(datagram) == (share, connection_id, REPLY_OVERHEAD - TAG_SIZE)
    with pytest.raises(WireError):
        split_reply_untrusted(datagram[:-1])


@given(st.binary(max_size=MAX_DATAGRAM + 20) | st.binary(min_size=MAX_DATAGRAM, max_size=MAX_DATAGRAM))
def test_garbage_datagrams_are_split_or_refused(datagram: bytes) -> None:
    for parse in (decode_header_untrusted, split_initial_untrusted, split_reply_untrusted):
        with contextlib.suppress(WireError):
            parse(datagram)
