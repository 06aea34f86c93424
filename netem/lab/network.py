"""Addresses, neighbours and routes of a host.

Everything is set by hand, so that only what programs send is on a cable: no address resolution,
duplicate address detection, router solicitation or multicast report takes part in an experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyroute2 import IPRoute

from netem.lab.cable import Attachment, next_hops
from netem.lab.host import Host
from netem.lab.namespace import Namespace

_NETWORK_BITS = 24
_NETWORK_BITS_V6 = 64
_NO_LINK_LOCAL = 1  # values of addr_gen_mode, Linux Documentation/networking/ip-sysctl.rst
_IFA_F_NODAD = 0x02  # linux/if_addr.h
_IFF_MULTICAST = 0x1000  # linux/if.h
_QUEUE_PACKETS = 10_000  # the queue that drops is the link's, never that of the interface before it


def configure(hosts: Mapping[str, Host]) -> None:
    """Set up all hosts, whose interfaces are there and down."""
    attachments = {name: host.attachments for name, host in hosts.items()}
    hardware = {
        (name, end.interface): _hardware_address(host.namespace, end.interface)
        for name, host in hosts.items()
        for end in host.attachments
    }
    for name, host in hosts.items():
        with host.namespace.netlink() as netlink:
            for end in host.attachments:
                _silence(netlink, end)
            _set_sysctls(host)
            for end in host.attachments:
                _set_up(netlink, end, hardware[end.peer, end.interface])
            _add_routes(netlink, attachments, name)


def _hardware_address(namespace: Namespace, interface: str) -> str | None:
    """The MAC address; None for a TUN device, which has none."""
    with namespace.netlink() as netlink:
        return netlink.link("get", ifname=interface)[0].get("address")  # type: ignore[no-any-return]


def _set_sysctls(host: Host) -> None:
    set_sysctl = host.namespace.set_sysctl
    set_sysctl("net/ipv4/conf/all/rp_filter", 0)  # two cables may lead to the same host
    set_sysctl("net/ipv4/tcp_no_metrics_save", 1)  # a connection must not learn from the one before
    is_router = int(len(host.attachments) > 1)
    set_sysctl("net/ipv4/ip_forward", is_router)
    set_sysctl("net/ipv6/conf/all/forwarding", is_router)
    for end in host.attachments:
        set_sysctl(f"net/ipv4/conf/{end.interface}/rp_filter", 0)
        set_sysctl(f"net/ipv6/conf/{end.interface}/addr_gen_mode", _NO_LINK_LOCAL)
        set_sysctl(f"net/ipv6/conf/{end.interface}/accept_ra", 0)


def _silence(netlink: IPRoute, end: Attachment) -> None:
    """Before a sysctl makes the host join a group, which it would report."""
    (index,) = netlink.link_lookup(ifname=end.interface)
    netlink.link("set", index=index, flags=0, change=_IFF_MULTICAST)


def _set_up(netlink: IPRoute, end: Attachment, peer_hardware: str | None) -> None:
    (index,) = netlink.link_lookup(ifname=end.interface)
    netlink.link("set", index=index, mtu=end.mtu, txqlen=_QUEUE_PACKETS)
    netlink.addr("add", index=index, address=end.address, prefixlen=_NETWORK_BITS)
    netlink.addr("add", index=index, address=end.address_v6, prefixlen=_NETWORK_BITS_V6, flags=_IFA_F_NODAD)
    netlink.link("set", index=index, state="up")
    if peer_hardware is not None:
        for address in (end.peer_address, end.peer_address_v6):
            netlink.neigh("add", ifindex=index, dst=address, lladdr=peer_hardware, state="permanent")


def _add_routes(netlink: IPRoute, attachments: Mapping[str, Sequence[Attachment]], name: str) -> None:
    """To those addresses of every other host that no cable of this one leads to directly."""
    on_link = {end.peer_address for end in attachments[name]}
    for other, way in next_hops(attachments, name).items():
        for end in attachments[other]:
            if end.address not in on_link:
                netlink.route("add", dst=f"{end.address}/32", gateway=way.peer_address)
                netlink.route("add", dst=f"{end.address_v6}/128", gateway=way.peer_address_v6)
