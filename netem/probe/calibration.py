"""Every setting of a calibration, one after the other on one link."""

from __future__ import annotations

import sys

import click

from netem.impairment import Impairment
from netem.lab.lab import Lab
from netem.lab.wire import Backend
from netem.probe.bench import bench_on
from netem.probe.chances import (
    bursts,
    correlated_jitter,
    duplicates,
    jitters,
    losses,
    marks,
    reordering_and_corruption,
)
from netem.probe.rates import bulk, datagrams, throughput
from netem.probe.row import Effort, Row, Trial
from netem.probe.timing import delays, held_outage, outage
from netem.scenario import Scenario

BOTH_BACKENDS: tuple[Trial, ...] = (
    delays,
    outage,
    held_outage,
    losses,
    bursts,
    jitters,
    duplicates,
    reordering_and_corruption,
    marks,
    datagrams,
    bulk,
)
"""What both backends must show alike."""

USER_ONLY: tuple[Trial, ...] = (correlated_jitter, throughput)
"""tc-netem cannot correlate what it draws from a table, and is as fast as the kernel."""


async def calibrate(backend: Backend | None, *, seed: int, effort: Effort) -> tuple[Backend, list[Row]]:
    """All rows, one setting after the other, and the backend that was chosen."""
    nothing = Scenario("nothing", Impairment(), Impairment())
    rows: list[Row] = []
    async with Lab(nothing, seed=seed, backend=backend, name="calibrate") as lab:
        trials = (*BOTH_BACKENDS, *USER_ONLY) if lab.backend == "user" else BOTH_BACKENDS
        async with bench_on(lab, seed=seed) as bench:
            with click.progressbar(trials, label="measuring", file=sys.stderr) as bar:
                for trial in bar:
                    rows += await trial(bench, effort)
        return lab.backend, rows
