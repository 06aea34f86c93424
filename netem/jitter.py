"""The distributions of jitter, each as a rising function of a standard normal number z.

With v = 1 - Phi(z), the chance of a larger z, the delay differs from its mean by `jitter_s` times

    normal        z
    uniform       1 - 2 v
    pareto        (v^(-1/3) - 3/2) / sqrt(3/4)
    paretonormal  (z/4 + v^(-1/3) - 3/2) / 1.05178

The last two have the shape of tc-netem's tables (iproute2, netem/pareto.c and paretonormal.c): a
Pareto distribution with exponent 3, and a quarter of a normal one added to three quarters of it.
Their tail is to the right, and above it no moment from the third on exists. They are scaled to a
standard deviation of 1. netem's tables are not: where they end, at 4 times `jitter`, they cut the
tail, which leaves 0.82 and 0.83 and a mean that is 0.03 too low.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal, get_args

Distribution = Literal["normal", "uniform", "pareto", "paretonormal"]

DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)

_NORMAL = NormalDist()
_SQRT_HALF = math.sqrt(0.5)
_PARETO_MEAN = 1.5
_PARETO_DEVIATION = math.sqrt(0.75)
_PARETONORMAL_DEVIATION = 1.0517772455416421
"""Square root of 1/16 + 3/4 + c/2, where c = 0.58747 is the covariance of z and v^(-1/3)."""

_NEWTON_LIMIT = 1e-12


def jitter_at(distribution: Distribution, z: float) -> float:
    """The jitter, in units of `jitter_s`, that belongs to the standard normal number z (below 38)."""
    if distribution == "normal":
        return z
    if distribution == "uniform":
        return math.erf(z * _SQRT_HALF)
    pareto = math.pow(0.5 * math.erfc(z * _SQRT_HALF), -1.0 / 3.0) - _PARETO_MEAN
    if distribution == "pareto":
        return pareto / _PARETO_DEVIATION
    return (0.25 * z + pareto) / _PARETONORMAL_DEVIATION


def share_up_to(distribution: Distribution, jitter: float) -> float:
    """The chance of at most this jitter, in units of `jitter_s`."""
    if distribution == "normal":
        return _NORMAL.cdf(jitter)
    if distribution == "uniform":
        return min(max(0.5 * (1.0 + jitter), 0.0), 1.0)
    if distribution == "pareto":
        value = jitter * _PARETO_DEVIATION + _PARETO_MEAN
        return 0.0 if value <= 1.0 else 1.0 - math.pow(value, -3.0)
    return _NORMAL.cdf(_paretonormal_z(jitter * _PARETONORMAL_DEVIATION))


def _paretonormal_z(target: float) -> float:
    """The z at which z/4 + v^(-1/3) - 3/2 is `target`.

    The function is rising and convex: from the right, Newton's method approaches without overshoot.
    """
    pareto_at_0 = 2.0 ** (1.0 / 3.0) - _PARETO_MEAN
    if target > pareto_at_0:  # then z is above 0, and below the z of the Pareto part alone
        z = -_NORMAL.inv_cdf(math.pow(target + _PARETO_MEAN, -3.0))
    else:  # the Pareto part is above -1/2
        z = min(0.0, 4.0 * (target + 0.5))
    while True:
        v = 0.5 * math.erfc(z * _SQRT_HALF)
        excess = 0.25 * z + math.pow(v, -1.0 / 3.0) - _PARETO_MEAN - target
        step = excess / (0.25 + math.pow(v, -4.0 / 3.0) * _NORMAL.pdf(z) / 3.0)
        z -= step
        if step <= _NEWTON_LIMIT:
            return z


def normal_quantile(u: float) -> float:
    """The z that a share `u` of standard normal numbers does not exceed; `u` between 0 and 1."""
    return _NORMAL.inv_cdf(u)
