"""What a log says: round trips, cuts anywhere, halves of characters, hostile bytes."""

import contextlib
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from eloquent.protocol.content import (
    MAX_EVENT,
    MAX_TEXT_EVENT,
    STREAM_BUFFER,
    Content,
    ContentDecoder,
    Custom,
    Failure,
    Finish,
    Reasoning,
    Role,
    Text,
    ToolCall,
    Undecodable,
    Usage,
    encode,
    encode_bytes,
    encode_text,
)
from eloquent.protocol.wire import WireError

texts = st.text(max_size=30)
whole = st.integers(-(2**63), 2**64 - 1)
plain = st.recursive(
    st.none() | st.booleans() | whole | st.floats(allow_nan=False) | st.binary(max_size=9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
typed = st.one_of(
    st.builds(Reasoning, texts),
    st.builds(ToolCall, whole, texts, texts, texts),
    st.builds(Role, texts),
    st.builds(Usage, whole, whole),
    st.builds(Finish, texts),
    st.builds(Failure, texts, whole),
    st.builds(Custom, texts, plain),
)
items: st.SearchStrategy[str | bytes | Content] = st.one_of(texts, st.binary(max_size=12), typed)


def decoded(log: bytes, cuts: Iterable[int] = ()) -> list[Content]:
    decoder, content = ContentDecoder(), []
    for start, stop in pairwise(sorted({0, len(log), *(cut % (len(log) + 1) for cut in cuts)})):
        content += decoder.feed_untrusted(log[start:stop])
    return content + decoder.finish()


def raw(content: list[Content]) -> bytes:
    """The bytes of the text, whole characters or not."""
    parts = []
    for item in content:
        if isinstance(item, Text):
            parts.append(item.text.encode())
        elif isinstance(item, Undecodable):
            parts.append(item.data)
    return b"".join(parts)


@given(st.lists(items, max_size=8), st.sets(st.integers(0, 500), max_size=12))
def test_cutting_the_bytes_anywhere_changes_nothing(
    sent: list[str | bytes | Content], cuts: set[int]
) -> None:
    log = b"".join(encode(item) for item in sent)
    assert decoded(log, cuts) == decoded(log)


@given(st.lists(items, max_size=8))
def test_every_event_and_every_byte_comes_back_in_order(sent: list[str | bytes | Content]) -> None:
    content = decoded(b"".join(encode(item) for item in sent))
    events = [item for item in content if not isinstance(item, Text | Undecodable)]
    assert events == [item for item in sent if not isinstance(item, str | bytes)]
    pieces = [
        item.encode() if isinstance(item, str) else item for item in sent if isinstance(item, str | bytes)
    ]
    assert raw(content) == b"".join(pieces)


@given(texts, st.sets(st.integers(0, 120), max_size=12))
def test_text_in_bytes_cut_anywhere_is_the_same_text(text: str, cuts: set[int]) -> None:
    data = text.encode()
    bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    content = decoded(b"".join(encode(data[start:stop]) for start, stop in pairwise(bounds)))
    # protocol 2: text that ends inside a character is held back until the character is whole
    assert all(isinstance(item, Text) for item in content)
    assert "".join(item.text for item in content if isinstance(item, Text)) == text


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_what_the_model_did_not_produce_is_never_shown(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    content = decoded(b"".join(encode(piece) for piece in pieces))
    assert raw(content) == data
    shown = "".join(item.text for item in content if isinstance(item, Text))
    # protocol 2: rendering never shows a replacement character that the model did not produce
    assert shown.count("\ufffd") <= data.count("\ufffd".encode())
    assert shown == data.decode(errors="ignore")


def test_half_a_character_is_held_back() -> None:
    decoder = ContentDecoder()
    first, second = "né".encode()[:2], "né".encode()[2:]
    assert decoder.feed_untrusted(encode(first)) == [Text("n")]
    assert decoder.feed_untrusted(encode(second)) == [Text("é")]
    assert decoder.finish() == []


def test_an_event_between_the_halves_does_not_part_them() -> None:
    log = encode("é".encode()[:1]) + encode(Role("tool")) + encode("é".encode()[1:])
    assert decoded(log) == [Role("tool"), Text("é")]


def test_whole_text_after_half_a_character_comes_after_its_bytes() -> None:
    assert decoded(encode(b"\xe2\x82") + encode("x")) == [Undecodable(b"\xe2\x82"), Text("x")]


def test_a_remainder_at_the_end_is_handed_over_as_bytes() -> None:
    # protocol 2: a remainder at the end is handed over as bytes
    assert decoded(encode(b"a\xf0\x9f\x98")) == [Text("a"), Undecodable(b"\xf0\x9f\x98")]


def test_broken_bytes_come_in_one_piece_where_they_stand() -> None:
    assert decoded(encode(b"a\xff\xfe\xffb")) == [Text("a"), Undecodable(b"\xff\xfe\xff"), Text("b")]
    # The encoding of a surrogate is no UTF-8 either.
    assert decoded(encode(b"\xed\xb2\x80")) == [Undecodable(b"\xed\xb2\x80")]


def test_a_window_of_broken_bytes_is_one_step() -> None:
    """It took 6 s where each error was handled by itself; a quadratic decoder would hang here."""
    data = b"\xff" * (STREAM_BUFFER - 8)
    assert decoded(msgpack.packb(data)) == [Undecodable(data)]


@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
def test_long_text_is_split(character: str) -> None:
    text = character * MAX_TEXT_EVENT
    log = encode_text(text)
    events = list(msgpack.Unpacker(io.BytesIO(log)))
    # protocol 2: senders split text into events of at most 16 KiB
    assert all(len(event.encode()) <= MAX_TEXT_EVENT for event in events)
    assert "".join(events) == text
    assert raw(decoded(log)) == text.encode()


def test_long_bytes_are_split() -> None:
    data = "€".encode() * MAX_TEXT_EVENT
    content = decoded(encode_bytes(data))
    assert len(content) > 1
    assert all(isinstance(item, Text) for item in content)
    assert raw(content) == data


def test_a_short_token_costs_one_byte() -> None:
    # protocol 2: one byte of overhead up to 31 bytes
    assert encode_text("x" * 31) == b"\xbf" + b"x" * 31


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_is_taken(kind: Any) -> None:
    assert encode(kind(b"abc")) == msgpack.packb(b"abc")


def test_content_can_be_sent_on() -> None:
    assert encode(Text("abc")) == encode("abc")
    assert encode(Undecodable(b"\xff")) == encode(b"\xff")


class Strange:
    """Nothing that a log can say."""


class Name(str):
    """A kind of text."""


@pytest.mark.parametrize(
    "item",
    [
        None,
        5,
        ["text"],
        Strange(),
        "\ud800",
        Text("\udfff"),
        Reasoning(5),  # type: ignore[arg-type]
        Reasoning(None),  # type: ignore[arg-type]
        ToolCall(0, "id", None, ""),  # type: ignore[arg-type]
        ToolCall("0", "id", "name", ""),  # type: ignore[arg-type]
        Usage(True, 1),
        Usage(1, 2**64),
        Custom(5, None),  # type: ignore[arg-type]
        Custom("name", Strange()),  # type: ignore[arg-type]
        Custom("name", {1: "keys are text"}),  # type: ignore[dict-item]
        Custom("name", msgpack.ExtType(5, b"x")),  # type: ignore[arg-type]
        Custom("name", datetime(2024, 1, 1, tzinfo=UTC)),  # type: ignore[arg-type]
        Custom("name", 2**64),
        Custom("name", bytes(MAX_EVENT)),
        Reasoning("x" * MAX_EVENT),
    ],
    ids=lambda item: repr(item)[:40],
)
def test_what_the_peer_could_not_read_is_not_sent(item: Any) -> None:
    with pytest.raises(ConfigurationError):
        encode(item)
    # What was refused leaves nothing behind in the encoder.
    assert decoded(encode("next")) == [Text("next")]


def test_a_kind_of_text_is_text() -> None:
    assert decoded(encode(Finish(Name("stop")))) == [Finish("stop")]
    assert decoded(encode(Name("stop"))) == [Text("stop")]


def test_an_event_of_the_largest_size() -> None:
    event = Reasoning("x" * (MAX_EVENT - 5))
    log = encode(event)
    assert len(log) == MAX_EVENT
    assert decoded(log) == [event]


@pytest.mark.parametrize(
    "value",
    [
        None, True, 5, 2.5, {}, {"a": 1},
        msgpack.ExtType(1, b""), msgpack.ExtType(1, b"x"), msgpack.Timestamp(1),
        [], ["text"], [b"\0", "x"], [True, "x"], [0.0, "x"], [6.0, "name", None], [7], [99], [-1],
        [0], [0, 5], [0, "x", "y"], [1, "0", "", "", ""], [1, 0, "", ""], [3, 1, True],
        [6, 5, 5], [6, "name"], [6, "name", {1: 2}],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_event(value: Any) -> None:
    with pytest.raises(WireError):
        decoded(msgpack.packb(value))


@pytest.mark.parametrize("log", [b"\xc1", b"\xa1\xff", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff"])
def test_what_is_no_log(log: bytes) -> None:
    with pytest.raises(WireError):
        decoded(log)


def test_deep_arrays_are_refused_early() -> None:
    with pytest.raises(WireError):
        decoded(b"\xdd\x00\x05\xff\xff" * 2000)
    with pytest.raises(WireError):
        decoded(b"\x91" * 100_000)


def test_an_endless_event_is_refused() -> None:
    decoder = ContentDecoder()
    decoder.feed_untrusted(b"\xc6\x00\x05\xff\xff")
    for _ in range(STREAM_BUFFER // 1024 - 1):
        assert decoder.feed_untrusted(bytes(1024)) == []
    with pytest.raises(WireError):
        decoder.feed_untrusted(bytes(2048))


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_gives_content_or_a_wire_error(pieces: list[bytes]) -> None:
    decoder = ContentDecoder()
    with contextlib.suppress(WireError):
        for piece in pieces:
            decoder.feed_untrusted(piece)
        decoder.finish()


@given(plain)
def test_any_value_gives_content_or_a_wire_error(value: object) -> None:
    with contextlib.suppress(WireError):
        content = decoded(msgpack.packb(value))
        assert b"".join(encode(item) for item in content) == msgpack.packb(value) or isinstance(value, bytes)
