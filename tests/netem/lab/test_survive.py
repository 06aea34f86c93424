"""The library's real server and client through the laboratory, byte by byte."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from netem import Impairment, Outage, Scenario, scenario
from netem.experiments.survive import command
from netem.link import LinkCounts
from netem.probe.stream import Shown, Written, answer_text
from netem.probe.survival import Survival, length_of, survive, survive_all

SEED = 1
SECONDS = 1.5


@pytest.mark.parametrize("name", ["bursty", "wifi-scan-hard", "congested"])
async def test_the_log_is_exact_over_a_bad_link(name: str) -> None:
    survival = await survive(scenario(name), seconds=SECONDS, seed=SEED)
    assert survival.fault() is None
    row = survival.row()
    assert row["tokens"] == len(survival.written.at)
    assert row["datagrams_per_token"] > 0.0
    assert survival.counts["down"].sent > 0


async def test_an_outage_longer_than_the_answer_ends_exact() -> None:
    path = Impairment(delay_s=0.010)
    cut = Scenario("cut", path, path, outages=(Outage(start_s=0.5, duration_s=2.5),))
    survival = await survive(cut, seconds=1.0, seed=SEED)
    assert survival.fault() is None
    assert survival.counts["down"].dropped_by_outage > 0
    # The answer was over before the link came back.
    assert survival.written.at[-1] < survival.begins_at + 3.0 < survival.shown.at[-1]
    assert survival.row()["stalls"] == 1


def test_two_laboratories_at_the_same_time_do_not_share_their_losses() -> None:
    path = Impairment(delay_s=0.010)
    paths = [
        Scenario("clear", path, path),
        Scenario("lossy", replace(path, loss=0.3), replace(path, loss=0.3)),
    ]
    backend, (clear, lossy) = survive_all(paths, seconds=SECONDS, seed=SEED, backend=None, jobs=2)
    assert backend == "user"
    assert isinstance(clear, Survival)
    assert isinstance(lossy, Survival)
    assert (clear.fault(), lossy.fault()) == (None, None)
    assert clear.row()["dropped_down"] == 0
    assert lossy.row()["dropped_down"] > 0


def survival(shown: list[float], written: list[float], *, fault: str | None = None) -> Survival:
    path = Impairment(delay_s=0.1)
    counts = LinkCounts(sent=8, sent_bytes=800, dropped_by_loss=1, dropped_by_queue=2, dropped_by_outage=3)
    return Survival(
        Scenario("test", path, path),
        SECONDS,
        begins_at=100.0,
        written=Written(1, written),
        shown=Shown(shown, fault),
        counts={"up": LinkCounts(), "down": counts},
    )


def test_a_row_has_stalls_and_extra_delays() -> None:
    row = survival([101.1, 101.2, 103.2, 103.2], [101.0, 101.1, 101.2, 102.9]).row()
    assert row["exact"] is True
    assert row["stalls"] == 1
    assert row["longest_stall_ms"] == pytest.approx(1900.0)
    assert row["stall_ratio"] == pytest.approx(1.9 / 2.1)
    assert row["p50_ms"] == pytest.approx(0.0, abs=1e-6)
    assert row["p99_ms"] == pytest.approx(1900.0)
    assert (row["datagrams_per_token"], row["bytes_per_token"]) == (2.0, 200.0)
    assert (row["dropped_down"], row["dropped_up"]) == (6, 0)


def test_what_is_not_exact_is_said() -> None:
    assert survival([], [], fault="cut off").row()["exact"] is False
    twice = survival([101.1], [101.0])
    twice.written.answers = 2
    assert twice.fault() == "the prompt ran 2 times"


def test_an_answer_lasts_until_all_has_happened_once() -> None:
    path = Impairment()
    assert length_of(Scenario("short", path, path)) == 8.0
    late = Outage(start_s=20.0, duration_s=10.0, period_s=100.0)
    assert length_of(Scenario("long", path, path, outages=(late,))) == 32.0


def test_the_text_follows_from_the_seed() -> None:
    assert answer_text(100, 1) == answer_text(100, 1) != answer_text(100, 2)


def test_the_command_prints_a_row_for_each_scenario() -> None:
    result = CliRunner().invoke(
        command, ["--scenario", "clean", "--scenario", "wifi", "--seconds", "1", "--json"]
    )
    document = json.loads(result.stdout)
    assert (result.exit_code, document["faults"]) == (0, []), result.stderr
    assert [(row["scenario"], row["exact"]) for row in document["rows"]] == [
        ("clean", True),
        ("wifi", True),
    ]


@pytest.mark.slow
def test_every_log_is_exact_over_every_scenario() -> None:
    result = CliRunner().invoke(command, ["--json"])
    assert (result.exit_code, json.loads(result.stdout)["faults"]) == (0, []), result.stderr
