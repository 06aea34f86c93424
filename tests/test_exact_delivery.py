"""Every byte arrives, over every profile, whatever is added to it (see netem/experiments/exact.py)."""

import os

import pytest

from netem.experiments.exact import STREAMS_PER_CONNECTION, ExactPlan, plans_for, run_exact
from netem.experiments.jobs import run_jobs
from netem.profiles import scenario_names


@pytest.mark.parametrize("profile", scenario_names(is_simulated=True))
def test_every_stream_arrives_over_every_profile(profile: str) -> None:
    for seed in range(2):
        record = run_exact(ExactPlan(profile, seed))
        assert record.faults == []
        assert record.bytes > 0


@pytest.mark.parametrize(
    ("profile", "seed"),
    [
        # An acknowledgment that the amplification limit forbids must not be due again at once.
        ("satellite", 59),
        ("satellite", 64),
        # Answers to challenges, which come from both sockets, must not move the path back and forth.
        ("2g-urban", 61),
        ("edge-average", 6),
    ],
)
def test_what_once_went_wrong(profile: str, seed: int) -> None:
    assert run_exact(ExactPlan(profile, seed)).faults == []


@pytest.mark.slow
def test_two_thousand_streams_arrive() -> None:
    plans = plans_for(2000, scenario_names(is_simulated=True))
    assert len(plans) * STREAMS_PER_CONNECTION >= 2000
    records = run_jobs(run_exact, plans, workers=os.cpu_count() or 1)
    assert [fault for record in records for fault in record.faults] == []
