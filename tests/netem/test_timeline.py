import pytest

from netem import Bursts, Change, Fate, GilbertElliott, Impairment, Link, Outage, Scenario, scenario
from netem.commands.timeline import LONGEST_S, moments, natural_duration
from netem.scenario import CrossTraffic
from netem.trace import DeliveryTrace

CLEAN = Impairment()


def test_the_moments_are_those_that_a_link_of_the_seed_goes_through() -> None:
    first = Impairment(bursts=Bursts(good_s=0.5, bad_s=0.2))
    second = Impairment(bursts=Bursts(good_s=0.3, bad_s=0.1))
    path = Scenario(
        "test",
        up=first,
        down=first,
        changes=(Change(4.0, second, second), Change(8.0, CLEAN, CLEAN)),
        outages=(Outage(2.0, 0.5), Outage(6.0, 0.5, held=True)),
    )
    course = moments(path, "down", seed=5, until=10.0)
    link = Link(path, "down", seed=5)
    assert (course[0].start_s, course[-1].end_s) == (0.0, 10.0)
    assert {each.loss for each in course} == {0.0, 1.0}
    for previous, each in zip([None, *course], course, strict=False):
        assert previous is None or previous.end_s == each.start_s
        for at in (each.start_s, 0.5 * (each.start_s + each.end_s)):
            link.send(b"x", now=at)
            # What is held meets the bursts of the time at which it leaves.
            if each.outage is None or not each.outage.held:
                assert (link.fate is Fate.DELIVERED) == (each.loss == 0.0), at


def test_losses_of_a_moment_combine() -> None:
    impairment = Impairment(
        loss=0.1, gilbert_elliott=GilbertElliott(0.1, 0.1), bursts=Bursts(1.0, 1.0, 0.5, 0.5)
    )
    path = Scenario("test", up=impairment, down=CLEAN, outages=(Outage(0.0, 100.0, loss=0.2),))
    assert moments(path, "up", seed=1, until=1.0)[0].loss == pytest.approx(1 - 0.9 * 0.5 * 0.5 * 0.8)
    assert moments(path, "down", seed=1, until=1.0)[0].loss == pytest.approx(0.2)


def test_a_duration_shows_what_happens_once_and_some_of_what_repeats() -> None:
    assert natural_duration(scenario("clean")) == 30.0
    assert natural_duration(scenario("train")) > 56.0
    assert natural_duration(scenario("starlink-handover")) > 5.0 + 2 * 15.0
    assert natural_duration(scenario("wifi-download")) > 25.0
    busy = Scenario("busy", up=CLEAN, down=CLEAN, cross_traffic=(CrossTraffic(100.0, 50.0),))
    assert natural_duration(busy) > 150.0
    traced = Impairment(trace=DeliveryTrace((40_000,)))
    assert 40.0 < natural_duration(Scenario("traced", up=traced, down=CLEAN)) < 60.0
    late = Scenario("late", up=CLEAN, down=CLEAN, outages=(Outage(1e308, 1e308),))
    assert natural_duration(late) == LONGEST_S
