"""RTT, loss by packet number, and what is in flight."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.congestion import INITIAL_WINDOW
from eloquent.protocol.recovery import (
    INITIAL_RTT,
    MAX_ACK_DELAY,
    MIN_PTO,
    AckOutcome,
    Recovery,
    RttEstimator,
    SentPacket,
)
from eloquent.protocol.wire import ACK_BITMAP_WIDTH, Ack


def packet(number: int, sent_at: float, size: int = 100) -> SentPacket:
    return SentPacket(number, sent_at, size, [], [])


def with_packets(*sent_at: float) -> Recovery:
    recovery = Recovery()
    for number, at in enumerate(sent_at):
        recovery.on_sent(packet(number, at))
    return recovery


def ack_of(received: set[int], *, largest: int | None = None, delay_us: int = 0) -> Ack:
    """The acknowledgment that a peer with these packets sends."""
    largest = max(received) if largest is None else largest
    missing = sum(
        1 << bit for bit in range(min(ACK_BITMAP_WIDTH, largest)) if largest - 1 - bit not in received
    )
    return Ack(largest, delay_us, missing, [])


def numbers(packets: list[SentPacket]) -> list[int]:
    return [packet.packet_number for packet in packets]


def told(recovery: Recovery, received: set[int], *, now: float, was_limited: bool = False) -> AckOutcome:
    return recovery.on_ack(ack_of(received), was_limited=was_limited, now=now)


def test_before_a_sample_the_rtt_is_assumed() -> None:
    # protocol 4: initial RTT: the measured HTTPS RTT, else 200 ms
    assert RttEstimator().smoothed == INITIAL_RTT == 0.2
    assert RttEstimator(0.05).smoothed == 0.05


def test_the_first_sample_is_taken_whole() -> None:
    rtt = RttEstimator()
    rtt.on_sample(0.1, 0.03)
    assert (rtt.smoothed, rtt.variation, rtt.minimum) == (0.1, 0.05, 0.1)


def test_later_samples_are_smoothed_without_the_ack_delay() -> None:
    rtt = RttEstimator()
    rtt.on_sample(0.1, 0.0)
    rtt.on_sample(0.2, 0.04)
    # RFC 9002 section 5.3: 7/8 and 3/4 of what was known
    assert rtt.variation == pytest.approx(0.75 * 0.05 + 0.25 * abs(0.1 - 0.16))
    assert rtt.smoothed == pytest.approx(0.875 * 0.1 + 0.125 * 0.16)
    rtt.on_sample(0.11, 0.05)  # the delay would take it below the minimum: it is not believed
    assert rtt.smoothed == pytest.approx(0.875 * (0.875 * 0.1 + 0.125 * 0.16) + 0.125 * 0.11)


def test_pto() -> None:
    rtt = RttEstimator()
    rtt.on_sample(0.1, 0.0)
    # protocol 4: SRTT + max(4 RTTVAR, 1 ms) + the peer's ack delay
    assert rtt.pto == pytest.approx(0.1 + 4 * 0.05 + MAX_ACK_DELAY)
    for _ in range(200):
        rtt.on_sample(0.1, 0.0)
    assert rtt.pto == pytest.approx(0.1 + 0.001 + MAX_ACK_DELAY, rel=1e-3)


def test_pto_is_at_least_50_ms() -> None:
    rtt = RttEstimator()
    for _ in range(200):
        rtt.on_sample(0.0, 0.0)
    assert rtt.pto >= MIN_PTO == 0.05


def test_a_sample_comes_only_from_the_largest_when_it_is_new() -> None:
    recovery = with_packets(0.0, 0.1, 0.2)
    assert told(recovery, {0, 1}, now=0.25).rtt_sample == pytest.approx(0.15)
    # Packet 0 would have been 0.5 s under way; the largest was known already.
    recovery = with_packets(0.0, 0.1, 0.2)
    told(recovery, {2}, now=0.25)
    assert recovery.on_ack(ack_of({0, 2}), was_limited=False, now=0.5).rtt_sample is None


def test_the_sample_leaves_out_the_ack_delay_but_believes_only_52_ms_of_it() -> None:
    recovery = with_packets(0.0, 1.0, 2.0)
    told(recovery, {0}, now=0.1)
    ack = ack_of({0, 1}, delay_us=30_000)
    assert recovery.on_ack(ack, was_limited=False, now=1.2).rtt_sample == pytest.approx(0.17)
    ack = ack_of({0, 1, 2}, delay_us=500_000)
    assert recovery.on_ack(ack, was_limited=False, now=2.2).rtt_sample == pytest.approx(0.148)


def test_the_sample_is_never_below_the_minimum() -> None:
    recovery = with_packets(0.0, 1.0)
    told(recovery, {0}, now=0.1)
    ack = ack_of({0, 1}, delay_us=50_000)
    assert recovery.on_ack(ack, was_limited=False, now=1.12).rtt_sample == pytest.approx(0.1)


def test_three_later_packets_declare_loss() -> None:
    recovery = with_packets(0.0, 0.001, 0.002, 0.003)
    assert numbers(told(recovery, {1, 2}, now=0.1).lost) == []
    # protocol 3: loss is declared after 3 later packets
    assert numbers(told(recovery, {1, 2, 3}, now=0.1).lost) == [0]
    assert recovery.loss_at is None
    assert not recovery.bytes_in_flight


def test_nine_eighths_of_an_rtt_declare_loss() -> None:
    recovery = with_packets(0.0, 0.01)
    assert told(recovery, {1}, now=0.11).lost == []
    # protocol 3: or 9/8 RTT
    assert recovery.loss_at == pytest.approx(9 / 8 * 0.1)
    assert recovery.on_loss_timer(now=0.112).lost == []
    assert recovery.loss_at == pytest.approx(9 / 8 * 0.1)
    assert numbers(recovery.on_loss_timer(now=0.1126).lost) == [0]
    assert recovery.loss_at is None


def test_what_nothing_overtook_is_not_lost() -> None:
    recovery = with_packets(0.0, 0.01)
    told(recovery, {0}, now=0.1)
    assert recovery.loss_at is None
    assert recovery.on_loss_timer(now=100.0).lost == []
    assert recovery.bytes_in_flight


def test_an_overtaken_acknowledgment_does_not_stop_the_loss_timer() -> None:
    recovery = with_packets(*[0.0] * 6)
    told(recovery, {0, 1, 2, 3, 5}, now=0.1)
    assert recovery.loss_at == pytest.approx(0.1125)
    told(recovery, {0, 1, 2}, now=0.105)
    assert recovery.loss_at == pytest.approx(0.1125)
    assert numbers(recovery.on_loss_timer(now=0.12).lost) == [4]


def test_beyond_the_bitmap_is_unknown() -> None:
    recovery = with_packets(*[0.0] * 67)
    window = recovery.congestion.window
    outcome = told(recovery, set(range(10, 66)) | {66}, now=0.1)
    # protocol 3: a packet older than the bitmap is unknown: it leaves flight ...
    assert numbers(outcome.unknown) == [0, 1]
    assert numbers(outcome.lost) == list(range(2, 10))
    recovery = with_packets(*[0.0] * 66)
    outcome = recovery.on_ack(ack_of({65}, largest=65), was_limited=False, now=0.1)
    assert numbers(outcome.unknown) == [0]
    # ... and congestion control ignores it
    quiet = with_packets(0.0)
    quiet.on_sent(packet(100, 0.01))
    outcome = quiet.on_ack(ack_of(set(range(30, 101))), was_limited=False, now=0.1)
    assert numbers(outcome.unknown) == [0]
    assert quiet.congestion.window == window == INITIAL_WINDOW
    assert quiet.congestion.loss_rate == 0
    assert quiet.bytes_in_flight == 0


def test_loss_cuts_the_window_and_an_acknowledgment_of_later_packets_may_raise_it() -> None:
    recovery = with_packets(*[0.0] * 5)
    told(recovery, {1, 2, 3}, now=0.1, was_limited=True)
    cut = recovery.congestion.window
    assert cut == pytest.approx(0.7 * INITIAL_WINDOW)
    # RFC 9002 section 7.3.2: what was sent before the cut does not raise the window again
    told(recovery, {1, 2, 3, 4}, now=0.11, was_limited=True)
    assert recovery.congestion.window == cut
    recovery.on_sent(packet(5, 0.2))
    told(recovery, {1, 2, 3, 4, 5}, now=0.3, was_limited=True)
    assert recovery.congestion.window > cut


def test_another_path_starts_anew_but_keeps_what_is_in_flight() -> None:
    recovery = with_packets(0.0, 0.0, 0.0, 0.0, 0.0)
    told(recovery, {1, 2, 3}, now=0.1)
    recovery.restart_path()
    assert recovery.congestion.window == INITIAL_WINDOW
    assert not recovery.rtt.has_sample
    assert numbers(recovery.in_flight) == [4]
    assert recovery.bytes_in_flight == 100


steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "ack", "old ack", "timer"]),
        st.integers(1, 1200),
        st.floats(0.0, 0.3),
        st.booleans(),
    ),
    max_size=120,
)


@given(steps)
def test_every_packet_is_settled_once_and_the_bytes_add_up(
    plan: list[tuple[str, int, float, bool]],
) -> None:
    recovery, now, next_number = Recovery(), 0.0, 0
    arrived: set[int] = set()
    acks: list[Ack] = []
    sent: dict[int, SentPacket] = {}
    settled: Counter[int] = Counter()
    for what, size, wait, is_lucky in plan:
        now += wait
        outcome = AckOutcome()
        if what == "send":
            sent[next_number] = packet(next_number, now, size)
            recovery.on_sent(sent[next_number])
            if is_lucky:
                arrived.add(next_number)
            next_number += 1 + (size % 50 == 0) * 70  # packets that elicit nothing are not recorded
        elif what == "timer":
            outcome = recovery.on_loss_timer(now=now)
        elif arrived:
            acks.append(ack_of(arrived))
            ack = acks[-1] if what == "ack" else acks[size % len(acks)]
            outcome = recovery.on_ack(ack, was_limited=is_lucky, now=now)
        assert set(numbers(outcome.acked)) <= arrived
        for lost in outcome.lost:
            # protocol 3: after 3 later packets or 9/8 RTT, and only what was overtaken
            assert lost.packet_number < recovery.largest_acked
            few = recovery.largest_acked - lost.packet_number < 3
            assert not few or now - lost.sent_at >= 9 / 8 * recovery.rtt.smoothed * (1 - 1e-9)
        settled.update(numbers(outcome.acked) + numbers(outcome.lost) + numbers(outcome.unknown))
        assert max(settled.values(), default=0) <= 1
        in_flight = recovery.in_flight
        assert set(numbers(in_flight)) == set(sent) - set(settled)
        assert recovery.bytes_in_flight == sum(packet.size for packet in in_flight)
        assert bool(recovery.bytes_in_flight) == bool(in_flight)
        overtaken = [p for p in in_flight if p.packet_number < recovery.largest_acked]
        assert (recovery.loss_at is not None) == bool(overtaken)
        assert recovery.congestion.window >= 2400
