"""Every byte arrives, over every profile, whatever is added to it (see netem/experiments/exact.py)."""

import os

import pytest

from netem.experiments.exact import STREAMS_PER_CONNECTION, ExactPlan, plans_for, run_exact
from netem.experiments.jobs import run_jobs
from netem.profiles import scenario_names


@pytest.mark.parametrize("profile", scenario_names())
def test_every_stream_arrives_over_every_profile(profile: str) -> None:
    for seed in range(2):
        record = run_exact(ExactPlan(profile, seed))
        assert record.faults == []
        assert record.bytes > 0


@pytest.mark.slow
def test_two_thousand_streams_arrive() -> None:
    plans = plans_for(2000, scenario_names())
    assert len(plans) * STREAMS_PER_CONNECTION >= 2000
    records = run_jobs(run_exact, plans, workers=os.cpu_count() or 1)
    assert [fault for record in records for fault in record.faults] == []
