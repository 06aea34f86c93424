"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import reduce
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from eloquent.addresses import format_address
from eloquent.keys import load_keys
from eloquent.protocol.ticket import MAX_WORKER, Address, Ticket, TicketIssuer

DEFAULT_SERVER = ("127.0.0.1", 4433)
"""Where `eloquent serve` listens and `eloquent chat` asks, unless they are told otherwise."""

INTERRUPTED_STATUS = 130
"""Exit status where Ctrl-C cut something short, as shells have it."""

Command = TypeVar("Command", bound=Callable[..., Any])


def server_address(value: str | Address) -> Address:
    """`host`, `host:port` or `[IPv6 address]:port`, as a host and a port."""
    if isinstance(value, tuple):
        return value
    try:
        parts = urlsplit(f"//{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or not set(value).isdisjoint("/?#@"):
        raise click.BadParameter(f"{value!r} is not host:port, such as 127.0.0.1:4433 or [::1]:4433")
    return host, DEFAULT_SERVER[1] if port is None else port


keys_option = click.option(
    "--keys",
    "key_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Key file; otherwise ELOQUENT_KEYS, then the user's own key file.",
)

worker_option = click.option(
    "--worker",
    type=click.IntRange(0, MAX_WORKER),
    default=0,
    show_default=True,
    help="Number of the worker: tickets name it, beside its address.",
)

_server_option = click.option(
    "--server",
    type=server_address,
    default=DEFAULT_SERVER,
    show_default=format_address(*DEFAULT_SERVER),
    metavar="HOST:PORT",
    help="Where the server is reached.",
)


def ticket_options(command: Command) -> Command:
    """`--server`, `--keys` and `--worker`: what it takes to issue a ticket."""
    options: tuple[Callable[[Command], Command], ...] = (worker_option, keys_option, _server_option)
    return reduce(lambda decorated, option: option(decorated), options, command)


def ticket_maker(server: Address, key_path: Path | None, worker: int) -> Callable[[], Ticket]:
    """A function that issues tickets for the server; raises ConfigurationError where there are no keys."""
    ipv4, ipv6 = _by_family(server)
    issuer = TicketIssuer(load_keys(key_path), worker=worker, ipv4=ipv4, ipv6=ipv6, entropy=os.urandom)
    return lambda: issuer.issue(wall_now=time.time())


def _by_family(server: Address) -> tuple[Address | None, Address | None]:
    """The address as IPv4 and as IPv6; a name may be both, the client finds out."""
    try:
        version = ip_address(server[0]).version
    except ValueError:
        return server, server
    return (server, None) if version == 4 else (None, server)
