"""Marks of congestion in IP headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem.lab.user.ecn import is_ecn_capable, mark


def checksum(header: bytes) -> int:
    """RFC 1071, computed in full; 0 for a header whose own checksum is right."""
    total = sum(int.from_bytes(header[at : at + 2]) for at in range(0, len(header), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def v4_header(traffic_class: int, rest: bytes) -> bytes:
    without = bytes([0x45, traffic_class]) + rest[:8] + b"\0\0" + rest[8:]
    return without[:10] + checksum(without).to_bytes(2) + without[12:]


def v6_header(traffic_class: int, rest: bytes) -> bytes:
    return bytes([0x60 | traffic_class >> 4, (traffic_class & 15) << 4]) + rest


@given(traffic_class=st.integers(0, 255), rest=st.binary(min_size=16, max_size=16))
def test_a_mark_keeps_the_checksum_of_ipv4_right(traffic_class: int, rest: bytes) -> None:
    header = v4_header(traffic_class, rest)
    marked = mark(header + b"payload")
    assert checksum(marked[:20]) == 0
    assert marked[1] == traffic_class | 3
    assert (marked[2:10], marked[12:]) == (header[2:10], header[12:] + b"payload")


@given(traffic_class=st.integers(0, 255))
def test_a_mark_changes_two_bits_of_ipv6(traffic_class: int) -> None:
    rest = bytes(38)
    assert mark(v6_header(traffic_class, rest)) == v6_header(traffic_class | 3, rest)


@pytest.mark.parametrize(("codepoint", "is_capable"), [(0, False), (1, True), (2, True), (3, True)])
def test_every_codepoint_but_zero_says_that_marks_are_understood(codepoint: int, is_capable: bool) -> None:
    # RFC 3168 section 5: 1 and 2 mean the same, 3 is a mark; the other six bits are those of RFC 2474.
    for others in (0, 0b1011_1000):
        assert is_ecn_capable(v4_header(others | codepoint, bytes(16))) is is_capable
        assert is_ecn_capable(v6_header(others | codepoint, bytes(38))) is is_capable


@pytest.mark.parametrize("header", [v4_header(3, bytes(16)), v6_header(3, bytes(38))], ids=["v4", "v6"])
def test_a_packet_without_its_whole_header_understands_no_marks(header: bytes) -> None:
    assert is_ecn_capable(header)
    for length in range(len(header)):
        assert not is_ecn_capable(header[:length])


def test_what_is_no_ip_packet_stays_as_it_is() -> None:
    assert mark(b"\x05" + bytes(19)) == b"\x05" + bytes(19)
    assert not is_ecn_capable(b"\x05\x03" + bytes(18))
