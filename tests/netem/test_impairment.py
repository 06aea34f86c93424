import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from netem import Bursts, GilbertElliott, Impairment
from netem.jitter import DISTRIBUTIONS
from netem.trace import DeliveryTrace

TRACE = DeliveryTrace((1,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": 1.2}, "loss is 1.2; it must be a probability"),
        ({"duplication": -0.1}, "duplication is -0.1"),
        ({"corruption": math.nan}, "corruption is nan"),
        ({"loss": "5%"}, "loss is '5%'"),
        ({"loss": True}, "loss is True"),
        ({"delay_s": -1.0}, "delay_s is -1.0; it must be a time in seconds"),
        ({"jitter_s": math.inf}, "jitter_s is inf"),
        ({"jitter_distribution": "cauchy"}, "must be one of: normal, uniform, pareto, paretonormal"),
        ({"jitter_correlation": 1.0}, "jitter_correlation is 1"),
        ({"reordering": 0.1}, "one works only with the other"),
        ({"reordering_delay_s": 0.1}, "one works only with the other"),
        ({"ecn": True}, "ecn is on without loss"),
        ({"ecn": 1, "loss": 0.1}, "ecn is 1; it must be true or false"),
        ({"bursts": 0.1}, "bursts is 0.1; it must be a Bursts"),
        ({"trace": "verizon.down"}, "must be a DeliveryTrace"),
        ({"trace": TRACE, "rate_bps": 1e6, "queue_s": 1.0}, "beside a trace"),
        ({"trace": TRACE, "queue_s": 1.0, "queue_bytes": 1}, "give at most one"),
        ({"queue_s": 1.0}, "without rate_bps or trace"),
        ({"rate_bps": 1e6}, "give exactly one of the two limits"),
        ({"rate_bps": 1e6, "queue_s": 1.0, "queue_bytes": 1}, "give exactly one"),
        ({"rate_bps": 0.0, "queue_s": 1.0}, "rate_bps is 0.0"),
        ({"rate_bps": 1e6, "queue_bytes": -1}, "the queue limit is -1"),
        ({"rate_bps": 1e6, "queue_s": "1 s"}, "the queue limit is '1 s'"),
        # Integers that no float can hold.
        ({"loss": 10**400}, "loss is 10+; it must be a probability"),
        ({"delay_s": 10**400}, "delay_s is 10+; it must be a time in seconds"),
        ({"delay_s": 10**9999}, "delay_s is a number of too many digits; it must be a time in seconds"),
        ({"rate_bps": 10**400, "queue_s": 1.0}, "rate_bps is 10+; it must be bits per second"),
        ({"rate_bps": 1e6, "queue_s": 10**400}, "the queue limit is 10+; it must"),
        ({"trace": TRACE, "queue_bytes": 10**9999}, "the queue limit is a number of too many digits"),
        ({"rate_bps": 1e6, "queue_bytes": 1.5}, "queue_bytes is 1.5; it must be a whole number"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_work_is_refused_with_the_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Impairment(**settings)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: GilbertElliott(p=2.0, r=0.5), "p is 2.0"),
        (lambda: GilbertElliott(p=0.1, r=0.0), "r must be above 0"),
        (lambda: Bursts(good_s=0.0, bad_s=1.0), "good_s is 0.0"),
        (lambda: Bursts(good_s=1e-12, bad_s=1.0), "good_s is 1e-12; .* at least 0.001"),
        (lambda: Bursts(good_s=1.0, bad_s=0.0009), "bad_s is 0.0009; .* at least 0.001"),
        (lambda: Bursts(good_s=1.0, bad_s=1.0, loss_in_bad=50), "loss_in_bad is 50"),
    ],
)
def test_loss_models_check_their_values(model: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        model()


def test_both_forms_of_bursty_lose_about_7_percent() -> None:
    per_datagram = GilbertElliott(0.068, 0.852, 0.50, 0.04)
    wall_clock = Bursts(0.368, 0.029, 0.50, 0.04)
    assert per_datagram.mean_loss == pytest.approx(0.074, abs=0.0005)
    assert wall_clock.mean_loss == pytest.approx(0.074, abs=0.0005)


def test_losses_combine() -> None:
    both = Impairment(loss=0.1, bursts=Bursts(1.0, 1.0, loss_in_bad=0.2))
    assert both.mean_loss == pytest.approx(1 - 0.9 * 0.9)


def test_a_queue_in_bytes_is_a_queue_in_time() -> None:
    assert Impairment(rate_bps=8_000.0, queue_bytes=500).queue_limit_s == 0.5


def test_a_queue_before_a_trace_may_be_endless() -> None:
    assert Impairment(trace=TRACE).queue_limit_s == math.inf
    assert Impairment(trace=TRACE, queue_bytes=3000).queue_limit_s == math.inf
    assert Impairment(trace=TRACE, queue_s=0.5).queue_limit_s == 0.5


def test_without_jitter_the_quantiles_are_the_delay_and_that_of_what_is_reordered() -> None:
    assert Impairment(delay_s=0.1).delay_quantile(0.999) == 0.1
    late = Impairment(delay_s=0.1, reordering=0.25, reordering_delay_s=0.05)
    assert late.delay_quantile(0.74) == 0.1
    assert late.delay_quantile(0.76) == pytest.approx(0.15)


@pytest.mark.parametrize("u", [0.0, 1.0, -1.0, math.nan])
def test_a_quantile_needs_a_share(u: float) -> None:
    with pytest.raises(ConfigurationError, match="a share above 0 and below 1"):
        Impairment().delay_quantile(u)


@given(
    distribution=st.sampled_from(DISTRIBUTIONS),
    delay_s=st.floats(0.0, 1.0),
    jitter_s=st.floats(1e-6, 1.0),
    reordering=st.floats(1e-3, 1.0),
    reordering_delay_s=st.floats(1e-6, 1.0),
    shares=st.tuples(st.floats(1e-6, 1.0 - 1e-6), st.floats(1e-6, 1.0 - 1e-6)),
)
def test_quantiles_rise_and_lie_between_the_punctual_and_the_late(
    distribution: Any,
    delay_s: float,
    jitter_s: float,
    reordering: float,
    reordering_delay_s: float,
    shares: tuple[float, float],
) -> None:
    punctual = Impairment(delay_s=delay_s, jitter_s=jitter_s, jitter_distribution=distribution)
    mixed = replace(punctual, reordering=reordering, reordering_delay_s=reordering_delay_s)
    low, high = (mixed.delay_quantile(share) for share in sorted(shares))
    assert 0.0 <= low <= high + 1e-12
    for share in shares:
        least = punctual.delay_quantile(share)
        assert least <= mixed.delay_quantile(share) <= least + reordering_delay_s + 1e-12


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_mean_lies_between_the_states(p: float, r: float, bad: float, good: float) -> None:
    mean = GilbertElliott(p, r, bad, good).mean_loss
    assert min(bad, good) - 1e-12 <= mean <= max(bad, good) + 1e-12
