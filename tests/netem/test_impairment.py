import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from netem import Bursts, GilbertElliott, Impairment


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
        ({"jitter_distribution": "pareto"}, "must be 'normal' or 'uniform'"),
        ({"jitter_correlation": 1.0}, "jitter_correlation is 1"),
        ({"reordering": 0.1}, "one works only with the other"),
        ({"reordering_delay_s": 0.1}, "one works only with the other"),
        ({"queue_s": 1.0}, "without rate_bps"),
        ({"rate_bps": 1e6}, "give exactly one of the two limits"),
        ({"rate_bps": 1e6, "queue_s": 1.0, "queue_bytes": 1}, "give exactly one"),
        ({"rate_bps": 0.0, "queue_s": 1.0}, "rate_bps is 0.0"),
        ({"rate_bps": 1e6, "queue_bytes": -1}, "the queue limit is -1"),
    ],
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


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_mean_lies_between_the_states(p: float, r: float, bad: float, good: float) -> None:
    mean = GilbertElliott(p, r, bad, good).mean_loss
    assert min(bad, good) - 1e-12 <= mean <= max(bad, good) + 1e-12
