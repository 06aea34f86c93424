"""What a log says: text and typed events, as MessagePack objects.

A text token is a `str`, or a `bin` when a tokenizer emits bytes that are not yet valid UTF-8; one
UTF-8 decoder runs across both, so that half a character is never shown. A typed event is an array
`[kind, ...]`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import msgpack

from eloquent.errors import ConfigurationError
from eloquent.protocol.wire import WireError

MAX_TEXT_EVENT = 16 * 1024
"""Bytes of UTF-8 in one text event; longer text is split (protocol 2)."""

MAX_EVENT = 64 * 1024
"""Bytes of any other encoded event."""

STREAM_BUFFER = 2 * MAX_EVENT + 256 * 1024
"""Bytes that a decoder may hold: one unfinished event and a whole flow-control window."""

Plain: TypeAlias = "bool | int | float | str | bytes | list[Plain] | dict[str, Plain] | None"
"""What MessagePack can say without extensions."""


@dataclass(frozen=True, slots=True)
class Text:
    """Whole characters of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Bytes of the text that are not UTF-8: broken ones, or half a character at the end."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A piece of a tool call: `id` and `name` come with its first piece."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Role:
    """Who speaks from here on."""

    role: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt and of the answer."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the model stopped, in the words of its API."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The handler failed; the answer is good up to `offset` bytes of the log."""

    message: str
    offset: int


@dataclass(frozen=True, slots=True)
class Custom:
    """An event of the application's own."""

    name: str
    data: Plain


Typed = Reasoning | ToolCall | Role | Usage | Finish | Failure | Custom
Content = Text | Undecodable | Typed

REASONING, TOOL_CALL, ROLE, USAGE, FINISH, FAILURE, CUSTOM = range(7)

_KINDS: dict[int, tuple[type[Typed], tuple[type, ...]]] = {
    REASONING: (Reasoning, (str,)),
    TOOL_CALL: (ToolCall, (int, str, str, str)),
    ROLE: (Role, (str,)),
    USAGE: (Usage, (int, int)),
    FINISH: (Finish, (str,)),
    FAILURE: (Failure, (str, int)),
}

_NUMBERS: dict[type, int] = {make: number for number, (make, _) in _KINDS.items()}

_packer = msgpack.Packer()

_VALID_OR_NOT = re.compile("[^\udc80-\udcff]+|[\udc80-\udcff]+")
"""Runs of characters, and runs of bytes that `surrogateescape` has kept since they are no UTF-8."""


def encode_text(text: str) -> bytes:
    """Text as one or more log events."""
    data = _pack(text)
    if len(data) <= MAX_TEXT_EVENT:
        return data
    return b"".join(_pack(piece) for piece in _pieces(text))


def encode_bytes(data: bytes) -> bytes:
    """Bytes of text that may end inside a character, as one or more log events."""
    if len(data) <= MAX_TEXT_EVENT:
        return _pack(bytes(data))
    return b"".join(
        _pack(bytes(data[at : at + MAX_TEXT_EVENT])) for at in range(0, len(data), MAX_TEXT_EVENT)
    )


def encode(item: str | bytes | Content) -> bytes:
    """Encode whatever an application may send; ConfigurationError where it cannot be encoded."""
    if isinstance(item, str):
        return encode_text(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return encode_bytes(bytes(item))
    if isinstance(item, Text):
        return encode_text(item.text)
    if isinstance(item, Undecodable):
        return encode_bytes(item.data)
    return _encode_typed(item)


def _pack(value: object) -> bytes:
    try:
        packed: bytes = _packer.pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"cannot be encoded as MessagePack: {error}") from None
    return packed


def _pieces(text: str) -> Iterator[str]:
    # Four bytes is the longest character, so this many always fit.
    step = MAX_TEXT_EVENT // 4 - 1
    return (text[at : at + step] for at in range(0, len(text), step))


def _encode_typed(item: Typed) -> bytes:
    data = _pack(_fields(item))
    if len(data) > MAX_EVENT:
        raise ConfigurationError(f"an event of {len(data)} bytes is over the {MAX_EVENT} of a log event")
    if isinstance(item, Custom):
        _check_custom(data)
    return data


def _fields(item: Typed) -> list[object]:
    if isinstance(item, Custom):
        return [CUSTOM, item.name, item.data]
    number = _NUMBERS.get(type(item))
    if number is None:
        raise ConfigurationError(f"cannot send {type(item).__name__}: text, bytes or an event is expected")
    make, types = _KINDS[number]
    values = [getattr(item, name) for name in make.__slots__]
    for name, value, kind in zip(make.__slots__, values, types, strict=True):
        if not isinstance(value, kind) or isinstance(value, bool):
            found = type(value).__name__
            raise ConfigurationError(f"{make.__name__}.{name} must be {kind.__name__}, not {found}")
    return [number, *values]


def _check_custom(data: bytes) -> None:
    """Refuse what can be packed but what the peer's decoder would refuse, such as keys that are no text."""
    try:
        ContentDecoder().feed_untrusted(data)
    except WireError as error:
        raise ConfigurationError(f"a custom event that the peer could not read: {error}") from None


class ContentDecoder:
    """Turns the bytes of a log, cut anywhere, back into content."""

    __slots__ = ("_fed", "_unpacker", "_utf8")

    def __init__(self) -> None:
        # An array allocates what it announces, so nested ones could ask for gigabytes.
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=STREAM_BUFFER, max_array_len=MAX_EVENT, max_map_len=MAX_EVENT, max_ext_len=0
        )
        self._fed = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def feed_untrusted(self, data: bytes) -> list[Content]:
        """Content that the new bytes complete; WireError where they are no log."""
        content: list[Content] = []
        self._fed += len(data)
        try:
            self._unpacker.feed(data)
            for value in self._unpacker:
                self._on_value(value, content)
        except WireError:
            raise
        except Exception as error:
            raise WireError(f"malformed log: {type(error).__name__}") from None
        return content

    @property
    def is_between_events(self) -> bool:
        """Whether the bytes so far end where an event ends."""
        return bool(self._unpacker.tell() == self._fed)

    def finish(self) -> list[Content]:
        """What is left when the log has ended: half a character, as bytes."""
        return self._flush()

    def _on_value(self, value: object, content: list[Content]) -> None:
        kind = type(value)
        if kind is str:
            content += self._flush()
            content.append(Text(value))  # type: ignore[arg-type]
        elif kind is bytes:
            content += self._decode(value)  # type: ignore[arg-type]
        elif kind is list:
            content.append(_typed(value))  # type: ignore[arg-type]
        else:
            raise WireError("an event is neither text nor an array")

    def _flush(self) -> list[Content]:
        pending = self._utf8.getstate()[0]
        if not pending:
            return []
        self._utf8.reset()
        return [Undecodable(pending)]

    def _decode(self, data: bytes) -> list[Content]:
        # Broken bytes come back as lone surrogates, which no valid UTF-8 gives. Going from one
        # UnicodeDecodeError to the next would copy the rest each time: 6 s for one window of them.
        runs: list[str] = _VALID_OR_NOT.findall(self._utf8.decode(data))
        return [
            Undecodable(run.encode(errors="surrogateescape")) if "\udc80" <= run[0] <= "\udcff" else Text(run)
            for run in runs
        ]


def _typed(value: list[object]) -> Typed:
    if not value or type(value[0]) is not int:
        raise WireError("an event without a kind")
    if value[0] == CUSTOM and len(value) == 3 and type(value[1]) is str:
        return Custom(value[1], value[2])  # type: ignore[arg-type]
    if value[0] not in _KINDS:
        raise WireError("an event of an unknown kind")
    make, types = _KINDS[value[0]]
    fields = value[1:]
    if len(fields) != len(types) or any(
        type(field) is not kind for field, kind in zip(fields, types, strict=True)
    ):
        raise WireError("an event with the wrong fields")
    return make(*fields)  # type: ignore[arg-type]
