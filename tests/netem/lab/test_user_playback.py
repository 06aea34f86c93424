"""A scenario on a clock that began earlier or begins later."""

import pytest

from netem.impairment import Impairment
from netem.lab.user.playback import Playback
from netem.link import Fate, Link
from netem.scenario import Change, Outage, Scenario

PACKET = bytes([0x45, 0]) + bytes(98)
CAPABLE = bytes([0x45, 2]) + bytes(98)
SLOW = Impairment(delay_s=0.1)
FAST = Impairment(delay_s=0.01)


def test_times_are_those_of_the_clock() -> None:
    playback = Playback(Scenario("slow", up=SLOW, down=FAST), seed=1, begins_at=1000.0, now=1000.5)
    assert playback.send("up", PACKET, now=1001.0) == (Fate.DELIVERED, [(pytest.approx(1001.1), PACKET)])
    assert playback.send("down", PACKET, now=1001.0) == (Fate.DELIVERED, [(pytest.approx(1001.01), PACKET)])


def test_before_the_beginning_the_state_at_zero_holds() -> None:
    scenario = Scenario("soon fast", up=SLOW, down=SLOW, changes=(Change(1.0, up=FAST, down=FAST),))
    playback = Playback(scenario, seed=1, begins_at=110.0, now=100.0)
    for now, delay in [(100.0, 0.1), (109.9, 0.1), (110.9, 0.1), (111.0, 0.01)]:
        assert playback.send("up", PACKET, now=now)[1] == [(pytest.approx(now + delay), PACKET)]
    assert playback.counts()["up"].sent == 4


def test_a_queue_drains_before_the_beginning() -> None:
    limited = Impairment(rate_bps=8000.0, queue_s=0.15)  # 0.1 s for each packet
    playback = Playback(Scenario("limited", up=limited, down=limited), seed=1, begins_at=110.0, now=100.0)
    for now in (100.0, 101.0, 102.0, 110.0):
        assert playback.send("up", PACKET, now=now)[1] == [(pytest.approx(now + 0.1), PACKET)]


@pytest.mark.parametrize("held", [True, False], ids=["held", "dropped"])
def test_an_outage_at_zero_is_in_force_before_and_ends_on_time(held: bool) -> None:
    scenario = Scenario("cut", up=SLOW, down=SLOW, outages=(Outage(0.0, 2.0, period_s=5.0, held=held),))
    playback = Playback(scenario, seed=1, begins_at=110.0, now=100.0)
    for now in (100.0, 107.0, 111.0):
        fate, copies = playback.send("up", PACKET, now=now)
        assert copies == ([(pytest.approx(112.1), PACKET)] if held else [])
        assert fate is (Fate.DELIVERED if held else Fate.OUTAGE)
    assert playback.send("up", PACKET, now=112.0)[1] == [(pytest.approx(112.1), PACKET)]


def test_what_is_sent_before_has_no_influence_on_fates_after() -> None:
    lossy = Scenario("lossy", up=Impairment(loss=0.5), down=Impairment(loss=0.5))
    alone = Link(lossy, "up", seed=7)
    playback = Playback(lossy, seed=7, begins_at=101.0, now=100.0)
    for _ in range(13):
        playback.send("up", PACKET, now=100.5)
    for each in range(100):
        alone.send(PACKET, now=each * 0.01)
        assert playback.send("up", PACKET, now=101.0 + each * 0.01)[0] is alone.fate
    assert playback.counts()["up"].sent == 113


def test_marks_are_set_where_the_sender_is_capable() -> None:
    marking = Impairment(loss=1.0, ecn=True)
    playback = Playback(Scenario("marking", up=marking, down=marking), seed=1, begins_at=0.0, now=0.0)
    assert playback.send("up", PACKET, now=0.0) == (Fate.LOSS, [])
    fate, ((_, packet),) = playback.send("up", CAPABLE, now=0.0)
    assert fate is Fate.MARKED
    assert packet[1] == 3
    assert playback.counts()["up"].marked == 1
    # The whole packet is counted, not a payload with headers added.
    assert playback.counts()["up"].sent_bytes == len(PACKET) + len(CAPABLE)
