"""The link against its setting, and the statistics by which that is judged."""

import json
import math
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from netem import Lab, Scenario
from netem.experiments.calibrate import command
from netem.impairment import Impairment
from netem.link import LinkCounts
from netem.probe import rates
from netem.probe.bench import Passage, bench_on
from netem.probe.calibration import BOTH_BACKENDS, USER_ONLY
from netem.probe.datagrams import Flow
from netem.probe.estimates import KS_999, correlation, deviation, distance, mean, proportion
from netem.probe.row import Effort, Row, Trial, at_least, estimated, measured

SEED = 1
EVERYDAY = Effort(share=0.1, timing_ms=50.0)
"""A machine that runs other tests beside must not fail a row by chance."""

ROUNDING = 1e-12

NOTHING = Scenario("nothing", Impairment(), Impairment())


@pytest.mark.parametrize("trial", [*BOTH_BACKENDS, *USER_ONLY], ids=lambda trial: trial.__name__)
async def test_the_user_link_does_what_chance_it_was_set_to(trial: Trial) -> None:
    async with Lab(NOTHING, seed=SEED, backend="user") as lab, bench_on(lab, seed=SEED) as bench:
        rows = await trial(bench, EVERYDAY)
    assert rows
    assert [row.fault() for row in rows if row.kind == "chance" and not row.is_ok] == []
    # When packets come is for the command to judge, on a machine with nothing else to do.
    assert all(math.isfinite(row.measured) for row in rows)
    assert json.loads(json.dumps([row.as_json() for row in rows]))


async def test_delays_of_both_directions_and_of_a_ping_are_measured() -> None:
    (delays, *_) = BOTH_BACKENDS
    async with Lab(NOTHING, seed=SEED, backend="user") as lab, bench_on(lab, seed=SEED) as bench:
        rows = await delays(bench, EVERYDAY)
    assert {row.kind for row in rows} == {"timing"}
    assert [row.setting for row in rows] == ["25 ms up"] * 3 + ["25 ms down"] * 3 + ["RTT of 50 ms"] * 6


async def test_a_flow_without_a_link_setting_comes_whole_and_in_order() -> None:
    flow = Flow(200, 0.0005, size=1400, tos=0b01)
    async with Lab(NOTHING, seed=SEED, backend="user") as lab, bench_on(lab, seed=SEED) as bench:
        first = await bench.exchange(NOTHING, up=flow)
        both = await bench.exchange(NOTHING, up=flow, echoes=True)
    assert list(first.up.numbers) == list(range(200))
    assert set(first.up.tos) == {0b01}
    assert len(first.down.numbers) == 0
    assert list(both.down.numbers) == list(range(200))
    for passage in (first.up, both.up, both.down):
        assert passage.damaged == 0
        assert (passage.delays_s > 0.0).all()
        assert (passage.read_at >= passage.arrived_at).all()


@pytest.mark.slow
def test_the_command_reports_every_row_with_its_tolerance() -> None:
    result = CliRunner().invoke(command, ["--backend", "user", "--quick", "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == (1 if document["faults"] else 0), result.stderr
    rows = document["rows"]
    assert [row for row in rows if row["kind"] == "chance" and not row["ok"]] == []
    assert len(document["faults"]) == sum(not row["ok"] for row in rows)
    figures = {row["figure"] for row in rows}
    assert {"link's error, p99", "programs' error, p99", "begin, error", "TCP, payload, at least"} <= figures
    for row in rows:
        assert (row["low"] is None) == (row["high"] is None)
        assert row["tolerance"] >= 0.0


async def test_of_what_never_came_there_is_no_echo() -> None:
    lossy = Impairment(loss=0.3)
    flow = Flow(300, 0.0005)
    async with Lab(NOTHING, seed=SEED, backend="user") as lab, bench_on(lab, seed=SEED) as bench:
        both = await bench.exchange(Scenario("lossy", lossy, Impairment(delay_s=0.010)), up=flow, echoes=True)
    assert 0 < len(both.up.numbers) < 300
    assert (np.isnan(both.down.sent_at) == both.up.is_lost).all()
    assert (both.down.is_lost == both.up.is_lost).all()
    assert (both.down.delays_s >= 0.010).all()


def passage(sent_at: list[float], arrivals: list[tuple[int, float]]) -> Passage:
    return Passage(
        sent_at=np.array(sent_at),
        numbers=np.array([number for number, _ in arrivals], dtype=np.int64),
        arrived_at=np.array([at for _, at in arrivals]),
        read_at=np.array([at for _, at in arrivals]),
        tos=np.zeros(len(arrivals), dtype=np.int64),
        damaged=0,
        counts=LinkCounts(),
    )


def test_of_several_copies_the_first_counts_and_what_never_came_is_lost() -> None:
    found = passage([0.0, 1.0, 2.0], [(2, 2.5), (0, 2.6), (2, 2.7), (0, 2.8)])
    assert list(found.is_lost) == [False, True, False]
    assert found.delays_s == pytest.approx([2.6, 0.5])


@given(st.integers(0, 50), st.integers(1, 50))
def test_a_wider_interval_holds_the_narrower_and_both_hold_the_share(count: int, more: int) -> None:
    estimate = proportion(count / (count + more), count + more)
    (low, high), (lowest, highest) = estimate.interval, estimate.wide
    assert 0.0 <= lowest <= low + ROUNDING <= estimate.value + 2 * ROUNDING
    assert 1.0 >= highest >= high - ROUNDING >= estimate.value - 2 * ROUNDING


def test_intervals_of_95_percent_hold_the_truth_about_as_often() -> None:
    random = Random(1)
    held = {"share": 0, "mean": 0, "deviation": 0}
    runs = 2000
    for _ in range(runs):
        sample = np.array([random.gauss(3.0, 2.0) for _ in range(200)])
        share = proportion(sum(random.random() < 0.05 for _ in range(400)) / 400, 400)
        held["share"] += share.interval[0] <= 0.05 <= share.interval[1]
        for name, estimate, truth in (("mean", mean(sample), 3.0), ("deviation", deviation(sample), 2.0)):
            held[name] += estimate.interval[0] <= truth <= estimate.interval[1]
    for name, count in held.items():
        assert 0.92 * runs <= count <= 0.98 * runs, name


def test_correlation_of_an_autoregression_is_found() -> None:
    random = Random(1)
    values = [0.0]
    for _ in range(5000):
        values.append(0.5 * values[-1] + random.gauss(0.0, 1.0))
    estimate = correlation(np.array(values))
    assert estimate.wide[0] <= 0.5 <= estimate.wide[1]
    assert estimate.wide[1] - estimate.wide[0] < 0.1


def normal_share(values: np.ndarray) -> np.ndarray:
    return np.array([0.5 + 0.5 * math.erf(value * math.sqrt(0.5)) for value in values])


@pytest.mark.parametrize(
    ("draw", "is_normal"),
    [
        pytest.param(lambda random: random.gauss(0.0, 1.0), True, id="normal"),
        # Of the same mean and deviation: only the shape differs.
        pytest.param(lambda random: random.uniform(-math.sqrt(3.0), math.sqrt(3.0)), False, id="uniform"),
    ],
)
def test_distance_tells_a_normal_from_a_uniform_distribution(
    draw: Callable[[Random], float], is_normal: bool
) -> None:
    random, size = Random(1), 6000
    sample = np.array([draw(random) for _ in range(size)])
    assert (distance(sample, normal_share) < KS_999 / math.sqrt(size)) == is_normal


def test_a_perfect_queue_drops_what_exceeds_its_limit() -> None:
    # 0.2 s hold 2 packets of 0.1 s besides the one that is being sent.
    assert rates.ideal_drops(np.zeros(10), 0.1) == 7
    assert rates.ideal_drops(np.arange(10) * 0.1, 0.1) == 0


def agrees(row: Row) -> bool:
    return row.is_ok


def test_rows_by_chance_agree_within_interval_and_tolerance() -> None:
    def row(expected: float) -> Row:
        estimate = proportion(0.05, 1000)
        return estimated("s", "f", "%", expected=expected, estimate=estimate, tolerance=0.5, scale=1e2)

    assert agrees(row(5.0))
    assert agrees(row(7.5))
    assert not agrees(row(9.0))
    assert not agrees(row(2.0))
    assert row(9.0).fault() == "s: f is 5 %, not 9 (tolerance 0.5)"


def test_other_rows_agree_within_their_tolerance_and_never_without_a_figure() -> None:
    def row(value: float) -> Row:
        return measured("s", "f", "ms", "timing", expected=1.0, value=value, tolerance=2.0)

    assert agrees(row(3.0))
    assert not agrees(row(3.1))
    assert not agrees(row(math.nan))
    assert agrees(at_least("s", "f", "Mbit/s", expected=100.0, value=101.0))
    assert not agrees(at_least("s", "f", "Mbit/s", expected=100.0, value=99.0))
