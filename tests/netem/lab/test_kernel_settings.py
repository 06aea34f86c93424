"""What the kernel's disciplines are set to over a scenario, without a kernel that has them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem import Bursts, Change, GilbertElliott, Impairment, Outage, Scenario
from netem.lab.kernel.counters import Passed, Reading
from netem.lab.kernel.hops import PLACES, settings
from netem.lab.kernel.qdiscs import Hold, Loss, Queue, Transmission
from netem.lab.kernel.timeline import Timeline
from netem.link import burst_clock

MTU = 1500
CLEAR = Impairment()
shares = st.floats(0.0, 1.0)


def timeline(scenario: Scenario) -> Timeline:
    return Timeline(scenario, "up", seed=3, mtu=MTU)


@given(shares, shares, shares, shares, st.booleans())
def test_three_kinds_of_loss_become_one(
    alone: float, in_burst: float, in_bad: float, in_good: float, is_bad: bool
) -> None:
    impairment = Impairment(
        loss=alone,
        bursts=Bursts(1.0, 1.0, loss_in_bad=in_burst),
        gilbert_elliott=GilbertElliott(0.1, 0.5, loss_in_bad=in_bad, loss_in_good=in_good),
    )
    loss = settings(impairment, None, is_bad=is_bad, mtu=MTU).loss
    assert isinstance(loss, Loss)
    assert loss.model is not None
    kept = (1.0 - alone) * (1.0 - in_burst if is_bad else 1.0)
    assert (loss.model.p, loss.model.r) == (0.1, 0.5)
    assert 1.0 - loss.model.loss_in_bad == pytest.approx(kept * (1.0 - in_bad), abs=1e-12)
    assert 1.0 - loss.model.loss_in_good == pytest.approx(kept * (1.0 - in_good), abs=1e-12)


@pytest.mark.parametrize("rate_bps", [32e3, 500e3, 10e6, 1e9], ids=["32k", "500k", "10M", "1G"])
def test_bucket_and_queue_together_hold_what_the_limit_says(rate_bps: float) -> None:
    found = settings(Impairment(rate_bps=rate_bps, queue_s=0.5), None, is_bad=False, mtu=MTU)
    assert isinstance(found.queue, Queue)
    assert found.rate == Transmission(found.queue.bytes_per_s) == Transmission(round(rate_bps / 8))
    limit = rate_bps / 8 * 0.5
    # The packet that is being sent, and how far the bucket is ahead, differ by one packet.
    assert found.queue.burst_bytes + found.queue.limit_bytes == pytest.approx(limit, abs=1.5 * (MTU + 14) + 1)
    assert found.queue.burst_bytes > MTU


def test_even_without_a_queue_one_packet_fits() -> None:
    queue = settings(Impairment(rate_bps=1e6, queue_bytes=0), None, is_bad=False, mtu=MTU).queue
    assert isinstance(queue, Queue)
    assert queue.limit_bytes > MTU


def test_an_outage_that_drops_and_one_that_holds_stand_before_the_queue() -> None:
    dropping = settings(CLEAR, Outage(0.0, 1.0, loss=0.5), is_bad=False, mtu=MTU)
    assert (dropping.outage, dropping.hold) == (Loss(0.5), Hold(False))
    holding = settings(CLEAR, Outage(0.0, 1.0, held=True), is_bad=False, mtu=MTU)
    assert (holding.outage, holding.hold) == (Loss(0.0), Hold(True))
    assert dropping.loss == holding.loss == Loss()


def test_the_timeline_changes_with_the_scenario() -> None:
    later = Impairment(loss=0.1)
    scenario = Scenario(
        "test", CLEAR, CLEAR, changes=(Change(5.0, later, CLEAR),), outages=(Outage(2.0, 1.0),)
    )
    line = timeline(scenario)
    found = [line.at(t) for t in (0.0, 2.0, 3.0, 5.0)]
    assert [until for _, until in found] == [2.0, 3.0, 5.0, math.inf]
    assert [state.outage for state, _ in found] == [Loss(0.0), Loss(1.0), Loss(0.0), Loss(0.0)]
    assert [state.loss for state, _ in found] == [Loss(), Loss(), Loss(), Loss(chance=1.0 - (1.0 - 0.1))]


def test_bursts_are_where_those_of_the_simulated_link_are() -> None:
    bursts = Bursts(good_s=0.3, bad_s=0.1)
    line = timeline(Scenario("test", Impairment(bursts=bursts), CLEAR))
    clock = burst_clock(bursts, "up", seed=3)
    t = 0.0
    for _ in range(200):
        state, until = line.at(t)
        assert state.loss == Loss(1.0 if clock.is_bad(t) else 0.0)
        assert until == clock.until
        t = until


def reading(entered: int, **drops: int) -> Reading:
    """All that is not dropped goes on."""
    places, left = {}, entered
    for place in PLACES:
        left -= drops.get(place, 0)
        places[place] = Passed(left, drops.get(place, 0), 0)
    return Reading(entered, entered * 100, places)


def test_counts_are_what_has_come_since() -> None:
    base = reading(10, outage=1, queue=1, loss=1)
    counts = reading(110, outage=11, queue=6, loss=3).since(base, marks=False, duplicates=False)
    assert (counts.sent, counts.sent_bytes) == (100, 10_000)
    assert (counts.dropped_by_outage, counts.dropped_by_queue, counts.dropped_by_loss) == (10, 5, 2)
    assert counts.delivered == 100 - 10 - 5 - 2


def test_marks_and_copies_show_in_what_goes_on() -> None:
    base = reading(0)
    later = reading(100)
    places = {
        **later.places,
        "loss": Passed(left=95, drops=20, waiting=0),  # 5 are gone, so 15 were marked
        "delay": Passed(left=100, drops=0, waiting=4),
    }
    counts = Reading(100, 10_000, places).since(base, marks=True, duplicates=True)
    assert (counts.dropped_by_loss, counts.marked, counts.duplicated) == (5, 15, 9)
    assert counts.delivered == 95
