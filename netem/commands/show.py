"""`show`: a scenario as a picture, or as a file to begin one's own with."""

from __future__ import annotations

from pathlib import Path

import click

from eloquent.errors import ConfigurationError
from netem.commands.scenario_type import ScenarioType
from netem.commands.seconds_type import Seconds
from netem.commands.timeline import LONGEST_S, natural_duration
from netem.scenario import Scenario
from netem.scenario_file import format_scenario

_FORMATS = (".png", ".svg", ".pdf")


@click.command("show")
@click.argument("path", type=ScenarioType(), metavar="SCENARIO")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bursts.")
@click.option(
    "--duration",
    type=Seconds(min=0.0, min_open=True, max=LONGEST_S),
    help="Seconds to draw; all that happens once, and 3 periods of what repeats, if left out.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|svg|pdf",
    help="The picture; SCENARIO.png in this folder if left out.",
)
@click.option("--toml", "as_toml", is_flag=True, help="Print the scenario as a TOML file instead.")
def command(path: Scenario, seed: int, duration: float | None, output: Path | None, as_toml: bool) -> None:
    """Draw loss, delay and rate of SCENARIO over time.

    SCENARIO is a name that `list` has, or a TOML file.
    """
    if as_toml:
        _print_toml(path)
        return
    file = output or Path(f"{path.name}.png")
    if file.suffix not in _FORMATS:
        raise click.UsageError(f"--output is {str(file)!r}; it must end in one of: {', '.join(_FORMATS)}")
    try:
        from netem.commands.picture import draw
    except ImportError as error:
        raise click.ClickException(
            f'pictures need matplotlib; pip install "eloquent-stream[lab]" ({error})'
        ) from error
    try:
        draw(path, seed=seed, duration_s=duration or natural_duration(path), file=file)
    except (OSError, ValueError) as error:  # ValueError: the scenario's name is none for a file
        raise click.ClickException(f"cannot write the picture: {error}") from error
    click.echo(file)


def _print_toml(path: Scenario) -> None:
    try:
        click.echo(format_scenario(path), nl=False)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
