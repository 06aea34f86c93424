"""The commands of `eloquent`, one module each."""

from __future__ import annotations

import sys

import click

from eloquent.commands import chat, keys, serve, ticket
from eloquent.errors import EloquentError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="eloquent-stream", message="%(package)s %(version)s")
def main() -> None:
    """Token streams over UDP in which every datagram can be rendered by itself."""


for module in (serve, chat, ticket, keys):
    main.add_command(module.command)


def run() -> None:
    """Run the command of `sys.argv`."""
    try:
        main(prog_name="eloquent")
    except EloquentError as error:
        sys.exit(f"Error: {error}")
