"""The measures, against examples worked out by hand; properties that must hold for any answer."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from eloquent.pacer import LISTENING_RATE, READING_RATE, release_times
from eloquent.qoe import (
    Overhead,
    Stalls,
    Timeline,
    Traffic,
    andes_v1,
    andes_v2,
    delays,
    extra_delays,
    itl,
    overhead,
    percentiles,
    pooled,
    sensitivity,
    stalls,
    ttft,
)
from netem.conversation import Conversation, Turn
from netem.experiments.answer import AnswerPlan, converse, stall_times
from netem.figures import percentile
from netem.profiles import scenario

NEVER = math.nan


def timeline(generated: list[float], rendered: list[float], ended_at: float | None = None) -> Timeline:
    return Timeline.of(generated, rendered, asked_at=0.0, ended_at=ended_at)


# A token every 0.1 s, then a pause of the model of 1 s; one-way delay 0.05 s. Token 3 comes 0.5 s late
# and token 4 with it; token 5, after the pause, comes 0.1 s late.
GENERATED = [1.0, 1.1, 1.2, 1.3, 1.4, 2.4]
RENDERED = [1.05, 1.15, 1.25, 1.85, 1.85, 2.55]
EXAMPLE = timeline(GENERATED, RENDERED)


class TestTimeline:
    def test_records_may_come_in_any_order(self) -> None:
        records = [(1, 1.1, 1.3), (0, 1.0, 1.2)]
        made = Timeline.from_records(records, asked_at=0.5)
        assert made.generated_at.tolist() == [1.0, 1.1]
        assert made.rendered_at.tolist() == [1.2, 1.3]
        assert (made.asked_at, made.ended_at, made.missing) == (0.5, 1.3, 0)

    @pytest.mark.parametrize("indices", [(0, 2), (0, 0), (1, 2)], ids=["hole", "twice", "late-start"])
    def test_each_token_has_one_record(self, indices: tuple[int, int]) -> None:
        with pytest.raises(ConfigurationError, match="one record"):
            Timeline.from_records([(index, 1.0, 1.0) for index in indices], asked_at=0.0)

    @pytest.mark.parametrize(
        ("generated", "rendered", "options", "message"),
        [
            ([], [], {}, "at least one"),
            ([[1.0]], [[1.0]], {}, "a row"),
            ([1.0], [1.0, 2.0], {}, "1 tokens were generated, 2 have"),
            ([NEVER], [1.0], {}, "finite"),
            ([1.0], [math.inf], {}, "finite"),
            ([1.0, 0.9], [1.0, 1.0], {}, "must not decrease"),
            ([1.0, 1.0, 1.0], [2.0, NEVER, 1.9], {"ended_at": 9.0}, "must not decrease"),
            ([1.0, 2.0], [1.0, 1.9], {}, "token 1 was rendered before it was generated"),
            ([1.0], [1.0], {"asked_at": 1.1}, "after the first token"),
            ([1.0, 1.0], [1.0, NEVER], {}, "token 1 was never rendered: ended_at"),
            ([1.0, 3.0], [1.0, NEVER], {"ended_at": 2.0}, "at or after the last token"),
            ([1.0, 1.0], [5.0, NEVER], {"ended_at": 4.0}, "at or after the last token"),
            ([1.0], [NEVER], {"ended_at": math.inf}, "at or after the last token"),
        ],
        ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
    )
    def test_times_that_cannot_be_are_refused(
        self, generated: list[float], rendered: list[float], options: dict[str, float], message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=message):
            Timeline.of(generated, rendered, **{"asked_at": 0.0, **options})

    def test_it_keeps_a_copy_that_cannot_change(self) -> None:
        times = np.array([1.0, 2.0])
        made = Timeline.of(times, times, asked_at=0.0)
        times[0] = 9.0
        assert made.rendered_at[0] == 1.0
        with pytest.raises(ValueError, match="read-only"):
            made.rendered_at[0] = 9.0


class TestTimes:
    def test_ttft_and_gaps_on_the_screen(self) -> None:
        assert ttft(EXAMPLE) == pytest.approx(1.05)
        # Tokens 3 and 4 are one rendering: a gap of 0.
        assert itl(EXAMPLE) == pytest.approx([0.1, 0.1, 0.6, 0.0, 0.7])

    def test_extra_delay_is_what_exceeds_the_path(self) -> None:
        assert delays(EXAMPLE) == pytest.approx([0.05, 0.05, 0.05, 0.55, 0.45, 0.15])
        assert extra_delays(EXAMPLE, 0.05) == pytest.approx([0.0, 0.0, 0.0, 0.5, 0.4, 0.1])
        assert extra_delays(EXAMPLE, delays(EXAMPLE)) == pytest.approx([0.0] * 6)

    def test_what_never_came_took_for_ever(self) -> None:
        holed = timeline([1.0, 2.0, 3.0], [1.5, NEVER, 3.5], ended_at=4.0)
        assert delays(holed).tolist() == [0.5, math.inf, 0.5]
        assert percentiles(delays(holed), [0.5, 0.99]) == [0.5, math.inf]
        assert itl(holed) == pytest.approx([2.0])
        assert ttft(timeline([1.0], [NEVER], ended_at=4.0)) == math.inf

    def test_percentiles_are_nearest_ranks(self) -> None:
        # Ranks of 1..10: ceil(5) = 5, ceil(9.5) = 10, ceil(9.9) = 10, ceil(9.99) = 10.
        assert percentiles(range(10, 0, -1)) == [5.0, 10.0, 10.0, 10.0]
        assert percentiles([7.0]) == [7.0] * 4
        assert all(math.isnan(value) for value in percentiles([]))

    @given(st.lists(st.floats(-1e3, 1e3), max_size=50), st.floats(0.0, 1.0))
    def test_percentiles_are_those_of_the_other_commands(self, values: list[float], share: float) -> None:
        assert percentiles(values, [share]) == pytest.approx([percentile(sorted(values), share)], nan_ok=True)


class TestStalls:
    def test_by_hand(self) -> None:
        found = stalls(EXAMPLE)
        # The model's own gaps: 0.1, 0.1, 0.1, 0.1, 1.0. Excesses: 0, 0, 0.5, -0.1, -0.3. One stall of 0.5.
        # Rendering takes 2.55 - 1.05 = 1.5.
        assert (found.count, found.gaps) == (1, 5)
        assert found.lost_s == pytest.approx(0.5)
        assert found.longest_s == pytest.approx(0.5)
        assert found.beyond_s == pytest.approx(0.3)
        assert found.whole_s == pytest.approx(0.6)
        assert found.rendering_s == pytest.approx(1.5)
        assert found.ratio == pytest.approx(1 / 3)
        assert found.beyond_ratio == pytest.approx(0.2)
        assert found.whole_ratio == pytest.approx(0.4)
        assert found.share == pytest.approx(0.2)

    def test_a_pause_of_the_model_is_no_stall(self) -> None:
        found = stalls(timeline([1.0, 9.0], [1.1, 9.25]))
        assert (found.count, found.lost_s, found.rendering_s) == (0, 0.0, pytest.approx(8.15))

    def test_one_rendering_has_no_stall(self) -> None:
        assert stalls(timeline([1.0, 1.5], [9.0, 9.0])).ratio == 0.0
        assert stalls(timeline([1.0], [9.0])) == Stalls(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)

    def test_a_missing_end_stalls_until_the_run_is_given_up(self) -> None:
        # Shown until 1.2; token 2 was made 0.1 s after token 1, so of 3.0 s until 4.2 the stall has 2.9.
        found = stalls(timeline([1.0, 1.1, 1.2, 1.3], [1.1, 1.2, NEVER, NEVER], ended_at=4.2))
        assert (found.count, found.gaps) == (1, 2)
        assert found.lost_s == pytest.approx(2.9)
        assert found.rendering_s == pytest.approx(3.1)

    def test_an_answer_of_which_nothing_came_is_one_stall(self) -> None:
        found = stalls(timeline([1.0, 1.1], [NEVER, NEVER], ended_at=4.0))
        assert (found.count, found.lost_s, found.ratio) == (1, 3.0, 1.0)

    def test_across_a_hole_the_models_time_for_it_counts(self) -> None:
        # From token 0 to token 2 the model took 2.0 itself, the screen 2.5.
        found = stalls(timeline([1.0, 2.0, 3.0], [1.0, NEVER, 3.5], ended_at=3.5))
        assert (found.count, found.lost_s) == (1, pytest.approx(0.5))

    def test_what_a_pacer_makes_is_no_stall(self) -> None:
        generated = [1.0 + 0.025 * n for n in range(20)]
        shown = release_times(generated, rate=LISTENING_RATE)
        assert stalls(timeline(generated, shown)).count == 19
        assert stalls(timeline(generated, shown), pace_s=1 / LISTENING_RATE).count == 0

    def test_pooled_answers_weigh_by_their_length(self) -> None:
        still = stalls(timeline([1.0, 1.0], [1.0, 2.0]))
        smooth = stalls(timeline([1.0, 4.0], [1.0, 4.0]))
        together = pooled([still, smooth])
        # 1 s lost of 1 s, and 0 of 3 s.
        assert (together.ratio, together.count, together.gaps, together.longest_s) == (0.25, 1, 2, 1.0)
        assert pooled([]).ratio == 0.0

    def test_sensitivity_to_the_threshold(self) -> None:
        # Excesses of 0.1, 0.3 and 0.5 in 0.9 s of rendering.
        run = timeline([0.0] * 4, [0.0, 0.1, 0.4, 0.9])
        assert sensitivity([run], [0.05, 0.2, 0.45, 0.55]) == pytest.approx([1.0, 0.8 / 0.9, 0.5 / 0.9, 0.0])

    @pytest.mark.parametrize("seed", range(3))
    def test_the_headline_is_the_one_of_the_other_commands(self, seed: int) -> None:
        plan = AnswerPlan(scenario("lte-walk"), tokens=200, rate=40.0, jitter=0.3, has_pauses=True)
        turn = converse(plan, Conversation(plan.scenario, seed=seed))
        found = stalls(of_turn(turn))
        assert (found.lost_s, found.rendering_s) == pytest.approx(stall_times(turn))
        assert found.rendering_s > 5.0


def of_turn(turn: Turn) -> Timeline:
    return timeline([at for at, _ in turn.written_at], turn.rendered_at())


def test_overhead_is_by_tokens() -> None:
    assert overhead(4, down=Traffic(5, 600), up=Traffic(2, 100)) == Overhead(1.25, 150.0, 0.5, 25.0)
    with pytest.raises(ConfigurationError, match="not 0"):
        overhead(0, down=Traffic(0, 0), up=Traffic(0, 0))


class TestAndes:
    """Reader: 2 tokens per second, the first after 1 s. Ideal: D = 1, 1.5, 2, 2.5; read until 3."""

    @staticmethod
    def both(rendered: list[float], ended_at: float | None = None) -> tuple[float, float]:
        answer = Timeline.of([0.0] * len(rendered), rendered, asked_at=0.0, ended_at=ended_at)
        return tuple(qoe(answer, rate=2.0, ttft_s=1.0) for qoe in (andes_v1, andes_v2))  # type: ignore[return-value]

    def test_as_expected_is_perfect(self) -> None:
        assert self.both([1.0, 1.5, 2.0, 2.5]) == pytest.approx((1.0, 1.0))

    def test_faster_than_the_reader_is_no_better(self) -> None:
        assert self.both([1.0, 1.0, 1.0, 1.0]) == pytest.approx((1.0, 1.0))
        assert self.both([0.0, 0.0, 0.0, 0.0]) == (1.0, 1.0)

    def test_a_late_first_token(self) -> None:
        # All at 2: D = 2, 2.5, 3, 3.5, read until 4.
        # v1: under each token end - D - 0.25: 1.75 + 1.25 + 0.75 + 0.25 = 4. Expected, also until 4:
        #     2.75 + 2.25 + 1.75 + 1.25 = 8.
        # v2: delays of 1 each, 4 in all; sum of D is 11.
        assert self.both([2.0, 2.0, 2.0, 2.0]) == pytest.approx((4 / 8, 1 - 4 / 11))

    def test_a_stall_that_is_longer_than_what_was_kept(self) -> None:
        # Tokens 0 and 1 at 1, 2 and 3 at 3: D = 1, 1.5, 3, 3.5, read until 4.
        # v1: 2.75 + 2.25 + 0.75 + 0.25 = 6 of 8. v2: delays 0, 0, 1, 1; sum of D is 9.
        assert self.both([1.0, 1.0, 3.0, 3.0]) == pytest.approx((6 / 8, 1 - 2 / 9))

    def test_a_stall_while_there_is_text_to_read_is_not_noticed(self) -> None:
        # After tokens 0 to 2 at 1 the reader is busy until 2.5.
        assert self.both([1.0, 1.0, 1.0, 2.5]) == pytest.approx((1.0, 1.0))

    def test_what_was_earned_early_is_spent_later(self) -> None:
        # D = 0.5, 1, 2.5, 3, read until 3.5: v1 2.75 + 2.25 + 0.75 + 0.25 = 6, expected until 3.5:
        # 2.25 + 1.75 + 1.25 + 0.75 = 6. v2: 0.5 and 0.5 early, 0.5 and 0.5 late.
        assert self.both([0.5, 0.5, 2.5, 2.5]) == pytest.approx((1.0, 1.0))

    def test_missing_tokens_count_as_shown_at_the_end(self) -> None:
        # A hole and a missing end: tokens in the order 1.0, 1.5, then two at 4: D = 1, 1.5, 4, 4.5, until 5.
        # v1: 3.75 + 3.25 + 0.75 + 0.25 = 8; expected: 3.75 + 3.25 + 2.75 + 2.25 = 12.
        # v2: delays 2 and 2; sum of D is 11.
        assert self.both([1.0, NEVER, 1.5, NEVER], ended_at=4.0) == pytest.approx((8 / 12, 1 - 4 / 11))

    def test_the_first_form_can_gain_by_a_later_end_and_the_second_cannot(self) -> None:
        v1, v2 = self.both([9.0] * 4)
        later_v1, later_v2 = self.both([9.0] * 3 + [99.0])
        assert later_v1 > v1
        assert later_v2 < v2

    def test_defaults(self) -> None:
        ideal = [1.0 + n / READING_RATE for n in range(50)]
        reading = Timeline.of(ideal, ideal, asked_at=0.0)
        assert andes_v1(reading) == pytest.approx(1.0)
        assert andes_v2(reading) == pytest.approx(1.0)
        # For one who reads faster than that it comes too slowly.
        assert andes_v2(reading, rate=10.0) < 0.7

    @pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": math.inf}, {"ttft_s": -1.0}], ids=str)
    def test_readers_who_cannot_be_are_refused(self, options: dict[str, float]) -> None:
        for qoe in (andes_v1, andes_v2):
            with pytest.raises(ConfigurationError, match="rate must be"):
                qoe(EXAMPLE, **options)


# Milliseconds: sums of them are exact enough to compare.
gap_lists = st.lists(st.integers(0, 1500), min_size=1, max_size=30)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Generated and rendered times: each token waits for the ones before it."""
    generated = np.cumsum(draw(gap_lists)) / 1e3
    waits = draw(st.lists(st.integers(0, 3000), min_size=len(generated), max_size=len(generated)))
    return generated.tolist(), np.maximum.accumulate(generated + np.array(waits) / 1e3).tolist()


def qoes(answer: Timeline) -> tuple[float, float]:
    return andes_v1(answer), andes_v2(answer)


class TestProperties:
    @given(answers(), st.data())
    def test_everything_is_a_share(
        self, answer: tuple[list[float], list[float]], data: st.DataObject
    ) -> None:
        generated, rendered = answer
        is_lost = data.draw(st.lists(st.booleans(), min_size=len(rendered), max_size=len(rendered)))
        rendered = [NEVER if lost else at for at, lost in zip(rendered, is_lost, strict=True)]
        run = timeline(generated, rendered, ended_at=60.0)
        found = stalls(run)
        shares = (found.ratio, found.beyond_ratio, found.whole_ratio, found.share, *qoes(run))
        assert all(0.0 <= share <= 1.0 for share in shares)
        assert found.beyond_s <= found.lost_s <= found.whole_s <= found.rendering_s + 1e-9
        assert found.longest_s <= found.lost_s + 1e-9

    @given(answers(), st.floats(0.0, 1e5))
    def test_the_clocks_zero_does_not_matter(
        self, answer: tuple[list[float], list[float]], shift: float
    ) -> None:
        generated, rendered = (np.array(times) for times in answer)
        run = Timeline.of(generated, rendered, asked_at=0.0)
        # Off any sum of milliseconds, which rounding could move across the threshold.
        threshold = 0.20005
        moved = Timeline.of(generated + shift, rendered + shift, asked_at=shift)
        assert qoes(moved) == pytest.approx(qoes(run), abs=1e-6)
        lost = [stalls(answer, threshold_s=threshold).lost_s for answer in (run, moved)]
        assert lost[1] == pytest.approx(lost[0], abs=1e-6)
        assert ttft(moved) == pytest.approx(ttft(run), abs=1e-6)

    @given(gap_lists, st.floats(0.0, 2.0))
    def test_a_path_of_constant_delay_does_not_stall(self, gaps: list[int], delay: float) -> None:
        generated = np.cumsum(gaps) / 1e3
        found = stalls(Timeline.of(generated, generated + delay, asked_at=0.0))
        assert (found.count, found.ratio) == (0, 0.0)

    @given(answers(), st.data(), st.integers(0, 5000))
    def test_a_freeze_loses_time_and_never_raises_the_qoe(
        self, answer: tuple[list[float], list[float]], data: st.DataObject, more_ms: int
    ) -> None:
        generated, rendered = answer
        frozen_at = data.draw(st.integers(0, len(rendered) - 1))
        frozen = rendered[:frozen_at] + [at + more_ms / 1e3 for at in rendered[frozen_at:]]
        before, after = timeline(generated, rendered), timeline(generated, frozen)
        assert stalls(after).lost_s >= stalls(before).lost_s - 1e-9
        assert andes_v2(after) <= andes_v2(before) + 1e-9

    @given(answers(), st.data())
    def test_delaying_any_token_never_raises_the_second_qoe(
        self, answer: tuple[list[float], list[float]], data: st.DataObject
    ) -> None:
        generated, rendered = answer
        index = data.draw(st.integers(0, len(rendered) - 1))
        later = rendered[index] + data.draw(st.integers(0, 3000)) / 1e3
        delayed = rendered[:index] + [max(at, later) for at in rendered[index:]]
        assert andes_v2(timeline(generated, delayed)) <= andes_v2(timeline(generated, rendered)) + 1e-9

    @given(answers(), st.integers(0, 3000))
    def test_delaying_all_tokens_never_raises_the_first_qoe(
        self, answer: tuple[list[float], list[float]], more_ms: int
    ) -> None:
        generated, rendered = answer
        delayed = [at + more_ms / 1e3 for at in rendered]
        assert andes_v1(timeline(generated, delayed)) <= andes_v1(timeline(generated, rendered)) + 1e-9

    @given(answers(), st.sampled_from([1.0, LISTENING_RATE, READING_RATE, 40.0]))
    def test_a_pacer_costs_a_reader_of_its_pace_nothing(
        self, answer: tuple[list[float], list[float]], rate: float
    ) -> None:
        generated, rendered = answer
        shown = timeline(generated, release_times(rendered, rate=rate))
        for qoe in (andes_v1, andes_v2):
            assert qoe(shown, rate=rate) == pytest.approx(qoe(timeline(generated, rendered), rate=rate))


def test_without_numpy_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['numpy'] = None; import eloquent.qoe"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "eloquent.qoe needs numpy: pip install 'eloquent-stream[lab]'" in result.stderr


PAGE = Path(__file__).parents[1] / "docs" / "reference" / "qoe.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the pages are not beside the installed package")
def test_the_pages_example_says_what_it_prints() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (printed,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == printed
