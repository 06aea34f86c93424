"""What a sample says about the value behind it: estimates with their intervals.

An interval of 95 % is printed. Whether a link is what it says is decided with one of 99.9 %: a
table of fifty rows would otherwise hold two or three false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from netem.probe.bench import Times

Z_95 = 1.960
Z_999 = 3.291
"""Quantiles of the normal distribution, two-sided."""

KS_999 = 1.949
"""Critical value of the Kolmogorov-Smirnov distance at 99.9 %, times the root of the sample's size."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval of 95 % and the wider one of 99.9 %."""

    value: float
    interval: tuple[float, float]
    wide: tuple[float, float]


def proportion(share: float, trials: float) -> Estimate:
    """A share of independent trials, with Wilson's interval (1927).

    Of trials that depend on one another `trials` is how many independent ones tell as much.
    """
    return Estimate(share, _wilson(share, trials, Z_95), _wilson(share, trials, Z_999))


def _wilson(share: float, trials: float, z: float) -> tuple[float, float]:
    if not trials:
        return 0.0, 1.0
    scale = 1.0 + z * z / trials
    middle = (share + z * z / (2.0 * trials)) / scale
    half = z / scale * math.sqrt(share * (1.0 - share) / trials + z * z / (4.0 * trials * trials))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def mean(sample: Times) -> Estimate:
    """The mean of independent values."""
    if not len(sample):
        return _normal(math.nan, math.inf)
    return _normal(float(np.mean(sample)), float(np.std(sample)) / math.sqrt(len(sample)))


def deviation(sample: Times) -> Estimate:
    """The standard deviation of independent values, its error from their own fourth moment."""
    centred = sample - np.mean(sample)
    variance = float(np.mean(centred**2))
    fourth = float(np.mean(centred**4))
    error = math.sqrt(max(fourth - variance**2, 0.0) / (4.0 * variance * len(sample)))
    return _normal(math.sqrt(variance), error)


def correlation(sample: Times) -> Estimate:
    """The correlation of successive values, if they are a first-order autoregression."""
    centred = sample - np.mean(sample)
    value = float(np.dot(centred[1:], centred[:-1]) / np.dot(centred, centred))
    return _normal(value, math.sqrt((1.0 - value * value) / len(sample)))


def distance(sample: Times, distribution: Callable[[Times], Times]) -> float:
    """Largest difference of the sample's distribution from another (Kolmogorov-Smirnov)."""
    expected = distribution(np.sort(sample))
    count = len(sample)
    above = np.arange(1, count + 1) / count - expected
    below = expected - np.arange(count) / count
    return float(max(above.max(), below.max()))


def _normal(value: float, error: float) -> Estimate:
    return Estimate(
        value,
        (value - Z_95 * error, value + Z_95 * error),
        (value - Z_999 * error, value + Z_999 * error),
    )
