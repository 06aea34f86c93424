"""Explicit congestion notification in the headers of IP packets (RFC 3168, section 5)."""

from __future__ import annotations

_CONGESTION_EXPERIENCED = 0b11
_V4_HEADER_BYTES = 20  # RFC 791, without options
_V6_HEADER_BYTES = 40  # RFC 8200


def is_ecn_capable(packet: bytes) -> bool:
    """Whether its sender has said that it understands marks; a packet without its whole header has not."""
    if len(packet) < _V4_HEADER_BYTES:
        return False
    version = packet[0] >> 4
    if version == 4:
        return packet[1] & 0b11 != 0
    return version == 6 and len(packet) >= _V6_HEADER_BYTES and packet[1] & 0b11_0000 != 0


def mark(packet: bytes) -> bytes:
    """The ECN-capable packet with its mark of congestion set; as it is, where it is not IP."""
    version = packet[0] >> 4
    marked = bytearray(packet)
    if version == 4:
        marked[1] |= _CONGESTION_EXPERIENCED
        # RFC 1624, eqn. 3: the change of one 16-bit word, in ones' complement.
        checksum = int.from_bytes(packet[10:12]) ^ 0xFFFF
        checksum += (int.from_bytes(packet[:2]) ^ 0xFFFF) + int.from_bytes(marked[:2])
        while checksum > 0xFFFF:
            checksum = (checksum & 0xFFFF) + (checksum >> 16)
        marked[10:12] = (checksum ^ 0xFFFF).to_bytes(2)
    elif version == 6:
        marked[1] |= _CONGESTION_EXPERIENCED << 4
    return bytes(marked)
