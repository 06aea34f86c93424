"""`clean`: remove what laboratories have left that were killed."""

from __future__ import annotations

import click


@click.command("clean")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def command(dry_run: bool) -> None:
    """Remove the namespaces of laboratories whose process is gone, and end the programs inside.

    Laboratories in use are left alone. Only kill -9 and the like leave something to remove.
    """
    from netem.lab.namespace import namespaces

    stale = [namespace for namespace in namespaces() if namespace.is_stale]
    if not stale:
        click.echo("nothing to remove")
    for namespace in stale:
        try:
            programs = len(namespace.processes())
            if not dry_run:
                namespace.delete()
        except PermissionError as error:
            raise click.ClickException(
                f"cannot remove {namespace.name}; run as the user who made it"
            ) from error
        except FileNotFoundError:  # somebody else cleans at the same time
            continue
        inside = f" with {programs} running program{'s' if programs != 1 else ''}" if programs else ""
        click.echo(f"{'would remove' if dry_run else 'removed'} {namespace.name}{inside}")
