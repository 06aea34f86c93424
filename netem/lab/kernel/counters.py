"""What the kernel counts along a chain, and what that says about the packets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute

from netem.lab.kernel.hops import PLACES, Interfaces
from netem.lab.kernel.netlink import ETHERNET_HEADER_BYTES
from netem.link import LinkCounts

_ROOT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Passed:
    """Packets at one place: that went on, that were dropped (or marked), that wait there."""

    left: int
    drops: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters of one direction since its chain was made."""

    entered: int
    entered_bytes: int
    places: Mapping[str, Passed]

    def since(self, base: Reading, *, marks: bool, duplicates: bool) -> LinkCounts:
        """The difference to an earlier reading.

        netem counts what it marks among its drops and does not count copies. Both are told by
        comparing places, where the scenario has them at all: while packets move, readings of two
        places are not of the same moment.
        """
        drops = {name: self.places[name].drops - base.places[name].drops for name in PLACES}
        marked = 0
        if marks:
            survived = self._left("loss", base)
            marked = max(0, survived + drops["loss"] - self._left("rate", base))
        duplicated = 0
        if duplicates:
            out = self._left("delay", base) + self.places["delay"].waiting - base.places["delay"].waiting
            duplicated = max(0, out - self._left("loss", base))
        sent = self.entered - base.entered
        lost = drops["loss"] - marked
        return LinkCounts(
            sent=sent,
            sent_bytes=self.entered_bytes - base.entered_bytes,
            delivered=sent - drops["outage"] - drops["queue"] - lost,
            dropped_by_loss=lost,
            dropped_by_queue=drops["queue"],
            dropped_by_outage=drops["outage"],
            marked=marked,
            duplicated=duplicated,
        )

    def _left(self, place: str, base: Reading) -> int:
        return self.places[place].left - base.places[place].left


def read_counters(netlink: IPRoute, entry: int, interfaces: Interfaces) -> Reading:
    """Read one direction, whose packets come in at the interface `entry`."""
    (link,) = netlink.get_links(entry)
    statistics = link.get_attr("IFLA_STATS64")
    by_index = {message["index"]: message for message in netlink.get_qdiscs() if message["parent"] == _ROOT}
    entered = statistics["rx_packets"]
    return Reading(
        entered=entered,
        entered_bytes=statistics["rx_bytes"] - entered * ETHERNET_HEADER_BYTES,
        places={place: _passed(by_index[interfaces[place]]) for place in PLACES},
    )


def _passed(message: Any) -> Passed:
    statistics = message.get_attr("TCA_STATS2")
    queue = statistics.get_attr("TCA_STATS_QUEUE")
    return Passed(
        left=statistics.get_attr("TCA_STATS_BASIC")["packets"],
        drops=queue["drops"],
        waiting=queue["qlen"],
    )
