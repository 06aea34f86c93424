"""Hosts and ports: where a server listens, what its tickets say, how a client gets there."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass

from eloquent.endpoint import SocketAddress, configure
from eloquent.errors import ConfigurationError, ConnectError
from eloquent.protocol.ticket import Address, Ticket

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_V4_MAPPED = "::ffff:"
_HOST_AND_PORT = re.compile(r"(?:\[(?P<literal>[^\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Remote:
    """A server's address, ready for a socket."""

    family: socket.AddressFamily
    address: SocketAddress

    def __str__(self) -> str:
        return format_address(*self.address[:2])


def format_address(host: str, port: int) -> str:
    """As in a URL: `[::1]:4433`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain_address(address: SocketAddress) -> Address:
    """Host and port of a socket's address; IPv4 within IPv6 is shown as IPv4."""
    host: str = address[0]
    return host.removeprefix(_V4_MAPPED) if "." in host else host, address[1]


def is_wildcard(host: str) -> bool:
    """Whether binding this IP address means all of the machine's."""
    return ipaddress.ip_address(host).is_unspecified


async def bind(host: str, port: int) -> socket.socket:
    """A UDP socket on `host`; "::" takes IPv4 as well, and is IPv4 alone where there is no IPv6."""
    family, address = (await _look_up(host, port))[0]
    try:
        return _bound(family, address)
    except OSError as error:
        if host != "::" or _has_ipv6():
            reason = error.strerror or str(error)
            raise ConfigurationError(f"cannot serve on {format_address(host, port)}: {reason}") from error
    return await bind("0.0.0.0", port)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _bound(family: socket.AddressFamily, address: SocketAddress) -> socket.socket:
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6 and is_wildcard(address[0]):
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        configure(udp)
        udp.bind(address)
    except BaseException:
        udp.close()
        raise
    return udp


async def advertised(bound: SocketAddress, advertise: str | None) -> tuple[Address | None, Address | None]:
    """The IPv4 and the IPv6 address for tickets, from `advertise` or else from the bound address.

    Both are None where a wildcard is bound and nothing is advertised: no client could use it.
    """
    host, port = bound[:2]
    if advertise is None:
        if is_wildcard(host):
            return None, None
        return (None, (host, port)) if ":" in host else ((host, port), None)
    by_version: dict[int, Address] = {}
    for entry in advertise.split(","):
        for version, address in (await _entry(entry.strip(), port)).items():
            by_version.setdefault(version, address)
    return by_version.get(4), by_version.get(6)


async def _entry(entry: str, bound_port: int) -> dict[int, Address]:
    """The addresses that one host, with or without a port, stands for, by IP version."""
    match = _HOST_AND_PORT.fullmatch(entry)
    port = int(match["port"] or bound_port) if match else 0
    if match is None or not 0 < port < 65536:
        raise ConfigurationError(
            f'cannot advertise {entry!r}: "host:port" or "[IPv6 address]:port" is expected'
        )
    found = await _look_up(match["literal"] or match["name"], port)
    result: dict[int, Address] = {}
    for _, address in found:
        version = ipaddress.ip_address(address[0]).version
        result.setdefault(version, address[:2])
    if any(is_wildcard(host) for host, _ in result.values()):
        raise ConfigurationError(f"cannot advertise {entry!r}: clients cannot send to a wildcard address")
    return result


async def remotes_of(ticket: Ticket) -> list[Remote]:
    """The server's addresses from a ticket, IPv6 first; ConnectError where none can be resolved."""
    remotes: list[Remote] = []
    failures: list[str] = []
    for version, entry in ((6, ticket.ipv6), (4, ticket.ipv4)):
        if entry is None:
            continue
        try:
            found = await _look_up(*entry, family=_FAMILIES[version])
        except ConfigurationError as error:
            failures.append(str(error))
            continue
        remotes.append(Remote(*found[0]))
    if not remotes:
        raise ConnectError("; ".join(failures) or "the ticket names no server")
    return remotes


async def _look_up(
    host: str, port: int, *, family: int = socket.AF_UNSPEC
) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"the host {host!r} has no address: {reason}") from error
    return [(socket.AddressFamily(entry[0]), entry[4]) for entry in found]
