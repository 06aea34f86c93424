import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from netem import Change, Impairment, Outage, Relay, Scenario, Simulation
from netem.scenario import CrossTraffic

CLEAN = Impairment()


def test_a_single_outage_includes_its_start_and_not_its_end() -> None:
    outage = Outage(start_s=2.0, duration_s=0.5)
    assert outage.end_at(1.999) is None
    assert outage.end_at(2.0) == 2.5
    assert outage.end_at(2.5) is None
    assert outage.end_at(1000.0) is None


def test_a_periodic_outage_comes_again() -> None:
    outage = Outage(start_s=1.0, duration_s=0.25, period_s=5.0)
    assert outage.end_at(0.0) is None
    assert outage.end_at(11.0) == 11.25
    assert outage.end_at(11.3) is None
    assert outage.next_transition(0.0) == 1.0
    assert outage.next_transition(1.0) == 1.25
    assert outage.next_transition(1.25) == 6.0


@given(
    start=st.floats(0.0, 100.0),
    duration=st.floats(1e-3, 1.0),
    gap=st.floats(1e-3, 1.0),
    t=st.floats(0.0, 1e4),
)
def test_transitions_alternate_and_agree_with_the_windows(
    start: float, duration: float, gap: float, t: float
) -> None:
    outage = Outage(start, duration, period_s=duration + gap)
    was_inside = outage.end_at(t) is not None
    for _ in range(20):
        following = outage.next_transition(t)
        assert following > t
        assert (outage.end_at(math.nextafter(following, 0.0)) is not None) == was_inside
        assert (outage.end_at(following) is not None) != was_inside
        was_inside = not was_inside
        t = following


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start_s": -1.0, "duration_s": 1.0}, "start_s is -1.0"),
        ({"start_s": 0.0, "duration_s": 0.0}, "duration_s is 0.0"),
        ({"start_s": 0.0, "duration_s": 1e-12}, "duration_s is 1e-12; .* at least 0.001"),
        ({"start_s": 0.0, "duration_s": 0.5, "period_s": 1e-12}, "period_s is 1e-12; .* at least 0.001"),
        ({"start_s": 10**400, "duration_s": 1.0}, "start_s is 10+; it must be a time"),
        ({"start_s": 0.0, "duration_s": 5.0, "period_s": 5.0}, "end before the next one starts"),
        ({"start_s": 0.0, "duration_s": 1.0, "loss": 2.0}, "loss is 2.0"),
    ],
)
def test_an_impossible_outage_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Outage(**values)  # type: ignore[arg-type]


def test_a_flag_is_no_number() -> None:
    with pytest.raises(ConfigurationError, match="held is 1; it must be true or false"):
        Outage(0.0, 1.0, held=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start_s": -1.0}, "start_s is -1.0"),
        ({"duration_s": 0.0}, "duration_s is 0.0"),
        ({"direction": "left"}, "direction is 'left'; it must be 'up' or 'down'"),
        ({"congestion_control": "New Reno"}, "congestion_control is 'New Reno'"),
        ({"congestion_control": 1}, "congestion_control is 1"),
        ({"connections": 0}, "connections is 0"),
        ({"connections": 1.5}, "connections is 1.5"),
        ({"connections": True}, "connections is True"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_impossible_cross_traffic_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CrossTraffic(**{"start_s": 0.0, "duration_s": 1.0, **values})


def test_only_the_laboratory_plays_cross_traffic() -> None:
    path = Scenario("busy", up=CLEAN, down=CLEAN, cross_traffic=(CrossTraffic(1.0, 2.0),))
    assert not path.is_simulated
    assert path.with_rtt(0.1).cross_traffic == path.cross_traffic
    message = "'busy' has cross traffic, which is real TCP: only the laboratory"
    with pytest.raises(ConfigurationError, match=message):
        Relay(("127.0.0.1", 1), path, seed=1)
    simulation = Simulation(seed=1)
    with pytest.raises(ConfigurationError, match=message):
        simulation.add_client(Silent(), path)


class Silent:
    """An endpoint that does nothing."""

    def receive_datagram(self, data: bytes, address: Any, *, now: float) -> None:
        raise NotImplementedError

    def handle_timer(self, *, now: float) -> None:
        raise NotImplementedError

    def datagrams_to_send(self, *, now: float) -> list[tuple[bytes, Any]]:
        return []

    def next_timer(self) -> float | None:
        return None

    def next_event(self) -> object | None:
        return None


def test_changes_take_effect_at_their_time_and_in_their_direction() -> None:
    slow, slower = Impairment(delay_s=0.1), Impairment(delay_s=0.2)
    path = Scenario("move", up=CLEAN, down=CLEAN, changes=(Change(3.0, up=slow, down=slower),))
    assert path.impairment_at("up", 2.999) is CLEAN
    assert path.impairment_at("up", 3.0) is slow
    assert path.impairment_at("down", 3.0) is slower


def test_changes_out_of_order_are_refused() -> None:
    later, earlier = Change(2.0, CLEAN, CLEAN), Change(1.0, CLEAN, CLEAN)
    with pytest.raises(ConfigurationError, match="must increase"):
        Scenario("wrong", up=CLEAN, down=CLEAN, changes=(later, earlier))


def test_transitions_join_changes_and_outages() -> None:
    path = Scenario(
        "both", up=CLEAN, down=CLEAN, changes=(Change(1.5, CLEAN, CLEAN),), outages=(Outage(1.0, 1.0),)
    )
    times = [0.0]
    while times[-1] < math.inf:
        times.append(path.next_transition(times[-1]))
    assert times == [0.0, 1.0, 1.5, 2.0, math.inf]


def test_of_overlapping_outages_the_first_listed_counts() -> None:
    half = Outage(0.0, 10.0, loss=0.5)
    path = Scenario("both", up=CLEAN, down=CLEAN, outages=(half,))
    cut = Outage(1.0, 1.0)
    assert path.with_outages(cut).outage_at(1.5) == (cut, 2.0)
    assert path.with_outages(cut).outage_at(2.0) == (half, 10.0)


def test_an_rtt_is_split_between_the_directions() -> None:
    change = Change(1.0, up=Impairment(loss=0.1), down=CLEAN)
    path = Scenario("any", up=Impairment(delay_s=9.0), down=CLEAN, changes=(change,)).with_rtt(0.2)
    for t in (0.0, 1.0):
        assert path.impairment_at("up", t).delay_s == 0.1
        assert path.impairment_at("down", t).delay_s == 0.1
    assert path.impairment_at("up", 1.0).loss == 0.1
