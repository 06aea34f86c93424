"""Cables as values, and the addresses and routes that follow from them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from eloquent.errors import ConfigurationError
from netem.scenario import Scenario

MIN_MTU = 1280  # RFC 8200 section 5: the least that IPv6 works with
MAX_MTU = 65_535
_MAX_HOST_NAME = 60  # with a label as long as that, a namespace's name fits into a file name
_HOST_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{_MAX_HOST_NAME}}}")
_MAX_CABLES = 250  # each has one value of an address byte


@dataclass(frozen=True, slots=True)
class Cable:
    """A cable with a scenario; `up` is from `client` to `server`, which are names of hosts.

    `mtu` is in bytes of IP packets.
    """

    scenario: Scenario
    client: str = "client"
    server: str = "server"
    mtu: int = 1500

    def __post_init__(self) -> None:
        if not isinstance(self.scenario, Scenario):
            raise ConfigurationError(f"a cable plays a Scenario, not {self.scenario!r}; see netem.scenario()")
        for name in self.hosts:
            if not isinstance(name, str) or not _HOST_NAME.fullmatch(name):
                raise ConfigurationError(
                    f"a host is named {name!r}; names have up to {_MAX_HOST_NAME} letters, digits, - and _"
                )
        if self.client == self.server:
            raise ConfigurationError(f"a cable joins {self.client!r} to itself; it needs two hosts")
        if type(self.mtu) is not int or not MIN_MTU <= self.mtu <= MAX_MTU:
            raise ConfigurationError(f"mtu is {self.mtu!r}; it must be {MIN_MTU} to {MAX_MTU} bytes")

    @property
    def hosts(self) -> tuple[str, str]:
        """The names of both ends."""
        return self.client, self.server


@dataclass(frozen=True, slots=True)
class Attachment:
    """One end of a cable as its host sees it."""

    interface: str
    address: str
    address_v6: str
    peer: str
    """The host at the other end."""
    peer_address: str
    peer_address_v6: str
    mtu: int


def hosts_of(cables: Sequence[Cable]) -> list[str]:
    """The names of all hosts, in order of appearance."""
    return list(dict.fromkeys(name for cable in cables for name in cable.hosts))


def interface_of(index: int) -> str:
    """The name of the interface at both ends of cable number `index`."""
    return f"link{index}"


def attachments_of(cables: Sequence[Cable]) -> dict[str, list[Attachment]]:
    """For each host its ends, in the order of the cables.

    Cable number i has the networks 10.77.i.0/24 and fd77:0:0:i::/64, its client 1, its server 2.
    """
    if len(cables) > _MAX_CABLES:
        raise ConfigurationError(f"{len(cables)} cables are too many: {_MAX_CABLES} have addresses")
    attachments: dict[str, list[Attachment]] = {name: [] for name in hosts_of(cables)}
    for index, cable in enumerate(cables):
        v4 = [f"10.77.{index}.{host}" for host in (1, 2)]
        v6 = [str(IPv6Address(f"fd77:0:0:{index:x}::{host}")) for host in (1, 2)]
        for end, name in enumerate(cable.hosts):
            attachments[name].append(
                Attachment(
                    interface=interface_of(index),
                    address=v4[end],
                    address_v6=v6[end],
                    peer=cable.hosts[1 - end],
                    peer_address=v4[1 - end],
                    peer_address_v6=v6[1 - end],
                    mtu=cable.mtu,
                )
            )
    return attachments


def next_hops(attachments: Mapping[str, Sequence[Attachment]], start: str) -> dict[str, Attachment]:
    """For every host that `start` reaches, the end of `start` on the shortest way to it."""
    found: dict[str, Attachment] = {}
    queue = deque((end.peer, end) for end in attachments[start])
    while queue:
        name, first = queue.popleft()
        if name != start and name not in found:
            found[name] = first
            queue.extend((end.peer, first) for end in attachments[name])
    return found
