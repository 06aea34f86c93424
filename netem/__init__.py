"""The laboratory: bad networks as values, and links that behave like them.

async with netem.Lab(netem.scenario("train"), seed=1) as lab:
    server = lab.host("server").address
    await lab.host("client").run(["ping", "-c", "10", server])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from netem.errors import LabUnavailable, LinkFailed
from netem.impairment import Bursts, GilbertElliott, Impairment
from netem.link import Fate, Link, LinkCounts
from netem.profiles import scenario, scenario_names
from netem.scenario import Change, CrossTraffic, Direction, Outage, Scenario
from netem.scenario_file import find_scenario, load_scenario
from netem.trace import DeliveryTrace

if TYPE_CHECKING:
    from netem.lab.cable import Cable as Cable
    from netem.lab.host import Host as Host
    from netem.lab.lab import Lab as Lab
    from netem.lab.privilege import become_root as become_root
    from netem.relay import Relay as Relay
    from netem.simulation import Simulation as Simulation

_HOMES = {
    "Cable": "netem.lab.cable",
    "Host": "netem.lab.host",
    "Lab": "netem.lab.lab",
    "Relay": "netem.relay",
    "Simulation": "netem.simulation",
    "become_root": "netem.lab.privilege",
}
"""What is loaded when it is used: the values need neither netlink nor asyncio."""

__all__ = [
    "Bursts",
    "Cable",
    "Change",
    "CrossTraffic",
    "DeliveryTrace",
    "Direction",
    "Fate",
    "GilbertElliott",
    "Host",
    "Impairment",
    "Lab",
    "LabUnavailable",
    "Link",
    "LinkCounts",
    "LinkFailed",
    "Outage",
    "Relay",
    "Scenario",
    "Simulation",
    "become_root",
    "find_scenario",
    "load_scenario",
    "scenario",
    "scenario_names",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'netem' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
