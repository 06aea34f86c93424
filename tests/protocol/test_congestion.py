"""Safe for the network: the window in bytes, the delay signal, the circuit breaker."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.congestion import (
    BREAKER_PAUSE,
    HOLD,
    INITIAL_WINDOW,
    STANDING_SAMPLES,
    CircuitBreaker,
    CongestionWindow,
    DelaySignal,
)

TCP_1_PERCENT = 1.22 * 1200 / math.sqrt(0.01)
"""Bytes: the TCP-fair window at a loss event for every 100 packets."""


def with_losses(*intervals: int, rtt: float = 0.1) -> CongestionWindow:
    """A window after loss events that were this many packets apart."""
    congestion = CongestionWindow()
    for number, packets in enumerate(intervals):
        now = (number + 1) * 2 * rtt
        congestion.on_acked(0, packets - 1, now - rtt, was_limited=False)
        congestion.on_lost(1, now - rtt, now=now)
    return congestion


def test_the_initial_window() -> None:
    # protocol 5: initial 10 x 1200
    assert CongestionWindow().window == 12_000


def test_a_window_that_limits_doubles_in_a_round_trip() -> None:
    congestion = CongestionWindow()
    for _ in range(10):
        congestion.on_acked(1200, 1, 0.0, was_limited=True)
    assert congestion.window == 24_000


def test_no_growth_while_application_limited() -> None:
    congestion = CongestionWindow()
    congestion.on_acked(1200, 1, 0.0, was_limited=False)
    # protocol 5: no growth while application-limited
    assert congestion.window == INITIAL_WINDOW


def test_after_a_loss_growth_is_one_datagram_in_a_round_trip() -> None:
    congestion = CongestionWindow()
    congestion.on_lost(1, 0.0, now=0.1)
    before = congestion.window
    for _ in range(7):
        congestion.on_acked(1200, 1, 0.2, was_limited=True)
    assert before + 0.9 * 1200 < congestion.window <= before + 1200


def test_one_cut_for_all_losses_of_a_round_trip() -> None:
    congestion = CongestionWindow()
    congestion.on_lost(2, 0.05, now=0.1)
    # protocol 5: one cut to 0.7 per RTT with loss
    assert congestion.window == pytest.approx(0.7 * 12_000)
    congestion.on_lost(1, 0.1, now=0.15)
    assert congestion.window == pytest.approx(0.7 * 12_000)
    congestion.on_lost(1, 0.11, now=0.2)
    assert congestion.window == pytest.approx(0.49 * 12_000)


def test_after_a_cut_what_was_sent_before_does_not_raise_it() -> None:
    congestion = CongestionWindow()
    congestion.on_lost(1, 0.0, now=0.1)
    cut = congestion.window
    # RFC 9002 section 7.3.2
    congestion.on_acked(1200, 1, 0.1, was_limited=True)
    assert congestion.window == cut
    congestion.on_acked(1200, 1, 0.11, was_limited=True)
    assert congestion.window > cut


def test_the_loss_rate_counts_loss_events() -> None:
    assert CongestionWindow().loss_rate == 0.0
    assert with_losses(100).loss_rate == pytest.approx(0.01)
    assert with_losses(50, 150).loss_rate == pytest.approx(0.01)


def test_only_the_last_8_intervals_count() -> None:
    # protocol 5: p over the last 8 loss intervals
    assert with_losses(1000, *[20] * 8).loss_rate == pytest.approx(0.05)
    assert with_losses(1000, *[20] * 7).loss_rate < 0.01


def test_a_long_time_without_loss_lowers_the_rate_and_a_short_one_does_not_raise_it() -> None:
    congestion = with_losses(100, 100)
    congestion.on_acked(0, 50, 9.0, was_limited=False)
    assert congestion.loss_rate == pytest.approx(0.01)
    congestion.on_acked(0, 950, 9.0, was_limited=False)
    assert congestion.loss_rate == pytest.approx(3 / 1200)


def test_a_cut_stops_at_the_tcp_fair_window() -> None:
    congestion = with_losses(*[25] * 8)
    # protocol 5: never below max(2400, 1.22 x 1200 / sqrt(p))
    assert congestion.loss_rate == pytest.approx(0.04)
    assert congestion.window == pytest.approx(1.22 * 1200 / math.sqrt(0.04))


def test_the_floor_never_lifts_the_window() -> None:
    congestion = with_losses(*[1] * 8)
    low = congestion.window
    assert low == 2400
    congestion.on_acked(0, 10_000, 9.0, was_limited=False)
    congestion.on_lost(1, 9.0, now=10.0)
    # protocol 5: nor ever above its value before the cut
    assert congestion.floor > TCP_1_PERCENT > low
    assert congestion.window == low


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 40_000), st.booleans()), max_size=60))
def test_the_window_stays_between_its_bounds(steps: list[tuple[int, int, bool]]) -> None:
    congestion = CongestionWindow()
    for now, (packets, size, is_loss) in enumerate(steps):
        before, floor_before = congestion.window, congestion.floor
        if is_loss:
            congestion.on_lost(packets, now - 0.5, now=float(now))
            assert congestion.window <= before
            assert congestion.window >= min(before, 0.7 * before, floor_before)
            assert congestion.window == pytest.approx(max(0.7 * before, min(before, congestion.floor)))
        else:
            congestion.on_acked(size, packets, now - 0.5, was_limited=True)
            assert before <= congestion.window <= before + size
        assert congestion.window >= 2400
        assert 0 <= congestion.loss_rate <= 1


EMPTY, FULL = 0.05, 0.3
"""RTTs in seconds of a path without a queue and with one."""


def after(*samples: tuple[float, float], base: float = 0.02) -> DelaySignal:
    """The signal after RTTs as (time, RTT), each seen as often as a standing queue needs."""
    signal = DelaySignal(base)
    for at, rtt in samples:
        for repetition in range(STANDING_SAMPLES):
            signal.on_rtt(rtt, 0.1, now=at + repetition / 1000)
    return signal


def changes(signal: DelaySignal, rtt: float, *, start: float, seconds: float) -> list[tuple[float, float]]:
    """When the interval changed and to what, with a sample every 10 ms."""
    found = []
    for step in range(round(100 * seconds)):
        now, before = start + step / 100, signal.interval
        signal.on_rtt(rtt, 0.1, now=now)
        if signal.interval != before:
            found.append((now, signal.interval))
    return found


def is_spaced(found: list[tuple[float, float]], least: float) -> bool:
    return all(later[0] - sooner[0] >= least - 1e-9 for sooner, later in pairwise(found))


def test_a_queue_is_what_exceeds_the_minimum() -> None:
    assert after((0.0, 0.05), (1.0, 0.09)).queue_delay == pytest.approx(0.04)


def test_the_minimum_is_that_of_10_seconds() -> None:
    assert after((0.0, 0.05), (9.9, 0.09)).queue_delay == pytest.approx(0.04)
    # protocol 5: RTT sample minus the minimum over 10 s
    assert after((0.0, 0.05), (10.1, 0.09)).queue_delay == 0
    assert after((0.0, 0.05), (5.0, 0.07), (10.1, 0.09)).queue_delay == pytest.approx(0.02)


def test_jitter_is_no_queue() -> None:
    signal = after((0.0, EMPTY))
    for step in range(100):
        signal.on_rtt(EMPTY if step % 2 else FULL, 0.1, now=1 + step / 10)
    assert signal.queue_delay == 0
    assert signal.interval == 0.02


def test_up_to_100_ms_of_queue_change_nothing() -> None:
    assert after((0.0, 0.05), (1.0, 0.149)).interval == 0.02
    # protocol 5: while the queueing delay exceeds max(100 ms, half the minimum RTT)
    assert after((0.0, 0.05), (1.0, 0.151)).interval == 0.04
    assert after((0.0, 0.6), (1.0, 0.89)).interval == 0.02
    assert after((0.0, 0.6), (1.0, 0.91)).interval == 0.04


def test_the_interval_doubles_once_per_rtt_up_to_200_ms() -> None:
    found = changes(after((0.0, EMPTY)), FULL, start=1.0, seconds=5.0)
    # protocol 5: doubles, at most once per RTT and up to 200 ms
    assert [interval for _, interval in found] == [0.04, 0.08, 0.16, 0.2]
    assert is_spaced(found, EMPTY)


def test_the_interval_halves_when_the_queue_is_gone() -> None:
    signal = after((0.0, EMPTY), (1.0, FULL), (1.1, FULL), (1.2, FULL))
    assert signal.interval == 0.16
    # What is left of a queue keeps the interval as it is.
    assert changes(signal, EMPTY + 0.09, start=1.3, seconds=1.0) == []
    found = changes(signal, EMPTY, start=2.3, seconds=40.0)
    assert [interval for _, interval in found] == [0.08, 0.04, 0.02]
    assert is_spaced(found, 0.1)
    # An interval that made a queue is not tried again at once.
    assert found[-1][0] >= 1.0 + HOLD


def test_without_coalescing_the_interval_begins_at_10_ms() -> None:
    signal = after((0.0, EMPTY), (1.0, FULL), base=0.0)
    # protocol 5: the coalescing interval (at least 10 ms) doubles
    assert signal.interval == 0.02
    changes(signal, EMPTY, start=1.1, seconds=40.0)
    assert signal.interval < 0.01


def test_a_link_that_has_never_answered_counts_as_queued() -> None:
    signal = DelaySignal(0.02)
    signal.on_no_answer(0.29, 0.2, now=0.29)
    assert signal.interval == 0.02
    signal.on_no_answer(0.31, 0.2, now=0.31)
    assert signal.interval == 0.04


def test_the_first_answer_tells_whether_it_was_a_queue_or_a_loss() -> None:
    for first, interval in ((0.299, 0.02), (0.301, 0.04)):
        signal = DelaySignal(0.02)
        signal.on_no_answer(0.31, 0.2, now=0.31)
        # protocol 5: a first sample without a queue takes it back
        signal.on_rtt(first, first, now=0.5)
        assert signal.interval == interval


def test_what_the_path_has_held_is_no_queue() -> None:
    # Four times, everything sent in 250 ms is answered within 5 ms when a scan ends.
    signal = after((0.0, EMPTY), (0.1, EMPTY))
    for scan in range(4):
        begin = 1.0 + scan * 0.255
        for sent in range(10):
            sent_at = begin + sent * 0.025
            now = begin + 0.25 + EMPTY + sent * 0.0005
            signal.on_rtt(now - sent_at, 0.1, now=now)
            assert signal.interval == 0.02
    # protocol 5: a queue of our own lets datagrams out no faster than they went in
    for sent in range(10):
        sent_at = 3.0 + sent * 0.025
        signal.on_rtt(0.3 + sent * 0.01, 0.1, now=sent_at + 0.3 + sent * 0.01)
    assert signal.interval > 0.02


@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 2.0)), max_size=60),
    st.sampled_from([0.0, 0.02, 0.5]),
)
def test_the_interval_stays_between_its_bounds(steps: list[tuple[float, float]], base: float) -> None:
    signal, now = DelaySignal(base), 0.0
    seen: list[tuple[float, float]] = []
    for wait, rtt in steps:
        now += wait
        seen.append((now, rtt))
        before = signal.queue_delay
        signal.on_rtt(rtt, 0.1, now=now)
        minimum = min(sample for at, sample in seen if at >= now - 10)
        smallest = min(sample for _, sample in seen[-STANDING_SAMPLES:]) - minimum
        assert signal.queue_delay in (before, smallest)
        assert base <= signal.interval <= max(base, 0.2)


LIMIT_AT_1_PERCENT = 10 * TCP_1_PERCENT / 0.1
"""Bytes per second at 100 ms RTT: ten times the TCP rate."""


def opened_at(
    rate: float, *, seconds: int, congestion: CongestionWindow, start: float = 100.0
) -> float | None:
    """When a steady sender (bytes per second) at 100 ms RTT trips the breaker, from its start."""
    breaker = CircuitBreaker()
    for step in range(seconds * 100):
        now = start + step / 100
        if breaker.on_sent(int(rate / 100), 0.1, congestion, now=now):
            assert breaker.open_until == now + BREAKER_PAUSE
            return now - start
    assert breaker.open_until is None
    return None


def test_three_windows_above_ten_times_the_tcp_rate_open_the_breaker() -> None:
    congestion = with_losses(100)
    # protocol 5: bytes/s above 10x the TCP rate over three windows
    assert opened_at(1.05 * LIMIT_AT_1_PERCENT, seconds=5, congestion=congestion) == pytest.approx(
        3.0, abs=0.02
    )
    assert opened_at(0.95 * LIMIT_AT_1_PERCENT, seconds=20, congestion=congestion) is None


def test_without_loss_any_rate_is_fine() -> None:
    assert opened_at(1e9, seconds=10, congestion=CongestionWindow()) is None


def test_bad_windows_must_follow_one_another() -> None:
    breaker, congestion = CircuitBreaker(), with_losses(100)
    for second in range(30):
        rate = 0.1 if second % 3 == 2 else 2.0
        for step in range(100):
            now = second + step / 100
            assert not breaker.on_sent(int(rate * LIMIT_AT_1_PERCENT / 100), 0.1, congestion, now=now)


def test_a_pause_ends_a_row_of_bad_windows() -> None:
    breaker, congestion = CircuitBreaker(), with_losses(100)
    for burst in range(10):
        for step in range(250):
            now = burst * 60 + step / 100
            assert not breaker.on_sent(int(2 * LIMIT_AT_1_PERCENT / 100), 0.1, congestion, now=now)


def test_a_thin_stream_never_opens_the_breaker() -> None:
    # 40 datagrams of 250 bytes a second at 10 % loss and RTT 600 ms
    breaker, congestion = CircuitBreaker(), with_losses(*[10] * 8)
    assert not any(breaker.on_sent(250, 0.6, congestion, now=step / 40) for step in range(4000))
