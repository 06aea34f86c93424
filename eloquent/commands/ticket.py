"""`eloquent ticket`: a ticket for a client on another machine."""

from __future__ import annotations

from pathlib import Path

import click

from eloquent.commands.options import ticket_maker, ticket_options
from eloquent.protocol.ticket import Address


@click.command("ticket")
@ticket_options
def command(server: Address, key_path: Path | None, worker: int) -> None:
    """Print a ticket for a client on another machine.

    It is for `eloquent chat --ticket` and works once, within 60 seconds. Whoever has it can use the
    server: send it over a private channel, such as ssh.
    """
    click.echo(ticket_maker(server, key_path, worker)().encode())
