"""`eloquent keys`: make and replace the keys that seal tickets. No command prints a key."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from eloquent.errors import ConfigurationError
from eloquent.keys import ENVIRONMENT_VARIABLE, create_keys, default_key_path, load_keys
from eloquent.protocol.ticket import KeyRing

_path_option = click.option(
    "--path",
    type=click.Path(path_type=Path),
    default=default_key_path,
    show_default="the user's own key file",
    help="Key file.",
)


@click.group("keys")
def command() -> None:
    """Make and replace the keys that seal tickets.

    Whoever has them can issue tickets for the server.
    """


@command.command("new")
@_path_option
def new(path: Path) -> None:
    """Write a new key to a file that only its owner can read; an existing file is not touched."""
    create_keys(path)
    click.echo(f"wrote a new key to {path}")


@command.command("rotate")
@_path_option
def rotate(path: Path) -> None:
    """Put a new key in front of the others: it seals from now on, the others still open.

    Servers read the file when they start. Delete an old key's line once the tickets under it have expired.
    """
    keys = load_keys(path).rotate(os.urandom)
    _replace(path, keys)
    click.echo(f"put a new key in front of {len(keys) - 1} in {path}")


@command.command("where")
def where() -> None:
    """Tell which keys count here: those of ELOQUENT_KEYS, or those of a file."""
    keys = load_keys()
    ids = ", ".join(key_id.hex() for key_id, _ in keys)
    source = ENVIRONMENT_VARIABLE if os.environ.get(ENVIRONMENT_VARIABLE, "").strip() else default_key_path()
    click.echo(f"{source}: {ids}")


def _replace(path: Path, keys: KeyRing) -> None:
    """Write the keys to `path` as a whole or not at all."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(keys.format())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be written: {error.strerror}") from None
