import math
from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem.jitter import DISTRIBUTIONS, jitter_at, share_up_to

NORMAL = NormalDist()


def mean_of(function: Callable[[float], float]) -> float:
    """The mean of a function of a standard normal number, by the trapezoidal rule."""
    step = 1e-3
    return sum(step * function(z) * NORMAL.pdf(z) for z in (step * n for n in range(-9_000, 30_000)))


@pytest.mark.parametrize("distribution", ["normal", "pareto", "paretonormal"])
def test_the_mean_is_0_and_the_standard_deviation_1(distribution: Any) -> None:
    assert mean_of(lambda z: jitter_at(distribution, z)) == pytest.approx(0.0, abs=1e-5)
    assert mean_of(lambda z: jitter_at(distribution, z) ** 2) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_jitter_rises_with_the_normal_number(distribution: Any) -> None:
    values = [jitter_at(distribution, 0.01 * n) for n in range(-500, 501)]
    assert all(earlier < later for earlier, later in pairwise(values))


@given(distribution=st.sampled_from(DISTRIBUTIONS), z=st.floats(-5.0, 8.0))
def test_the_share_is_that_of_the_normal_number(distribution: Any, z: float) -> None:
    assert share_up_to(distribution, jitter_at(distribution, z)) == pytest.approx(NORMAL.cdf(z), abs=1e-9)


@given(
    distribution=st.sampled_from(DISTRIBUTIONS),
    jitters=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
)
def test_the_share_rises_from_0_to_1_for_any_jitter(distribution: Any, jitters: tuple[float, float]) -> None:
    low, high = (share_up_to(distribution, jitter) for jitter in sorted(jitters))
    assert 0.0 <= low <= high + 1e-12 <= 1.0 + 1e-12


def test_the_tail_of_a_pareto_distribution_falls_with_the_third_power() -> None:
    def chance_above(value: float) -> float:
        return 1.0 - share_up_to("pareto", (value - 1.5) / math.sqrt(0.75))

    assert chance_above(10.0) == pytest.approx(1e-3)
    assert chance_above(100.0) == pytest.approx(1e-6)
