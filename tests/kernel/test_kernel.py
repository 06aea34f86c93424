"""The `kernel` backend on a kernel that has tc-netem, on an emulated machine. Takes two minutes.

The machine is ten times slower than this one and shares its processors: its packets are late by
milliseconds. What depends on time is therefore held to wide bounds; what happens by chance is not.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.guest import Finished, missing, run_all

LIMIT_S = 480.0  # 100 s on an idle machine with two processors

MEASURE = [str(Path(__file__).with_name("measure.py"))]
SURVIVE = ["-m", "netem", "survive", "--backend", "kernel", "--scenario", "bursty", "--json"]
SHORT = ["--seconds", "5", "--jobs", "1"]

Row = dict[str, float]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """Both programs, on one machine; skips where it cannot be booted, but not in CI."""
    lacks = missing()
    if lacks:
        reason = "no machine can be booted; it needs " + ", ".join(lacks)
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    share = tmp_path_factory.mktemp("kernel")
    return run_all({"measure": MEASURE, "survive": [*SURVIVE, *SHORT]}, share, limit_s=LIMIT_S)


@pytest.fixture(scope="module")
def measured(finished: dict[str, Finished]) -> dict[str, Any]:
    """What measure.py has printed."""
    measure = finished["measure"]
    assert measure.status == 0, str(measure)
    document: dict[str, Any] = json.loads(measure.stdout)
    return document


@pytest.fixture(scope="module")
def rows(measured: dict[str, Any]) -> dict[tuple[str, str], Row]:
    """Of the calibration, by setting and figure."""
    return {(row["setting"], row["figure"]): row for row in measured["rows"]}


BY_CHANCE = [
    ("loss 5 %", "lost"),
    ("Gilbert-Elliott, p 3 %, r 30 %", "lost"),
    ("Gilbert-Elliott, p 3 %, r 30 %", "mean burst"),
    ("corruption 5 %", "damaged"),
    ("ECN, loss 20 %", "marked"),
    ("ECN, loss 20 %", "lost"),
    ("ECN, not allowed by the packet", "lost"),
]


@pytest.mark.parametrize(("setting", "figure"), BY_CHANCE, ids=[" ".join(each) for each in BY_CHANCE])
def test_what_happens_by_chance_happens_as_often_as_set(
    rows: dict[tuple[str, str], Row], setting: str, figure: str
) -> None:
    assert rows[setting, figure]["ok"], rows[setting, figure]


def test_packets_are_delayed_as_set(rows: dict[tuple[str, str], Row]) -> None:
    for direction in ("up", "down"):
        assert rows[f"25 ms {direction}", "link's error, p50"]["measured"] < 10.0


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_jitter_has_its_shape(measured: dict[str, Any], distribution: str) -> None:
    # 8 ms too late on average add 0.04; the two shapes differ by 0.16.
    assert measured["jitter"][distribution] < measured["jitter"]["by_chance"] + 0.04


def test_reordered_packets_are_late_and_none_is_lost(rows: dict[tuple[str, str], Row]) -> None:
    assert rows["reordering 5 %, by 50 ms", "late by"]["ok"]
    assert rows["reordering 5 %, by 50 ms", "lost"]["measured"] == 0


def test_nothing_passes_in_an_outage(rows: dict[tuple[str, str], Row]) -> None:
    setting = "outage of 0.3 s"
    assert rows[setting, "begin, error"]["ok"]
    assert rows[setting, "end, error"]["ok"]
    assert rows[setting, "passed within"]["measured"] == 0


def test_a_held_outage_delivers_all_in_order_when_it_ends(measured: dict[str, Any]) -> None:
    assert measured["held"]["held"] > 20
    assert measured["held"]["too_early"] == 0
    assert measured["held"]["lost"] == 0
    assert measured["held"]["overtaken"] == 0


def test_bursts_come_where_the_seed_puts_them(measured: dict[str, Any]) -> None:
    # 44 % of the packets would differ if the two had nothing to do with each other.
    assert measured["bursts"] < 0.2


def test_rate_and_queue_are_as_set(rows: dict[tuple[str, str], Row]) -> None:
    rated = {key: row for key, row in rows.items() if "Mbit/s" in key[0]}
    assert len(rated) >= 9
    for (setting, figure), row in rated.items():
        # What was offered in bursts, late, finds a fuller queue than planned.
        assert row["ok"] or figure == "longest delay", (setting, row)


def test_no_namespace_is_left(measured: dict[str, Any]) -> None:
    assert measured["left"] == []


def test_an_answer_over_tc_netem_is_exact(finished: dict[str, Finished]) -> None:
    survived = finished["survive"]
    assert survived.status == 0, str(survived)
    document = json.loads(survived.stdout)
    assert document["faults"] == []
    assert document["backend"] == "kernel"
    (row,) = document["rows"]
    assert row["scenario"] == "bursty"
