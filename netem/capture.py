"""Recorded packets as pcapng files, which Wireshark and tcpdump read.

A recording has two interfaces, one for each end of a cable. A packet appears when it enters the
link, at its sender's end, with a comment that says what becomes of it; and once more for each copy
that leaves, at the other end, without one. The format is draft-ietf-opsawg-pcapng: blocks with
their length at both ends, little-endian here, everything padded to 32 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eloquent.errors import ConfigurationError

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_ENHANCED_PACKET = 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LINKTYPE_NULL = 0  # an address family as BSD numbers them, then the IP header
# Not LINKTYPE_RAW: libpcap 1.10, thus tcpdump, refuses a second interface of a type that it numbers
# differently itself.
_NO_SNAP_LENGTH = 0

_END_OF_OPTIONS = 0
_COMMENT = 1
_INTERFACE_NAME = 2
_TIME_RESOLUTION = 9
_FAMILIES = {4: struct.pack("<I", 2), 6: struct.pack("<I", 24)}
_UNKNOWN_FAMILY = bytes(4)  # a version that corruption has made
_FAMILY_BYTES = 4

_NANOSECONDS = bytes([9])  # the unit is 10 ** -9 s

_BLOCK = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_SECTION = struct.Struct("<IHHq")
_INTERFACE = struct.Struct("<HHI")
_PACKET = struct.Struct("<IIIII")
_OPTION = struct.Struct("<HH")
_PADDING = (b"", bytes(3), bytes(2), bytes(1))


@dataclass(frozen=True, slots=True)
class Record:
    """One packet of a recording; `time` in seconds since 1970, `comment` empty where it has none."""

    time: float
    interface: str
    packet: bytes
    comment: str


class CaptureWriter:
    """Writes packets to a file, whose buffering it leaves alone; its methods raise OSError."""

    def __init__(self, file: BinaryIO, interfaces: Sequence[str]) -> None:
        self._file = file
        file.write(_block(_SECTION_HEADER, _SECTION.pack(_BYTE_ORDER_MAGIC, 1, 0, -1)))
        for name in interfaces:
            options = _option(_INTERFACE_NAME, name.encode()) + _option(_TIME_RESOLUTION, _NANOSECONDS)
            options += _option(_END_OF_OPTIONS, b"")
            body = _INTERFACE.pack(_LINKTYPE_NULL, 0, _NO_SNAP_LENGTH) + options
            file.write(_block(_INTERFACE_DESCRIPTION, body))

    def write(self, interface: int, packet: bytes, comment: str = "", *, time: float) -> None:
        """Add a packet at `time` seconds since 1970; `interface` counts those given, from 0."""
        high, low = divmod(round(time * 1e9), 1 << 32)
        size = _FAMILY_BYTES + len(packet)
        options = b""
        if comment:
            options = _option(_COMMENT, comment.encode()) + _option(_END_OF_OPTIONS, b"")
        header = _PACKET.pack(interface, high, low, size, size)
        family = _FAMILIES.get(packet[0] >> 4, _UNKNOWN_FAMILY)
        self._file.write(_block(_ENHANCED_PACKET, header + family + packet + _PADDING[size % 4] + options))


def read_capture(path: Path) -> Iterator[Record]:
    """The packets of a file that CaptureWriter has written, in order.

    Raises ConfigurationError where it is another file, or ends within a packet.
    """
    with path.open("rb") as file:
        first = file.read(_BLOCK.size + _LENGTH.size)
        if first[:4] + first[8:] != _LENGTH.pack(_SECTION_HEADER) + _LENGTH.pack(_BYTE_ORDER_MAGIC):
            raise ConfigurationError(f"{path} is not a little-endian pcapng file")
        file.seek(0)
        interfaces: list[str] = []
        for kind, body in _blocks(file, path):
            if kind == _INTERFACE_DESCRIPTION:
                interfaces.append(_options(body, _INTERFACE.size)[_INTERFACE_NAME].decode())
            elif kind == _ENHANCED_PACKET:
                yield _record(body, interfaces)


def _record(body: bytes, interfaces: Sequence[str]) -> Record:
    interface, high, low, size, _ = _PACKET.unpack_from(body)
    end = _PACKET.size + size
    comment = _options(body, end + len(_PADDING[size % 4])).get(_COMMENT, b"")
    return Record(
        time=((high << 32) + low) / 1e9,
        interface=interfaces[interface],
        packet=body[_PACKET.size + _FAMILY_BYTES : end],
        comment=comment.decode(),
    )


def _block(kind: int, body: bytes) -> bytes:
    length = _BLOCK.size + len(body) + _LENGTH.size
    return _BLOCK.pack(kind, length) + body + _LENGTH.pack(length)


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + _PADDING[len(value) % 4]


def _blocks(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    while head := file.read(_BLOCK.size):
        kind, length = _BLOCK.unpack(head) if len(head) == _BLOCK.size else (0, 0)
        body = file.read(max(0, length - _BLOCK.size))
        if len(head) + len(body) < max(length, _BLOCK.size + _LENGTH.size):
            raise ConfigurationError(f"{path} ends within a packet; what wrote it was interrupted")
        yield kind, body[: -_LENGTH.size]


def _options(body: bytes, start: int) -> dict[int, bytes]:
    found = {}
    while start < len(body):
        code, size = _OPTION.unpack_from(body, start)
        start += _OPTION.size
        found[code] = body[start : start + size]
        start += size + len(_PADDING[size % 4])
    return found
