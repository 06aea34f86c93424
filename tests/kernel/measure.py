"""Runs on the machine with tc-netem: the calibration's settings that it can play, as JSON.

Of those of `python -m netem calibrate` it leaves out what tc-netem does not have (correlated jitter).
Where an emulated machine is too slow for one (jitter of 10 ms, bursts as short, the edges of a held
outage), it measures the same with longer times.
"""

import asyncio
import json
import math

import numpy as np

from netem.impairment import Bursts, Impairment
from netem.jitter import Distribution, share_up_to
from netem.lab.lab import Lab
from netem.lab.namespace import namespaces
from netem.link import burst_clock
from netem.probe.bench import Bench, Passage, Times, bench_on
from netem.probe.chances import losses, marks, reordering_and_corruption
from netem.probe.datagrams import Flow
from netem.probe.estimates import KS_999, distance
from netem.probe.rates import bulk, datagrams
from netem.probe.row import Effort, Row
from netem.probe.timing import delays, outage
from netem.scenario import Outage, Scenario

TRIALS = (delays, outage, losses, reordering_and_corruption, marks, datagrams, bulk)
EFFORT = Effort(share=0.25, timing_ms=25.0)
SEED = 1
JITTER_DELAY_S = 0.4
JITTER_S = 0.1
BURSTS = Bursts(good_s=0.4, bad_s=0.2)
HELD = Outage(start_s=0.5, duration_s=0.5, held=True)
MARGIN_S = 0.1
"""Around the edges of an outage, where this machine's clock does not decide."""


async def jitter(bench: Bench) -> dict[str, float]:
    """By how much the distributions of delays differ from those set, and what chance may explain."""
    up = Impairment(delay_s=JITTER_DELAY_S, jitter_s=JITTER_S)
    down = Impairment(delay_s=JITTER_DELAY_S, jitter_s=JITTER_S, jitter_distribution="uniform")
    flow = Flow(600, 0.010)
    both = await bench.exchange(Scenario("jitter", up, down), up=flow, down=flow, settle_s=1.5)
    return {
        "normal": distance_from("normal", both.up),
        "uniform": distance_from("uniform", both.down),
        "by_chance": KS_999 / math.sqrt(flow.count),
    }


def distance_from(distribution: Distribution, passage: Passage) -> float:
    def share_below(delays: Times) -> Times:
        units = (delays - JITTER_DELAY_S) / JITTER_S
        return np.array([share_up_to(distribution, float(unit)) for unit in units])

    return distance(passage.delays_s, share_below)


async def share_not_as_the_seed_says(bench: Bench) -> float:
    """Of the datagrams that bursts let pass or dropped."""
    path = Impairment(bursts=BURSTS)
    up = (await bench.exchange(Scenario("bursts", path, path), up=Flow(1200, 0.005))).up
    clock = burst_clock(BURSTS, "up", seed=SEED)
    expected = np.array([clock.is_bad(float(at)) for at in up.sent_at])
    return float(np.mean(up.is_lost != expected))


async def held(bench: Bench) -> dict[str, float]:
    """What became of what was sent well within a held outage."""
    path = Impairment(delay_s=0.02)
    scenario = Scenario("held", path, path, outages=(HELD,))
    up = (await bench.exchange(scenario, up=Flow(300, 0.005))).up
    ends_at = HELD.start_s + HELD.duration_s
    within = (up.sent_at > HELD.start_s + MARGIN_S) & (up.sent_at < ends_at - MARGIN_S)
    return {
        "held": int(np.sum(within)),
        "too_early": int(np.sum(up.first_arrival_at[within] < ends_at)),
        "lost": int(np.sum(up.is_lost)),
        "overtaken": int(np.sum(np.diff(up.numbers) < 0)),
    }


async def main() -> None:
    nothing = Scenario("nothing", Impairment(), Impairment())
    rows: list[Row] = []
    async with (
        Lab(nothing, seed=SEED, backend="kernel", name="kernel-test") as lab,
        bench_on(lab, seed=SEED) as bench,
    ):
        for trial in TRIALS:
            rows += await trial(bench, EFFORT)
        figures = {
            "jitter": await jitter(bench),
            "held": await held(bench),
            "bursts": await share_not_as_the_seed_says(bench),
        }
    left = [namespace.name for namespace in namespaces()]
    print(json.dumps({"rows": [row.as_json() for row in rows], **figures, "left": left}))


asyncio.run(main())
