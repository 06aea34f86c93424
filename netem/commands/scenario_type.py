"""What `--scenario` takes on every command line: a name or a file."""

from __future__ import annotations

import click

from eloquent.errors import ConfigurationError
from netem.scenario import Scenario
from netem.scenario_file import find_scenario


class ScenarioType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions
    """The name of a scenario, or a TOML file; the command gets the Scenario.

    `is_simulated` refuses what simulation and relay cannot play.
    """

    name = "scenario"

    def __init__(self, *, is_simulated: bool = False) -> None:
        self._is_simulated = is_simulated

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME|FILE.toml"

    def convert(
        self, value: str | Scenario, param: click.Parameter | None, ctx: click.Context | None
    ) -> Scenario:
        if isinstance(value, Scenario):
            return value
        try:
            found = find_scenario(value)
            if self._is_simulated:
                found.check_simulated()
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)
        return found
