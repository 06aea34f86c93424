"""The delays of an impairment as a table for netem.

netem draws a random entry t of a table of 16-bit numbers and delays the packet by

    latency + jitter × t / 8192        (tabledist() of net/sched/sch_netem.c)

Jitter of any shape, delays that cannot be negative, and the packets that come late to be reordered
thus become one table: the middle of the shortest and the longest delay is `latency`, and `jitter`
is so large that ±32767 reaches both. The resolution is 1/65534 of the range. netem's own `reorder`
would send packets at once instead, and its own tables cut pareto tails where 4 × jitter ends.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from functools import lru_cache

from netem.impairment import Impairment

TABLE_ENTRIES = 16_384
"""NETEM_DIST_MAX of linux/pkt_sched.h: chances come out to 1/16384, and rarer delays not at all."""

SCALE = 8192  # NETEM_DIST_SCALE
_LARGEST = 32_767
_NS_PER_S = 1e9
MAX_JITTER_NS = (1 << 31) - 1
"""netem cuts off what is above."""


@dataclass(frozen=True, slots=True)
class DelayTable:
    """What netem is told; `entries` are 16-bit numbers in the byte order of the machine.

    They are empty where the delay is constant: `jitter_ns` is 0 then.
    """

    latency_ns: int
    jitter_ns: int
    entries: bytes


@lru_cache(maxsize=64)
def delay_table(impairment: Impairment) -> DelayTable:
    """The table for `delay_s`, jitter and reordering; takes some ten milliseconds."""
    delays = _delays_s(impairment)
    shortest, longest = min(delays), max(delays)
    latency_ns = round(0.5 * (shortest + longest) * _NS_PER_S)
    if shortest == longest:
        return DelayTable(latency_ns, 0, b"")
    half_range_ns = 0.5 * (longest - shortest) * _NS_PER_S
    jitter_ns = int(half_range_ns * SCALE / _LARGEST) + 1  # rounded up, so that all entries fit
    per_second = _NS_PER_S * SCALE / jitter_ns
    middle_s = latency_ns / _NS_PER_S
    entries = array("h", [round((delay - middle_s) * per_second) for delay in delays])
    return DelayTable(latency_ns, jitter_ns, entries.tobytes())


def _delays_s(impairment: Impairment) -> list[float]:
    """Delays in seconds, each as likely as any other; one alone where there is no chance in it."""
    late_entries = round(impairment.reordering * TABLE_ENTRIES)
    punctual = replace(impairment, reordering=0.0, reordering_delay_s=0.0)
    if not punctual.jitter_s:
        late = [impairment.delay_s + impairment.reordering_delay_s] * late_entries
        return [impairment.delay_s] * (TABLE_ENTRIES - late_entries) + late
    late = [each + impairment.reordering_delay_s for each in _quantiles(punctual, late_entries)]
    return _quantiles(punctual, TABLE_ENTRIES - late_entries) + late


def _quantiles(punctual: Impairment, count: int) -> list[float]:
    """`count` equally likely delays: the middles of as many equal shares."""
    return [punctual.delay_quantile((index + 0.5) / count) for index in range(count)]
