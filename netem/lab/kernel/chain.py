"""The way of a cable's packets: pairs of veth interfaces in a namespace between its two ends.

One direction, with the interfaces at which packets leave above (their root disciplines do the work)
and those at which they come below::

    client's   hop1a     hop2a            hop5a    server   server's
    end    -> client  hop1b   hop2b ... hop5b         end <-

What comes to an interface is redirected to the next to leave (tc-mirred), whatever it is: frames
reach the other end as they were sent. The other direction takes the same pairs backwards.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterator
from itertools import pairwise

from pyroute2 import IPRoute

from netem.lab.kernel.hops import PLACES, Interfaces
from netem.lab.kernel.processor import receive_on_one_processor
from netem.lab.namespace import Namespace
from netem.lab.wire import End
from netem.scenario import Direction

REDIRECTION_MODULES = ("sch_ingress", "cls_matchall", "act_mirred")

_INGRESS = 0xFFFF0000  # TC_H_INGRESS of linux/pkt_sched.h
_SIOCETHTOOL = 0x8946  # linux/sockios.h
_ETHTOOL_STXCSUM = 0x17  # linux/ethtool.h
_IFREQ = struct.Struct("16sP16x")  # name, data; netdevice(7)
_IFF_NOARP = 0x80


class Chain:
    """The interfaces of a cable, those in the middle up and without disciplines. Raises OSError.

    It makes both ends' interfaces too, which are down; close() removes all of them.
    """

    def __init__(self, client: End, server: End, *, mtu: int) -> None:
        self.namespace = Namespace.create(_name_of(client))
        try:
            with self.namespace.netlink() as netlink:
                self._set_up(netlink, client, server, mtu)
            for end in (client, server):
                receive_on_one_processor(end.namespace, [end.interface])
        except BaseException:
            self.close()
            raise

    @property
    def places(self) -> dict[Direction, Interfaces]:
        """Where the disciplines are."""
        return {"up": self._way(self._up), "down": self._way(self._down)}

    def entry(self, direction: Direction) -> int:
        """The index of the interface at which the packets of that direction come first."""
        return self._up[0] if direction == "up" else self._down[0]

    def close(self) -> None:
        """Remove all interfaces."""
        self.namespace.delete()

    def _set_up(self, netlink: IPRoute, client: End, server: End, mtu: int) -> None:
        for scope in ("all", "default"):  # what is here sends nothing of its own
            self.namespace.set_sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 1)
        inner = [(f"hop{number}a", f"hop{number}b") for number in range(1, len(PLACES))]
        _add_pair(netlink, "client", client, mtu)
        _add_pair(netlink, "server", server, mtu)
        for a, b in inner:
            netlink.link("add", ifname=a, kind="veth", peer={"ifname": b}, mtu=mtu)
        names = ["client", *(name for pair in inner for name in pair), "server"]
        for name in names:
            self.namespace.call(_disable_offload, name)
        receive_on_one_processor(self.namespace, names)
        self._up = [_index_of(netlink, name) for name in names]
        self._down = self._up[::-1]
        for index in self._up:
            netlink.link("set", index=index, mtu=mtu, flags=_IFF_NOARP, change=_IFF_NOARP)
            netlink.link("set", index=index, state="up")
        for way in (self._up, self._down):
            for source, target in _steps(way):
                redirect(netlink, source, target)

    def _way(self, way: list[int]) -> Interfaces:
        return dict(zip(PLACES, (target for _, target in _steps(way)), strict=True))


def _name_of(client: End) -> str:
    """That of a host's namespace, with another host part."""
    return f"{client.namespace.name.rpartition('.')[0]}.stage-{client.interface}"


def _steps(way: list[int]) -> Iterator[tuple[int, int]]:
    """(where packets come, where they leave next): the cables in between join the rest."""
    return ((source, target) for number, (source, target) in enumerate(pairwise(way)) if number % 2 == 0)


def _add_pair(netlink: IPRoute, name: str, end: End, mtu: int) -> None:
    with open(end.namespace.path) as inside:
        peer = {"ifname": end.interface, "net_ns_fd": inside.fileno()}
        netlink.link("add", ifname=name, kind="veth", peer=peer, mtu=mtu)
    # One packet is one packet: neither TCP nor a program hands several over as one.
    with end.namespace.netlink() as there:
        there.link("set", index=_index_of(there, end.interface), gso_max_segs=1)


def _index_of(netlink: IPRoute, name: str) -> int:
    (index,) = netlink.link_lookup(ifname=name)
    return int(index)


def redirect(netlink: IPRoute, source: int, target: int) -> None:
    """Have all that comes to one interface leave by another (by index)."""
    netlink.tc("add", "ingress", source)
    netlink.tc(
        "add-filter",
        "matchall",
        source,
        parent=_INGRESS,
        action={"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": target},
    )


def _disable_offload(interface: str) -> None:
    """Packets leave with their checksums in them and in one piece, so that any bit can be corrupted."""
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
    request = _IFREQ.pack(interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
