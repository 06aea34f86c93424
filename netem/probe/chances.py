"""Whether what happens by chance happens as often, as long and in the shape that was set.

Datagrams are sent densely here; what is measured does not depend on when they leave, except for
bursts in wall-clock time, where it is known for each when it left. Most settings come in pairs, one
for each direction at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from netem.impairment import Bursts, GilbertElliott, Impairment
from netem.link import burst_clock
from netem.probe.bench import Bench, Passage, Times
from netem.probe.datagrams import Flow
from netem.probe.estimates import KS_999, Estimate, correlation, deviation, distance, mean, proportion
from netem.probe.row import Effort, Row, estimated, measured
from netem.scenario import Scenario

_DELAY_S = 0.005
_FAST_S = 0.0005
_DENSE_S = 0.001
_ECT_0 = 0b10  # RFC 3168 section 5
_CE = 0b11
_ECN_BITS = 0b11

_LOSS = 0.05
_GILBERT_ELLIOTT = GilbertElliott(p=0.03, r=0.3)
_BURSTS = Bursts(good_s=0.040, bad_s=0.010)
_JITTER_DELAY_S = 0.050
_NORMAL_S = 0.010
_UNIFORM_S = 0.020
_CORRELATION = 0.5
_SHARE = 0.05
"""Of duplicates, reordered and corrupted packets, each in a run of its own."""
_REORDERING_DELAY_S = 0.050
_MARKS = 0.20

ShareBelow = Callable[[Times], Times]
"""The share of a distribution that is below each of these values."""

_SHAPE_TOLERANCE = 0.005
"""Of the distance between distributions, per millisecond by which packets may miss their times."""

_WIDTH_TOLERANCE = 0.1
"""Of a standard deviation, per millisecond by which packets may miss their times."""


async def losses(bench: Bench, effort: Effort) -> list[Row]:
    """Independent loss up, Gilbert-Elliott loss down."""
    scenario = Scenario(
        "losses",
        up=Impairment(delay_s=_DELAY_S, loss=_LOSS),
        down=Impairment(delay_s=_DELAY_S, gilbert_elliott=_GILBERT_ELLIOTT),
    )
    flow = Flow(effort.of(8000), _FAST_S)
    both = await bench.exchange(scenario, up=flow, down=flow)
    return [
        _share_row("loss 5 %", "lost", _LOSS, float(np.sum(both.up.is_lost)), len(both.up.sent_at)),
        *_gilbert_elliott_rows(both.down),
    ]


def _gilbert_elliott_rows(passage: Passage) -> list[Row]:
    model = _GILBERT_ELLIOTT
    setting = "Gilbert-Elliott, p 3 %, r 30 %"
    # Neighbours depend on each other: the states' correlation is 1 - p - r from one to the next.
    memory = 1.0 - model.p - model.r
    trials = len(passage.sent_at) * (1.0 - memory) / (1.0 + memory)
    share = float(np.mean(passage.is_lost))
    lengths = [float(stop - start) for start, stop in _runs(passage.is_lost)]
    return [
        estimated(
            setting,
            "lost",
            "%",
            expected=1e2 * model.mean_loss,
            estimate=proportion(share, trials),
            tolerance=0.1,
            scale=1e2,
        ),
        estimated(
            setting,
            "mean burst",
            "packets",
            expected=1.0 / model.r,
            estimate=mean(np.array(lengths)),
            tolerance=0.05,
        ),
    ]


async def bursts(bench: Bench, effort: Effort) -> list[Row]:
    """Bursts by the clock: how much of the time, how long, and whether where the seed puts them."""
    path = Impairment(delay_s=_DELAY_S, bursts=_BURSTS)
    up = (await bench.exchange(Scenario("bursts", path, path), up=Flow(effort.of(6000), _DENSE_S))).up
    setting = "bursts, 40 ms good, 10 ms bad"
    lasted_s = up.sent_at[-1] - up.sent_at[0]
    gap_s = lasted_s / (len(up.sent_at) - 1)
    # Seen every gap, the two states are a chain whose memory is exp(-gap / forgetting).
    forgetting_s = 1.0 / (1.0 / _BURSTS.good_s + 1.0 / _BURSTS.bad_s)
    share_of_bad = _BURSTS.share_of_bad
    leaving = (1.0 - share_of_bad) * -math.expm1(-gap_s / forgetting_s)
    lengths = [gap_s * (stop - start) for start, stop in _runs(up.is_lost)]
    return [
        estimated(
            setting,
            "share of time",
            "%",
            expected=1e2 * share_of_bad,
            estimate=proportion(float(np.mean(up.is_lost)), lasted_s / (2.0 * forgetting_s)),
            tolerance=0.1,
            scale=1e2,
        ),
        estimated(
            setting,
            "mean burst, as sampled",
            "ms",
            expected=1e3 * gap_s / leaving,
            estimate=mean(np.array(lengths)),
            tolerance=0.5,
            scale=1e3,
        ),
        measured(
            setting,
            "not as the seed says",
            "%",
            "timing",
            expected=0.0,
            value=1e2 * float(np.mean(up.is_lost != _bad_at(up.sent_at, bench.seed))),
            # Packets within that time of an edge may go either way; each cycle has two.
            tolerance=1e2 * 2.0 * effort.timing_ms / 1e3 / (_BURSTS.good_s + _BURSTS.bad_s),
        ),
    ]


def _bad_at(times: Times, seed: int) -> NDArray[np.bool_]:
    """The burst clock's state at these times."""
    clock = burst_clock(_BURSTS, "up", seed=seed)
    return np.array([clock.is_bad(float(at)) for at in times], dtype=np.bool_)


async def jitters(bench: Bench, effort: Effort) -> list[Row]:
    """Normal jitter up, uniform jitter down."""
    scenario = Scenario(
        "jitters",
        up=Impairment(delay_s=_JITTER_DELAY_S, jitter_s=_NORMAL_S),
        down=Impairment(delay_s=_JITTER_DELAY_S, jitter_s=_UNIFORM_S, jitter_distribution="uniform"),
    )
    flow = Flow(effort.of(6000), _FAST_S)
    both = await bench.exchange(scenario, up=flow, down=flow)
    return [
        *_jitter_rows("jitter, normal, 50 ± 10 ms", both.up.delays_s, _NORMAL_S, _normal_share, effort),
        *_jitter_rows(
            "jitter, uniform, 30 to 70 ms",
            both.down.delays_s,
            _UNIFORM_S / math.sqrt(3.0),
            _uniform_share,
            effort,
        ),
    ]


def _jitter_rows(
    setting: str, delays: Times, deviation_s: float, share_below: ShareBelow, effort: Effort
) -> list[Row]:
    def row(figure: str, expected_s: float, estimate: Estimate, tolerance_ms: float) -> Row:
        return estimated(
            setting,
            figure,
            "ms",
            expected=1e3 * expected_s,
            estimate=estimate,
            tolerance=tolerance_ms,
            scale=1e3,
        )

    return [
        row("mean", _JITTER_DELAY_S, mean(delays), effort.timing_ms),
        row("standard deviation", deviation_s, deviation(delays), _WIDTH_TOLERANCE * effort.timing_ms),
        measured(
            setting,
            "distance from its shape",
            "",
            "chance",
            expected=0.0,
            # Where it lies is the row of the mean; here counts the shape.
            value=distance(delays - np.mean(delays) + _JITTER_DELAY_S, share_below),
            tolerance=KS_999 / math.sqrt(len(delays)) + _SHAPE_TOLERANCE * effort.timing_ms,
        ),
    ]


def _normal_share(delays: Times) -> Times:
    units = (delays - _JITTER_DELAY_S) / _NORMAL_S
    return np.array([0.5 + 0.5 * math.erf(unit * math.sqrt(0.5)) for unit in units])


def _uniform_share(delays: Times) -> Times:
    return np.clip((delays - _JITTER_DELAY_S + _UNIFORM_S) / (2.0 * _UNIFORM_S), 0.0, 1.0)


async def duplicates(bench: Bench, effort: Effort) -> list[Row]:
    """Duplication up."""
    path = Impairment(delay_s=_DELAY_S, duplication=_SHARE)
    flow = Flow(effort.of(4000), _FAST_S)
    up = (await bench.exchange(Scenario("duplicates", path, path), up=flow)).up
    copies = np.bincount(up.numbers, minlength=len(up.sent_at))
    return [
        _share_row("duplication 5 %", "came twice", _SHARE, float(np.sum(copies == 2)), len(copies)),
        _none_row("duplication 5 %", "came not once or twice", float(np.sum((copies < 1) | (copies > 2)))),
    ]


async def correlated_jitter(bench: Bench, effort: Effort) -> list[Row]:
    """Jitter up whose neighbours are alike."""
    path = Impairment(delay_s=_JITTER_DELAY_S, jitter_s=_NORMAL_S, jitter_correlation=_CORRELATION)
    flow = Flow(effort.of(4000), _FAST_S)
    up = (await bench.exchange(Scenario("correlated-jitter", path, path), up=flow)).up
    return [
        estimated(
            "jitter, correlation 0.5",
            "correlation of neighbours",
            "",
            expected=_CORRELATION,
            estimate=correlation(up.delays_s),
            tolerance=0.05,
        )
    ]


async def reordering_and_corruption(bench: Bench, effort: Effort) -> list[Row]:
    """Reordering up; corruption down, of datagrams without a checksum of UDP."""
    scenario = Scenario(
        "reordering-and-corruption",
        up=Impairment(delay_s=_DELAY_S, reordering=_SHARE, reordering_delay_s=_REORDERING_DELAY_S),
        down=Impairment(delay_s=_DELAY_S, corruption=_SHARE),
    )
    count = effort.of(4000)
    both = await bench.exchange(
        scenario,
        up=Flow(count, _FAST_S),
        down=Flow(count, _FAST_S, size=1000, has_checksum=False),
    )
    delays = both.up.delays_s - _DELAY_S
    late = delays[delays > _REORDERING_DELAY_S / 2.0]
    setting = "reordering 5 %, by 50 ms"
    # A bit of the headers that flips drops the packet: lost or damaged, both were corrupted.
    corrupted = float(np.sum(both.down.is_lost))
    return [
        _share_row(setting, "late", _SHARE, float(len(late)), len(delays)),
        estimated(
            setting,
            "late by",
            "ms",
            expected=1e3 * _REORDERING_DELAY_S,
            estimate=mean(late),
            tolerance=effort.timing_ms,
            scale=1e3,
        ),
        _none_row(setting, "lost", float(np.sum(both.up.is_lost))),
        _share_row("corruption 5 %", "damaged", _SHARE, corrupted, len(both.down.sent_at)),
    ]


async def marks(bench: Bench, effort: Effort) -> list[Row]:
    """Marking in place of loss up, for packets that allow it; the same with packets that do not down."""
    path = Impairment(delay_s=_DELAY_S, loss=_MARKS, ecn=True)
    count = effort.of(3000)
    both = await bench.exchange(
        Scenario("marks", path, path), up=Flow(count, _FAST_S, tos=_ECT_0), down=Flow(count, _FAST_S)
    )
    ecn = both.up.tos & _ECN_BITS
    return [
        _share_row("ECN, loss 20 %", "marked", _MARKS, float(np.sum(ecn == _CE)), len(both.up.sent_at)),
        _none_row("ECN, loss 20 %", "lost", float(np.sum(both.up.is_lost))),
        _share_row(
            "ECN, not allowed by the packet",
            "lost",
            _MARKS,
            float(np.sum(both.down.is_lost)),
            len(both.down.sent_at),
        ),
    ]


def _share_row(setting: str, figure: str, expected: float, count: float, trials: int) -> Row:
    estimate = proportion(count / trials, trials)
    return estimated(
        setting, figure, "%", expected=1e2 * expected, estimate=estimate, tolerance=0.1, scale=1e2
    )


def _none_row(setting: str, figure: str, count: float) -> Row:
    return measured(setting, figure, "packets", "chance", expected=0.0, value=count, tolerance=0.0)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, behind the last) of each unbroken run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
