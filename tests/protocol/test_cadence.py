"""When the next datagram with text goes: coalescing and gap fill."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.cadence import COALESCING, SLACK, Cadence, GapEstimator


def with_gaps(*gaps: float) -> GapEstimator:
    estimator, now = GapEstimator(), 10.0
    estimator.on_token(now=now)
    for gap in gaps:
        now += gap
        estimator.on_token(now=now)
    return estimator


def test_a_copy_waits_40_ms_while_little_is_known() -> None:
    # protocol 4: 40 ms before 5 gaps are known
    assert with_gaps().fill_delay == 0.04
    assert with_gaps(0.02, 0.02, 0.02, 0.02).fill_delay == 0.04
    assert with_gaps(0.02, 0.02, 0.02, 0.02, 0.02).fill_delay == pytest.approx(0.022)


def test_a_copy_waits_a_little_longer_than_the_next_token() -> None:
    # protocol 4: 1.1 x p95 of the last 64 token gaps: one slow token in 20 does not count
    gaps = [0.025] * 61 + [0.05] * 3
    random.Random(3).shuffle(gaps)
    assert with_gaps(*gaps, *gaps).fill_delay == pytest.approx(1.1 * 0.025)
    gaps = [0.025] * 59 + [0.05] * 5
    random.Random(3).shuffle(gaps)
    assert with_gaps(*gaps, *gaps).fill_delay == pytest.approx(1.1 * 0.05)


def test_only_the_last_64_gaps_count() -> None:
    assert with_gaps(*[0.05] * 64, *[0.02] * 72).fill_delay == pytest.approx(0.022)


def test_a_new_habit_is_noticed_within_8_tokens() -> None:
    fast = [0.012] * 64
    assert with_gaps(*fast, *[0.05] * 12).fill_delay == pytest.approx(0.055)


@pytest.mark.parametrize(("gap", "delay"), [(0.001, 0.01), (0.0, 0.01), (0.2, 0.06), (5.0, 0.06)])
def test_a_copy_waits_between_10_and_60_ms(gap: float, delay: float) -> None:
    # protocol 4: clamp(..., 10, 60 ms)
    assert with_gaps(*[gap] * 20).fill_delay == delay


def test_the_pause_between_two_answers_is_no_gap() -> None:
    estimator = with_gaps(*[0.02] * 5)
    estimator.restart()
    for step in range(6):
        estimator.on_token(now=1000 + step * 0.02)
    assert estimator.fill_delay == pytest.approx(0.022)


def test_the_first_token_goes_at_once() -> None:
    # protocol 4: first token: sent at once
    assert Cadence(GapEstimator()).new_bytes_at() <= 0


def test_tokens_within_20_ms_ride_together() -> None:
    cadence = Cadence(GapEstimator())
    cadence.on_new_bytes_sent(now=5.0)
    # protocol 4: tokens that come within 20 ms of the last datagram ride together
    assert COALESCING == 0.02
    assert cadence.new_bytes_at() == pytest.approx(5.02 - SLACK)


def test_at_most_one_datagram_per_10_ms() -> None:
    cadence = Cadence(GapEstimator(), coalescing=0.0)
    cadence.on_new_bytes_sent(now=5.0)
    # protocol 5: at most one datagram per 10 ms while the window fits one
    assert cadence.new_bytes_at() == pytest.approx(5.01)
    cadence.on_copy_sent(is_gap_fill=True, now=5.05)
    assert cadence.new_bytes_at() == pytest.approx(5.06)


def test_a_copy_does_not_make_new_tokens_wait_for_others() -> None:
    cadence = Cadence(GapEstimator(), coalescing=0.1)
    cadence.on_new_bytes_sent(now=5.0)
    cadence.on_copy_sent(is_gap_fill=True, now=5.06)
    assert cadence.new_bytes_at() == pytest.approx(5.1 - SLACK)


def test_two_copies_follow_the_newest_bytes() -> None:
    cadence = Cadence(GapEstimator())
    assert cadence.gap_fill_at is None
    cadence.on_new_bytes_sent(now=5.0)
    # protocol 4: two extra copies, each after ...
    assert cadence.gap_fill_at == pytest.approx(5.04)
    cadence.on_copy_sent(is_gap_fill=True, now=5.04)
    assert cadence.gap_fill_at == pytest.approx(5.08)
    cadence.on_copy_sent(is_gap_fill=True, now=5.08)
    assert cadence.gap_fill_at is None


def test_a_new_datagram_postpones_the_copy_and_brings_two_more() -> None:
    cadence = Cadence(GapEstimator())
    cadence.on_new_bytes_sent(now=5.0)
    cadence.on_copy_sent(is_gap_fill=True, now=5.04)
    cadence.on_new_bytes_sent(now=5.05)
    # protocol 4: cancelled by an ack or a new datagram
    assert cadence.gap_fill_at == pytest.approx(5.09)
    cadence.on_copy_sent(is_gap_fill=True, now=5.09)
    assert cadence.gap_fill_at == pytest.approx(5.13)


def test_a_probe_postpones_the_copy_but_does_not_replace_it() -> None:
    cadence = Cadence(GapEstimator())
    cadence.on_new_bytes_sent(now=5.0)
    cadence.on_copy_sent(is_gap_fill=False, now=5.02)
    assert cadence.gap_fill_at == pytest.approx(5.06)
    cadence.on_copy_sent(is_gap_fill=True, now=5.06)
    assert cadence.gap_fill_at == pytest.approx(5.1)


def test_an_acknowledgment_cancels_the_copies() -> None:
    cadence = Cadence(GapEstimator())
    cadence.on_new_bytes_sent(now=5.0)
    cadence.on_newest_acked()
    assert cadence.gap_fill_at is None
    cadence.on_copy_sent(is_gap_fill=False, now=5.02)
    assert cadence.gap_fill_at is None


def test_without_copies_there_is_no_gap_fill() -> None:
    cadence = Cadence(GapEstimator(), gap_fills=0)
    cadence.on_new_bytes_sent(now=5.0)
    assert cadence.gap_fill_at is None


def test_a_copy_never_comes_before_the_next_new_bytes_would() -> None:
    estimator = with_gaps(*[0.01] * 20)
    cadence = Cadence(estimator)
    cadence.on_new_bytes_sent(now=5.0)
    # protocol 4: max(coalescing, 1.1 x p95 ...)
    assert cadence.gap_fill_at == pytest.approx(5.02)
    cadence.interval = 0.2  # widened by the delay signal: still at most 60 ms
    cadence.on_new_bytes_sent(now=6.0)
    assert cadence.gap_fill_at == pytest.approx(6.06)


@given(st.lists(st.floats(0.0, 10.0), max_size=80))
def test_the_delay_is_always_between_its_bounds(gaps: list[float]) -> None:
    assert 0.01 <= with_gaps(*gaps).fill_delay <= 0.06
