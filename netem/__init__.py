"""The laboratory: bad networks as values, and links that behave like them."""

from netem.impairment import Bursts, GilbertElliott, Impairment
from netem.link import Fate, Link, LinkCounts
from netem.profiles import scenario, scenario_names
from netem.relay import Relay
from netem.scenario import Change, Direction, Outage, Scenario
from netem.simulation import ClientHost, Host, Livelock, Simulation

__all__ = [
    "Bursts",
    "Change",
    "ClientHost",
    "Direction",
    "Fate",
    "GilbertElliott",
    "Host",
    "Impairment",
    "Link",
    "LinkCounts",
    "Livelock",
    "Outage",
    "Relay",
    "Scenario",
    "Simulation",
    "scenario",
    "scenario_names",
]
