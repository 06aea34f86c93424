"""The datagram and frame codec.

A datagram is a clear header, authenticated as associated data, and an AEAD ciphertext::

    first byte | connection ID (8) | packet number (4) | clear part of the kind | ciphertext + tag

    first byte: kind (3 bits) | version (3 bits) | key phase (1 bit) | ack now (1 bit)

The plaintext is one MessagePack array of frames, each a small array that starts with its type.
Padding is zero bytes *before* it: an array never starts with a zero byte, so stripping them from
the left is unambiguous, which stripping from the right would not be (a frame may end in a zero).
One array for all frames, since one call of the decoder is then enough: 0.4 us against 0.9 us for
a run of concatenated objects.

Everything that comes from a peer is parsed by functions that end in `_untrusted`; they raise
nothing but `WireError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import msgpack

VERSION = 1

MAX_DATAGRAM = 1200
"""Largest UDP payload in bytes: fits the IPv6 minimum MTU of 1280 with room for tunnels."""

HEADER_SIZE = 13
CONNECTION_ID_SIZE = 8
SHARE_SIZE = 32
TAG_SIZE = 16

INITIAL_OVERHEAD = HEADER_SIZE + 2 + SHARE_SIZE + TAG_SIZE
"""Bytes of a first-flight datagram besides the sealed ticket and the plaintext."""

REPLY_OVERHEAD = HEADER_SIZE + SHARE_SIZE + CONNECTION_ID_SIZE + TAG_SIZE
DATA_OVERHEAD = HEADER_SIZE + TAG_SIZE
REFUSAL_NONCE_SIZE = 12

ACK_BITMAP_WIDTH = 64
"""Packets before the largest one that an ACK tells about."""

MAX_INTEGER = 2**62 - 1
"""Offsets, stream ids and limits stay below this, as in RFC 9000 section 16."""

MAX_PACKET_NUMBER = 2**32 - 1
MAX_ACK_ENTRIES = 96
"""Most streams that an ACK may name."""

MAX_REASON_SIZE = 256

_HEADER = struct.Struct(">B8sI")
_LENGTH = struct.Struct(">H")


class WireError(ValueError):
    """Bytes of a peer that do not follow the protocol; caught in one place of each endpoint."""


class Kind(IntEnum):
    """The kind of a datagram."""

    INITIAL = 0
    """Client, before the first reply: ticket and share in clear, frames under `c0`."""
    REPLY = 1
    """Server, until the client shows that it has the share: share and connection ID in clear."""
    DATA = 2
    """Everything later, under `c1` or `s1`."""
    REFUSED = 3
    """Server, stateless: why a first flight was refused."""


class CloseCode(IntEnum):
    """Why a connection was closed."""

    NONE = 0
    SUPERSEDED = 1
    PROTOCOL_VIOLATION = 2
    IDLE = 3
    SHUTDOWN = 4
    KEYS_EXHAUSTED = 5
    LIMIT = 6


class RefusalCode(IntEnum):
    """Why a first flight was refused."""

    EXPIRED = 1
    USED = 2
    FOREIGN = 3
    BUSY = 4
    UNKNOWN_LOG = 5
    SHUTDOWN = 6


class ResetCode(IntEnum):
    """Why a log ended without being complete; applications use codes from 256."""

    STOPPED = 1
    FAILED = 2
    ABORTED = 3
    UNKNOWN_STREAM = 4
    MALFORMED = 5


@dataclass(slots=True)
class Tokens:
    """A range of a stream's log; with `length` and `digest` also its FIN."""

    stream: int
    base: int
    data: bytes
    length: int | None = None
    digest: int | None = None


@dataclass(slots=True)
class Ack:
    """What was received: packets by number, streams by offset.

    `missing` has bit i set where packet `largest - 1 - i` was not received. An entry of `streams`
    is (stream, offset, limit or None). A limit is left out while it is the initial one.
    """

    largest: int
    delay_us: int
    missing: int
    streams: list[tuple[int, int, int | None]]
    connection_limit: int | None = None


@dataclass(slots=True)
class Ping:
    """Asks for an acknowledgment."""


@dataclass(slots=True)
class PathChallenge:
    """Asks the peer to send `data` (8 bytes) back on the same path."""

    data: bytes


@dataclass(slots=True)
class PathResponse:
    """Answers a challenge."""

    data: bytes


@dataclass(slots=True)
class Stop:
    """Asks the peer to end its log of this stream."""

    stream: int


@dataclass(slots=True)
class Reset:
    """Ends a log at `length` without making it complete."""

    stream: int
    length: int
    code: int


@dataclass(slots=True)
class Resume:
    """The client holds the first `offset` bytes of the server's log of this stream."""

    stream: int
    offset: int


@dataclass(slots=True)
class NewTicket:
    """A resumption ticket in its binary form."""

    ticket: bytes


@dataclass(slots=True)
class Close:
    """Ends the connection."""

    code: int
    reason: str


@dataclass(slots=True)
class Welcome:
    """The server's terms, in each REPLY: streams at once, and the first stream id not yet used."""

    max_streams: int
    next_stream: int


Frame = (
    Tokens | Ack | Ping | PathChallenge | PathResponse | Stop | Reset | Resume | NewTicket | Close | Welcome
)

TOKENS, ACK, PING, PATH_CHALLENGE, PATH_RESPONSE, STOP, RESET, RESUME, TICKET, CLOSE, WELCOME = range(11)


def integer_size(value: int) -> int:
    """Bytes that MessagePack needs for a non-negative integer."""
    if value < 0x80:
        return 1
    if value < 0x100:
        return 2
    if value < 0x10000:
        return 3
    return 5 if value < 0x100000000 else 9


def tokens_overhead(stream: int, base: int, *, fin_length: int | None) -> int:
    """Most bytes that a TOKENS frame needs besides its data (data of up to 64 KiB)."""
    size = 1 + 1 + integer_size(stream) + integer_size(base) + 3
    return size if fin_length is None else size + integer_size(fin_length) + 9


_pack: Callable[[object], bytes] = msgpack.Packer().pack


def encode_frame(frame: Frame) -> list[object]:
    """The frame as the list that `encode_frames` packs."""
    return _ENCODERS[type(frame)](frame)


def encode_frames(frames: list[list[object]]) -> bytes:
    """The plaintext of a datagram, without padding."""
    return _pack(frames)


def _encode_tokens(frame: Tokens) -> list[object]:
    if frame.length is None:
        return [TOKENS, frame.stream, frame.base, frame.data]
    return [TOKENS, frame.stream, frame.base, frame.data, frame.length, frame.digest]


def _encode_ack(frame: Ack) -> list[object]:
    fields: list[object] = [ACK, frame.largest, frame.delay_us, frame.missing]
    for stream, offset, limit in frame.streams:
        fields.append([stream, offset] if limit is None else [stream, offset, limit])
    if frame.connection_limit is not None:
        fields.append(frame.connection_limit)
    return fields


_ENCODERS: dict[type, Callable[..., list[object]]] = {
    Tokens: _encode_tokens,
    Ack: _encode_ack,
    Ping: lambda frame: [PING],
    PathChallenge: lambda frame: [PATH_CHALLENGE, frame.data],
    PathResponse: lambda frame: [PATH_RESPONSE, frame.data],
    Stop: lambda frame: [STOP, frame.stream],
    Reset: lambda frame: [RESET, frame.stream, frame.length, frame.code],
    Resume: lambda frame: [RESUME, frame.stream, frame.offset],
    NewTicket: lambda frame: [TICKET, frame.ticket],
    Close: lambda frame: [CLOSE, frame.code, frame.reason],
    Welcome: lambda frame: [WELCOME, frame.max_streams, frame.next_stream],
}


def decode_frames_untrusted(plaintext: bytes) -> list[Frame]:
    """The frames of a plaintext; raises WireError for anything that is not exactly right."""
    try:
        items = msgpack.unpackb(
            plaintext.lstrip(b"\0"),
            # Every frame but PING takes at least three bytes.
            max_array_len=MAX_DATAGRAM // 3,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=MAX_REASON_SIZE,
        )
        if type(items) is not list:
            raise WireError("the plaintext is not an array of frames")
        return [_decode_frame(item) for item in items]
    except WireError:
        raise
    except Exception as error:
        # msgpack's own errors, and the shape errors of items that are not what the table expects.
        raise WireError(f"malformed frames: {type(error).__name__}") from None


def _decode_frame(item: list[object]) -> Frame:
    # Bytes and booleans would pass for arrays of integers and for integers.
    if type(item) is not list or type(item[0]) is not int:
        raise WireError("a frame is not an array that starts with its type")
    return _DECODERS[item[0]](item)


def _integer(value: object, most: int = MAX_INTEGER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError("an integer is missing or out of range")
    return value


def _bytes(value: object, size: int | None = None) -> bytes:
    if type(value) is not bytes or (size is not None and len(value) != size):
        raise WireError("bytes are missing or of the wrong length")
    return value


def _decode_tokens(item: list[object]) -> Tokens:
    if len(item) == 4:
        _, stream, base, data = item
        return Tokens(_integer(stream), _integer(base), _bytes(data))
    _, stream, base, data, length, digest = item
    return Tokens(
        _integer(stream), _integer(base), _bytes(data), _integer(length), _integer(digest, 2**64 - 1)
    )


def _decode_ack(item: list[object]) -> Ack:
    largest, delay, missing = item[1], item[2], item[3]
    connection_limit = None
    if len(item) > 4 and type(item[-1]) is int:
        connection_limit = _integer(item.pop())
    if len(item) > 4 + MAX_ACK_ENTRIES:
        raise WireError("an ACK names too many streams")
    return Ack(
        _integer(largest, MAX_PACKET_NUMBER),
        _integer(delay, MAX_PACKET_NUMBER),
        _integer(missing, 2**ACK_BITMAP_WIDTH - 1),
        [_decode_entry(entry) for entry in item[4:]],
        connection_limit,
    )


def _decode_entry(entry: object) -> tuple[int, int, int | None]:
    if type(entry) is not list:
        raise WireError("an entry of an ACK is malformed")
    if len(entry) == 2:
        stream, offset = entry
        return _integer(stream), _integer(offset), None
    stream, offset, limit = entry
    return _integer(stream), _integer(offset), _integer(limit)


def _decode_ping(item: list[object]) -> Ping:
    (_,) = item
    return Ping()


def _decode_challenge(item: list[object]) -> PathChallenge:
    _, data = item
    return PathChallenge(_bytes(data, 8))


def _decode_response(item: list[object]) -> PathResponse:
    _, data = item
    return PathResponse(_bytes(data, 8))


def _decode_stop(item: list[object]) -> Stop:
    _, stream = item
    return Stop(_integer(stream))


def _decode_reset(item: list[object]) -> Reset:
    _, stream, length, code = item
    return Reset(_integer(stream), _integer(length), _integer(code))


def _decode_resume(item: list[object]) -> Resume:
    _, stream, offset = item
    return Resume(_integer(stream), _integer(offset))


def _decode_ticket(item: list[object]) -> NewTicket:
    _, ticket = item
    return NewTicket(_bytes(ticket))


def _decode_close(item: list[object]) -> Close:
    _, code, reason = item
    if type(reason) is not str:
        raise WireError("the reason of a CLOSE is not text")
    return Close(_integer(code), reason)


def _decode_welcome(item: list[object]) -> Welcome:
    _, max_streams, next_stream = item
    return Welcome(_integer(max_streams), _integer(next_stream))


_DECODERS: dict[int, Callable[[list[object]], Frame]] = {
    TOKENS: _decode_tokens,
    ACK: _decode_ack,
    PING: _decode_ping,
    PATH_CHALLENGE: _decode_challenge,
    PATH_RESPONSE: _decode_response,
    STOP: _decode_stop,
    RESET: _decode_reset,
    RESUME: _decode_resume,
    TICKET: _decode_ticket,
    CLOSE: _decode_close,
    WELCOME: _decode_welcome,
}


@dataclass(slots=True)
class Header:
    """The clear header of a datagram."""

    kind: int
    phase: int
    ack_now: bool
    connection_id: bytes
    packet_number: int


def encode_header(kind: int, phase: int, ack_now: bool, connection_id: bytes, packet_number: int) -> bytes:
    """The 13 bytes of the clear header."""
    return _HEADER.pack(kind << 5 | VERSION << 2 | phase << 1 | ack_now, connection_id, packet_number)


def decode_header_untrusted(datagram: bytes) -> Header:
    """The header of a datagram that is long enough and of this version; else WireError."""
    if not HEADER_SIZE + TAG_SIZE < len(datagram) <= MAX_DATAGRAM:
        raise WireError("the datagram is too short or too long")
    first, connection_id, packet_number = _HEADER.unpack_from(datagram)
    if first >> 2 & 7 != VERSION:
        raise WireError("another version")
    return Header(first >> 5, first >> 1 & 1, bool(first & 1), connection_id, packet_number)


def encode_initial_clear(sealed_ticket: bytes, share: bytes) -> bytes:
    """The clear part of a first-flight datagram, between header and ciphertext."""
    return _LENGTH.pack(len(sealed_ticket)) + sealed_ticket + share


def split_initial_untrusted(datagram: bytes) -> tuple[bytes, bytes, int]:
    """Sealed ticket, client share and where the ciphertext starts."""
    if len(datagram) != MAX_DATAGRAM:
        raise WireError("a first-flight datagram is exactly 1200 bytes")
    (size,) = _LENGTH.unpack_from(datagram, HEADER_SIZE)
    start = HEADER_SIZE + 2
    body = start + size + SHARE_SIZE
    if body + TAG_SIZE > MAX_DATAGRAM:
        raise WireError("the ticket does not fit")
    return datagram[start : start + size], datagram[start + size : body], body


def split_reply_untrusted(datagram: bytes) -> tuple[bytes, bytes, int]:
    """Server share, the server's connection ID and where the ciphertext starts."""
    body = HEADER_SIZE + SHARE_SIZE + CONNECTION_ID_SIZE
    if len(datagram) < body + TAG_SIZE:
        raise WireError("the reply is too short")
    return datagram[HEADER_SIZE : HEADER_SIZE + SHARE_SIZE], datagram[HEADER_SIZE + SHARE_SIZE : body], body
