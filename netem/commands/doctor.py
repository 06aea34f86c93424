"""`doctor`: what the laboratory can do on this machine, and what it lacks."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

import click

from netem.errors import LabUnavailable
from netem.lab.machine import Check, default_backend, examine

_WIDTH = 100
_INDENT = " " * 4


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def command(as_json: bool) -> None:
    """Say what this machine has of what the laboratory uses, what for, and how to get the rest.

    Exit status 1 means that no laboratory can be built here.
    """
    checks = examine()
    backend, reason = None, ""
    try:
        backend = default_backend()
    except LabUnavailable as error:
        reason = str(error)
    if as_json:
        document = {
            "command": "doctor",
            "backend": backend,
            "reason": reason,
            "checks": [asdict(check) for check in checks],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(table(checks))
        click.echo(
            f"\nA laboratory here uses the backend {backend}." if backend else f"\nNo laboratory: {reason}"
        )
    raise SystemExit(backend is None)


def table(checks: Sequence[Check]) -> str:
    """A line for each check, and one more for how to get what is missing."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = "ok     " if check.is_there else "missing"
        lines.append(f"{mark}  {check.name:{width}}  {check.found} ({check.purpose})")
        if check.remedy:
            lines += textwrap.wrap(
                f"to get it: {check.remedy}", _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
            )
    return "\n".join(lines)
