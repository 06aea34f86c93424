import pytest

from eloquent.errors import ConfigurationError
from netem import Link, scenario, scenario_names
from netem.profiles import ARBITRARY

EXPECTED_LOSS = {
    "wifi": 0.01,
    "wifi-lossy": 0.048,
    "cellular": 0.02,
    "satellite": 0.03,
    "congested": 0.09,
    "bursty": 0.074,
    "bursty-per-packet": 0.074,
    "lte-walk": 0.13,
    "2g-rural": 0.02,
    "gprs": 0.02,
    "starlink-comcast": 0.025,
    "driving-lte": 0.012,
    "driving-hspa": 0.044,
}


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_says_where_it_comes_from(name: str) -> None:
    found = scenario(name)
    assert found.name == name
    assert found.note if found.source in ("", ARBITRARY) else found.source and found.licence


@pytest.mark.parametrize("name", EXPECTED_LOSS)
def test_the_loss_is_that_of_the_source(name: str) -> None:
    assert scenario(name).up.mean_loss == pytest.approx(EXPECTED_LOSS[name], abs=0.001)
    assert scenario(name).down.mean_loss == pytest.approx(EXPECTED_LOSS[name], abs=0.001)


def test_the_delay_can_be_given() -> None:
    assert scenario("bursty", rtt_s=0.2).down.delay_s == 0.1
    assert scenario("bursty", rtt_s=0.2).down.bursts == scenario("bursty").down.bursts


def test_an_unknown_name_is_answered_with_the_names() -> None:
    with pytest.raises(ConfigurationError, match=r"'burst' \(did you mean 'bursty'\?\).*wifi-scan"):
        scenario("burst")


@pytest.mark.parametrize(
    ("name", "quantiles_ms"), [("driving-lte", (84, 100, 321)), ("driving-hspa", (123, 294, 530))]
)
def test_driving_has_the_round_trips_of_its_source(name: str, quantiles_ms: tuple[int, ...]) -> None:
    up, down = (Link(scenario(name), direction, seed=3) for direction in ("up", "down"))
    arrivals = [
        (at, sent_at)
        for sent_at in (n * 0.0101 for n in range(100_000))
        for at, _ in up.send(b"", now=sent_at)
    ]
    round_trips = sorted(
        back - sent_at for at, sent_at in sorted(arrivals) for back, _ in down.send(b"", now=at)
    )
    for share, expected in zip((0.5, 0.9, 0.99), quantiles_ms, strict=True):
        measured = round_trips[int(share * len(round_trips))]
        assert measured * 1e3 == pytest.approx(expected, rel=0.06)
