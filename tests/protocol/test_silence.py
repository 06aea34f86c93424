"""Silence of the peer: what counts as silence, and how often to ask."""

import pytest

from eloquent.protocol.silence import Silence

PTO = 0.1


def silence(*, is_client: bool = True, asked_at: float | None = 0.0, probes: int = 0) -> Silence:
    found = Silence(is_client=is_client, now=0.0)
    if asked_at is not None:
        found.on_asked(now=asked_at)
    found.probes = probes
    return found


def intervals(pto: float, *, at: float, probes: range) -> list[float]:
    return [silence(probes=count).probe_interval(pto, now=at) for count in probes]


def test_silence_runs_from_the_oldest_unanswered_datagram() -> None:
    quiet = silence(asked_at=1.0)
    quiet.on_asked(now=3.0)
    # protocol 4: all limits on silence run from the oldest unanswered ack-eliciting datagram
    assert quiet.duration(now=4.0) == 3.0
    assert quiet.asked_at == 3.0


def test_any_authentic_datagram_answers_all_earlier_ones() -> None:
    quiet = silence(asked_at=1.0, probes=5)
    quiet.on_asked(now=3.0)
    quiet.on_heard(now=4.0)
    # protocol 4: any authentic datagram answers all earlier ones
    assert quiet.duration(now=100.0) == 0
    assert quiet.probes == 0
    assert quiet.stalled_at(PTO) is None
    assert quiet.gives_up_at() is None
    quiet.on_asked(now=50.0)
    assert quiet.duration(now=51.0) == 1.0


def test_a_pause_of_the_model_is_no_silence() -> None:
    quiet = silence(asked_at=None)
    # protocol 4: a pause of the model is never taken for an outage
    assert quiet.duration(now=1000.0) == 0
    assert quiet.allows_text(now=1000.0)


def test_the_first_probe_comes_after_a_pto() -> None:
    assert intervals(PTO, at=0.1, probes=range(1)) == [PTO]


def test_probes_back_off_by_half_up_to_200_ms_for_3_s() -> None:
    # protocol 4: x1.5 up to max(PTO, 200 ms) for 3 s
    assert intervals(0.08, at=2.9, probes=range(1, 5)) == pytest.approx([0.12, 0.18, 0.2, 0.2])
    assert intervals(0.3, at=2.9, probes=range(1, 4)) == pytest.approx([0.3, 0.3, 0.3])


def test_then_up_to_500_ms_for_10_s() -> None:
    # protocol 4: up to max(PTO, 500 ms) for 10 s
    assert intervals(0.2, at=3.0, probes=range(1, 5)) == pytest.approx([0.3, 0.45, 0.5, 0.5])
    assert intervals(0.8, at=9.9, probes=range(1, 3)) == pytest.approx([0.8, 0.8])
    assert intervals(0.2, at=9.9, probes=range(10_000, 10_001)) == [0.5]


def test_after_10_s_only_pings() -> None:
    assert silence().allows_text(now=9.99)
    # protocol 4: only PINGs: the server every 5 s, the client every 2.5 s
    assert not silence().allows_text(now=10.0)
    assert silence(is_client=True, probes=30).probe_interval(PTO, now=10.0) == 2.5
    assert silence(is_client=False, probes=30).probe_interval(PTO, now=60.0) == 5.0


def test_an_answer_reopens_at_once() -> None:
    quiet = silence(probes=30)
    quiet.on_heard(now=60.0)
    # protocol 4: any authentic datagram reopens at once
    assert quiet.allows_text(now=60.0)
    assert quiet.probe_interval(PTO, now=60.0) == PTO


def test_a_client_asks_after_500_ms_without_a_word() -> None:
    quiet = silence()
    quiet.on_heard(now=7.0)
    # protocol 4: has heard nothing for 500 ms sends a PING ... after an answer the next after 2.5 s
    assert quiet.liveness_at() == 7.5
    quiet.on_ping()
    quiet.on_heard(now=7.6)
    assert quiet.was_pinged
    assert quiet.liveness_at() == pytest.approx(10.1)
    quiet.on_news()
    assert quiet.liveness_at() == pytest.approx(8.1)
    assert not quiet.was_pinged


def test_a_stall_is_3_ptos_and_at_least_a_second_and_a_half() -> None:
    # protocol 8: silence above max(3 PTO, 1.5 s)
    assert silence(asked_at=2.0).stalled_at(0.1) == 3.5
    assert silence(asked_at=2.0).stalled_at(0.7) == pytest.approx(4.1)


def test_the_end_comes_after_two_minutes() -> None:
    # protocol 7: the client gives up after 120 s of silence
    assert silence(asked_at=2.0).gives_up_at() == 122.0


def test_a_new_attempt_inherits_the_clock_and_the_backoff() -> None:
    successor = Silence(is_client=True, now=5.0)
    successor.inherit(silence(asked_at=1.0, probes=4))
    # protocol 7: it inherits the silence clock and the backoff
    assert (successor.since, successor.probes) == (1.0, 4)
    successor.on_asked(now=5.0)
    assert successor.duration(now=6.0) == 5.0
