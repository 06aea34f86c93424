import json
import math
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner, Result

from netem.__main__ import main
from netem.conversation import FIRST_START, Conversation, Turn
from netem.experiments.answer import PROMPT, AnswerPlan, converse, run_answer, stall_times
from netem.experiments.exact import plans_for
from netem.experiments.jobs import run_jobs
from netem.experiments.outages import OutagePlan, run_outage
from netem.experiments.slow import QueueWatch
from netem.experiments.upload import UploadPlan, run_upload
from netem.figures import Report, delay_figures, percentile
from netem.impairment import Impairment
from netem.link import Fate
from netem.profiles import scenario
from netem.scenario import Outage, Scenario

CLEAN = scenario("clean")

STABLE_KEYS = {
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "p9999_ms",
    "datagrams_per_token",
    "bytes_per_token",
    "ack_bytes_per_token",
    "padded_bytes_per_token",
    "stall_ratio",
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--workers", "1"], catch_exceptions=False)


def figures(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


class TestPercentile:
    @pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.51, 3), (0.75, 3), (0.99, 4), (1.0, 4)])
    def test_is_the_nearest_rank(self, share: float, expected: int) -> None:
        assert percentile([1, 2, 3, 4], share) == expected

    def test_of_nothing_is_not_a_number(self) -> None:
        assert math.isnan(percentile([], 0.5))

    def test_delays_need_no_order_and_become_milliseconds(self) -> None:
        assert delay_figures([0.002, 0.001])["p99_ms"] == pytest.approx(2)


class TestReport:
    def test_what_does_not_exist_is_null_in_json(self) -> None:
        report = Report("name", {"seeds": 1}, figures={"p50_ms": math.nan})
        assert json.loads(report.to_json()) == {"command": "name", "seeds": 1, "p50_ms": None, "faults": []}

    def test_table_has_a_line_for_each_row_below_the_heading(self) -> None:
        report = Report(
            "name", {"seeds": 1}, rows=[{"rate": 100, "p50_ms": 1.25}, {"rate": 5, "p50_ms": 123.4}]
        )
        assert report.to_text().splitlines() == [
            "name: seeds 1",
            "",
            "rate  p50_ms",
            " 100    1.25",
            "   5     123",
        ]

    def test_a_fault_makes_the_exit_status_1(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            Report("name", {}, figures={"p50_ms": 1.0}, faults=["seed 3: lost"]).finish(as_json=False)
        assert caught.value.code == 1
        assert "seed 3: lost" in capsys.readouterr().err


def turn_with(written: list[float], rendered: list[tuple[float, int]]) -> Turn:
    """A turn with one-byte tokens."""
    return Turn(b"", bytes(len(written)), 0.0, [(at, n + 1) for n, at in enumerate(written)], rendered)


class TestDelays:
    def test_a_step_that_renders_several_tokens_counts_for_each(self) -> None:
        turn = turn_with([1.0, 1.1, 1.2], [(1.5, 2), (1.6, 3)])
        assert turn.delays() == pytest.approx([0.5, 0.4, 0.4])

    def test_tokens_that_never_came_are_left_out_and_are_a_fault(self) -> None:
        turn = turn_with([1.0, 1.1], [(1.5, 1)])
        turn.prompt_whole_at, turn.times_answered, turn.received = 1.0, 1, bytearray(1)
        assert turn.delays() == pytest.approx([0.5])
        assert turn.fault() == "1 bytes of the answer came, 2 were sent"


class TestStalls:
    def test_a_pause_of_the_model_is_no_stall(self) -> None:
        turn = turn_with([1.0, 2.0, 2.1], [(1.1, 1), (2.25, 2), (2.35, 3)])
        assert stall_times(turn) == pytest.approx((0.0, 1.25))

    def test_lost_time_is_what_the_model_did_not_pause(self) -> None:
        turn = turn_with([1.0, 1.5, 1.6], [(1.0, 1), (3.0, 3)])
        assert stall_times(turn) == pytest.approx((1.5, 2.0))


class TestConversation:
    def test_over_a_clean_path_every_token_takes_the_one_way_delay(self) -> None:
        record = run_answer(AnswerPlan(CLEAN, tokens=40, rate=40.0), 0)
        assert record.faults == []
        assert record.extra_delays == pytest.approx([0.0] * 40)

    def test_same_seed_same_run(self) -> None:
        plan = AnswerPlan(scenario("bursty"), tokens=60, rate=40.0, jitter=0.3, has_pauses=True)
        assert run_answer(plan, 7) == run_answer(plan, 7)
        assert run_answer(plan, 7) != run_answer(plan, 8)

    def test_bytes_of_the_links_are_those_of_the_senders(self) -> None:
        plan = AnswerPlan(scenario("bursty"), tokens=60, rate=40.0)
        conversation = Conversation(plan.scenario, seed=1)
        converse(plan, conversation)
        for direction, traffic in conversation.traffic.items():
            counters = [connection.counters for connection in conversation.senders(direction)]
            assert traffic.datagrams == sum(each.datagrams_sent for each in counters)
            assert traffic.bytes == sum(each.bytes_sent + 28 * each.datagrams_sent for each in counters)

    def test_a_server_that_is_never_reached_is_a_fault(self) -> None:
        conversation = Conversation(CLEAN.with_outages(Outage(0.0, 1000.0)), seed=0)
        conversation.ask_at(FIRST_START, PROMPT, [b"\xa3yes"], [0.0])
        conversation.run(until=5.0)
        assert conversation.faults() == [
            f"stream 0: 0 bytes of the prompt came, {len(PROMPT)} were sent",
            "not over at 5.0 s",
        ]

    def test_bytes_that_changed_are_a_fault(self) -> None:
        plan = AnswerPlan(CLEAN, tokens=5, rate=40.0)
        conversation = Conversation(plan.scenario, seed=0)
        turn = converse(plan, conversation)
        assert conversation.faults() == []
        turn.received[0] ^= 1
        assert len(conversation.faults()) == 1

    def test_settles_until_nothing_is_under_way(self) -> None:
        plan = AnswerPlan(scenario("cellular"), tokens=5, rate=40.0)
        conversation = Conversation(plan.scenario, seed=0)
        converse(plan, conversation)
        assert conversation.settle(until=60.0)
        assert conversation.in_flight == 0


class TestSimulate:
    def test_json_has_the_stable_keys(self) -> None:
        found = figures("simulate", "--rtt", "0.2", "--seeds", "2", "--tokens", "60")
        assert found.keys() >= STABLE_KEYS
        assert found["rtt_s"] == 0.2
        assert found["faults"] == []

    def test_redundancy_beats_retransmission_where_datagrams_are_lost(self) -> None:
        options = ("simulate", "--rtt", "0.2", "--seeds", "5", "--no-pauses")
        ours = figures(*options)
        theirs = figures(*options, "--policy", "retransmission")
        assert ours["p99_ms"] < theirs["p99_ms"] / 2
        assert ours["bytes_per_token"] > theirs["bytes_per_token"]

    def test_padding_costs_bytes_and_nothing_else(self) -> None:
        options = ("simulate", "--scenario", "clean", "--seeds", "2", "--tokens", "60")
        padded, bare = figures(*options), figures(*options, "--padding", "0")
        assert padded["bytes_per_token"] == bare["bytes_per_token"] == bare["padded_bytes_per_token"]
        assert padded["padded_bytes_per_token"] > padded["bytes_per_token"]

    def test_table_names_figures_and_conditions(self) -> None:
        result = run("simulate", "--seeds", "1", "--tokens", "20")
        assert result.exit_code == 0
        assert "scenario bursty" in result.stdout
        assert "datagrams_per_token" in result.stdout
        assert "simulating" in result.stderr

    def test_unknown_scenario_is_refused_with_the_names(self) -> None:
        result = run("simulate", "--scenario", "nowhere")
        assert result.exit_code == 2
        assert "bursty" in result.stderr


def test_figures_do_not_depend_on_the_number_of_workers() -> None:
    plan = AnswerPlan(scenario("bursty"), tokens=20, rate=40.0)
    task = partial(run_answer, plan)
    assert run_jobs(task, range(4), workers=2) == run_jobs(task, range(4), workers=1)


class TestOutages:
    @pytest.mark.parametrize("case", ["flowing", "pause"])
    @pytest.mark.parametrize("outage_s", [0.25, 12.0, 60.0])
    def test_the_answer_survives_and_is_never_faster_than_light(self, case: Any, outage_s: float) -> None:
        record = run_outage(OutagePlan(case, rtt_s=0.06, outage_s=outage_s, seed=1))
        assert record.faults == []
        assert record.silence_s is not None
        assert record.silence_s >= 0.03

    def test_command_gives_a_row_for_each_cell(self) -> None:
        rows = figures("outages", "--seeds", "1")["rows"]
        assert len(rows) == 2 * 6 * 4
        assert all(row["exact"] == row["answers"] == 1 for row in rows)


class TestUpload:
    def test_a_prompt_of_many_datagrams_arrives_with_both_senders(self) -> None:
        record = run_upload(UploadPlan(size=100_000, loss=0.02, rtt_s=0.1), 0)
        assert record.faults == []
        # No protocol can do it in less than one way.
        assert min(record.eloquent_s, record.retransmission_s) > 0.05

    def test_command_compares_them(self) -> None:
        found = figures("upload", "--size", "50000", "--seeds", "2")
        assert found["ratio_p50"] > 0
        assert found["eloquent_p50_s"] <= found["eloquent_p95_s"]


def test_rates_gives_a_row_for_each_rate() -> None:
    rows = figures("rates", "--seeds", "1")["rows"]
    assert [row["rate"] for row in rows] == [100, 200, 400, 800]
    assert all(row.keys() >= STABLE_KEYS for row in rows)


class TestSlow:
    def test_a_datagram_waits_for_the_one_before(self) -> None:
        watch = QueueWatch(rate_bps=8000)
        # 72 bytes with 28 of headers are 100 ms at 1000 bytes per second.
        for at, fate in [(0.0, Fate.DELIVERED), (0.02, Fate.DELIVERED), (0.04, Fate.QUEUE), (1.0, Fate.LOSS)]:
            watch.on_datagram("down", "server", "client", bytes(72), at, fate)
        watch.on_datagram("up", "client", "server", bytes(72), 1.0, Fate.DELIVERED)
        assert watch.waits == pytest.approx([0.0, 0.08, 0.0])
        assert watch.dropped == 1

    def test_waits_agree_with_the_link(self) -> None:
        path = Impairment(rate_bps=64_000, queue_s=2.0)
        watch = QueueWatch(64_000)
        plan = AnswerPlan(Scenario("slow", path, path), tokens=80, rate=40.0)
        conversation = Conversation(plan.scenario, seed=0, on_datagram=watch.on_datagram)
        converse(plan, conversation)
        counts = conversation.client.down.counts
        assert len(watch.waits) == counts.delivered
        assert watch.dropped == counts.dropped_by_queue

    def test_command_gives_a_row_for_each_link(self) -> None:
        rows = figures("slow", "--seeds", "1")["rows"]
        assert [row["kbps"] for row in rows] == [32, 64]
        assert all(row["queue_p50_ms"] <= row["queue_p95_ms"] <= row["queue_p99_ms"] for row in rows)


class TestExact:
    def test_plans_spread_the_streams_over_the_profiles(self) -> None:
        plans = plans_for(100, ("wifi", "bursty"))
        assert sum(plan.streams for plan in plans) >= 100
        assert {plan.profile for plan in plans} == {"wifi", "bursty"}
        assert len(set(plans)) == len(plans)

    def test_command_counts_streams_by_profile(self) -> None:
        found = figures("exact", "--streams", "8", "--profile", "wifi", "--profile", "cellular")
        assert [row["profile"] for row in found["rows"]] == ["wifi", "cellular"]
        assert found["streams"] == 8
        assert all(row["not_exact"] == 0 for row in found["rows"])
