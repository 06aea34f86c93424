"""Netlink messages that set queueing disciplines, as bytes, and the socket that sends them.

pyroute2 makes everything that stays as it is. What changes while a scenario plays is encoded here:
its encoder for netem has neither Gilbert-Elliott loss nor tables of delays, ECN marks, delays above
67 s or a seed, and takes milliseconds for a message, of which a burst of loss may last a few dozen.

The layouts are those of linux/netlink.h, linux/rtnetlink.h and linux/pkt_sched.h, in the byte order
of the machine.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence

_RTM_NEWQDISC = 36
_NLM_F_REQUEST = 0x001
_NLM_F_ACK = 0x004
_NLM_F_EXCL = 0x200
_NLM_F_CREATE = 0x400
_NLMSG_ERROR = 2
_TC_H_ROOT = 0xFFFFFFFF
_HANDLE = 0x1_0000  # 1:0; every device has its own numbers
_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_STAB = 8
_TCA_STAB_BASE = 1

ETHERNET_HEADER_BYTES = 14

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_TCMSG = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_SIZESPEC = struct.Struct("=BBhiIIII")  # logarithms, align, overhead, link layer, least, MTU, table
_ANSWER_BYTES = 1 << 16


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to a multiple of four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


_IP_BYTES_ONLY = attribute(
    _TCA_STAB,
    attribute(_TCA_STAB_BASE, _SIZESPEC.pack(0, 0, 0, -ETHERNET_HEADER_BYTES, 0, 0, 0, 0)),
)
"""A size table without a table: packets count as what they are without their Ethernet header."""


def qdisc_message(interface: int, kind: str, options: bytes, *, is_new: bool = False) -> bytes:
    """Change the root discipline of an interface (by index), or make it where there is none.

    It counts packets in IP bytes. The kind of one that is there must be the same.
    """
    flags = _NLM_F_REQUEST | _NLM_F_ACK | (_NLM_F_CREATE | _NLM_F_EXCL if is_new else 0)
    body = b"".join(
        (
            _TCMSG.pack(socket.AF_UNSPEC, interface, _HANDLE, _TC_H_ROOT, 0),
            attribute(_TCA_KIND, kind.encode() + b"\0"),
            attribute(_TCA_OPTIONS, options),
            _IP_BYTES_ONLY,
        )
    )
    return _HEADER.pack(_HEADER.size + len(body), _RTM_NEWQDISC, flags, 0, 0) + body


def open_route_socket() -> socket.socket:
    """A socket to the traffic control of the calling thread's network namespace."""
    route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    route.bind((0, 0))
    return route


def send_all(route: socket.socket, messages: Sequence[bytes]) -> None:
    """Have the kernel do what the messages say, in order; raises OSError for the first it refuses."""
    if not messages:
        return
    route.send(b"".join(messages))
    answers: list[int] = []
    while len(answers) < len(messages):
        answers.extend(_errors(route.recv(_ANSWER_BYTES)))
    for error in answers:
        if error:
            raise OSError(error, os.strerror(error))


def _errors(data: bytes) -> Iterable[int]:
    """The errno of each acknowledgment in a datagram of the kernel, 0 for success."""
    offset = 0
    while offset < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if kind == _NLMSG_ERROR:
            yield -_ERROR.unpack_from(data, offset + _HEADER.size)[0]
        offset += (length + 3) & ~3
