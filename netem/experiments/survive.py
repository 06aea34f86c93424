"""`survive`: one answer of the library's real server and client over each scenario, byte by byte.

Each scenario has a laboratory of its own; several run at the same time. The answer lasts at least
until everything that the scenario lists has begun and ended once, unless told otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eloquent.errors import EloquentError
from netem.commands.scenario_type import ScenarioType
from netem.figures import Report, Value
from netem.profiles import scenario, scenario_names
from netem.scenario import Scenario

if TYPE_CHECKING:
    from netem.lab.wire import Backend


@click.command("survive")
@click.option(
    "--scenario",
    "chosen",
    type=ScenarioType(),
    multiple=True,
    help="Only this one; may be repeated.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1.0),
    help="Of text; if left out 8, or until all that the scenario lists has happened.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the links and of the text.")
@click.option(
    "--backend", type=click.Choice(["user", "kernel"]), help="Chosen by what the machine has if left out."
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=4, show_default=True, help="Laboratories at the same time."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    chosen: tuple[Scenario, ...],
    seconds: float | None,
    seed: int,
    backend: Backend | None,
    jobs: int,
    as_json: bool,
) -> None:
    """Stream an answer over every scenario, with real sockets; print stalls, check every byte."""
    # Not everywhere: only the laboratory needs netlink.
    from netem.probe.survival import RATE, Survival, survive_all

    paths = chosen or tuple(scenario(name) for name in scenario_names())
    try:
        used, results = survive_all(paths, seconds=seconds, seed=seed, backend=backend, jobs=jobs)
    except EloquentError as error:
        raise click.ClickException(str(error)) from None
    found = [result for result in results if isinstance(result, Survival)]
    faults = [
        f"{path.name}: {fault}"
        for path, result in zip(paths, results, strict=True)
        if (fault := result if isinstance(result, str) else result.fault()) is not None
    ]
    if not found:
        raise click.ClickException("; ".join(faults))
    conditions: dict[str, Value] = {"backend": used, "rate": RATE, "seed": seed, "jobs": jobs}
    rows = [result.row() for result in found]
    Report("survive", conditions, rows=rows, faults=faults).finish(as_json=as_json)
