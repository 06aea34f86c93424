"""Whether packets come when they should: delays at token rates, outages on the wall clock."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from netem.impairment import Impairment
from netem.probe.bench import Bench, Passage, Times
from netem.probe.datagrams import Flow
from netem.probe.row import Effort, Row, measured
from netem.scenario import Outage, Scenario

_BUSY_FACTOR = 5.0
"""How much later than 99 % the last of the packets may be, and programs than packets; arbitrary."""

_DELAY_S = 0.025
_TOKEN_FLOW = Flow(count=600, interval_s=0.010)
"""100 datagrams a second: a fast model."""

_OUTAGE = Outage(start_s=0.8, duration_s=0.3)
_HELD = Outage(start_s=0.8, duration_s=0.3, held=True)
_OUTAGE_DELAY_S = 0.020
_DENSE_FLOW = Flow(count=1300, interval_s=0.001)
"""Dense enough to see to a millisecond when an outage begins and ends."""


async def delays(bench: Bench, effort: Effort) -> list[Row]:
    """A constant delay each way: of the link by the kernel's stamps, of a ping by its programs.

    A ping has also what two programs waited for a processor; its tolerance is wider.
    """
    path = Impairment(delay_s=_DELAY_S)
    flow = Flow(effort.of(_TOKEN_FLOW.count), _TOKEN_FLOW.interval_s)
    both = await bench.exchange(Scenario("delays", path, path), up=flow, echoes=True)
    rtts = both.up.delays_by_number + both.down.delays_by_number
    pings = both.down.read_at - both.up.sent_at[both.down.numbers]
    error_rows = partial(_error_rows, effort.timing_ms)
    return [
        *error_rows("25 ms up", "link's error", both.up.delays_s - _DELAY_S),
        *error_rows("25 ms down", "link's error", both.down.delays_s - _DELAY_S),
        *error_rows("RTT of 50 ms", "link's error", rtts[~np.isnan(rtts)] - 2.0 * _DELAY_S),
        *_error_rows(
            _BUSY_FACTOR * effort.timing_ms, "RTT of 50 ms", "programs' error", pings - 2.0 * _DELAY_S
        ),
    ]


def _error_rows(tolerance_ms: float, setting: str, name: str, errors_s: Times) -> list[Row]:
    ordered = np.sort(np.abs(errors_s)) * 1e3
    p50, p99 = np.quantile(ordered, [0.50, 0.99])
    figures = (
        ("p50", p50, tolerance_ms),
        ("p99", p99, tolerance_ms),
        ("max", ordered[-1], _BUSY_FACTOR * tolerance_ms),
    )
    return [
        measured(
            setting,
            f"{name}, {label}",
            "ms",
            "timing",
            expected=0.0,
            value=float(value),
            tolerance=tolerance,
        )
        for label, value, tolerance in figures
    ]


async def outage(bench: Bench, effort: Effort) -> list[Row]:
    """A window in which nothing passes: when it begins and ends, by the sends on both sides of it."""
    path = Impairment(delay_s=_OUTAGE_DELAY_S)
    scenario = Scenario("outage", path, path, outages=(_OUTAGE,))
    up = (await bench.exchange(scenario, up=_DENSE_FLOW)).up
    setting = "outage of 0.3 s"
    begins, ends, passed = _edges(up)
    return [
        _moment_row(setting, "begin, error", begins - _OUTAGE.start_s, effort),
        _moment_row(setting, "end, error", ends - _OUTAGE.start_s - _OUTAGE.duration_s, effort),
        _count_row(setting, "passed within", passed),
    ]


def _edges(passage: Passage) -> tuple[float, float, float]:
    """(begin, end, packets that passed in between) of the window in which packets were lost.

    Each moment lies between two sends; their middle is at most half a gap off.
    """
    sent_at = passage.sent_at
    lost = np.flatnonzero(passage.is_lost)
    if not len(lost) or lost[0] == 0 or lost[-1] == len(sent_at) - 1:
        return math.nan, math.nan, math.nan
    begin = (sent_at[lost[0] - 1] + sent_at[lost[0]]) / 2.0
    end = (sent_at[lost[-1]] + sent_at[lost[-1] + 1]) / 2.0
    return float(begin), float(end), float(lost[-1] + 1 - lost[0] - len(lost))


async def held_outage(bench: Bench, effort: Effort) -> list[Row]:
    """A window in which all is held: when it is released, whether anything was lost or overtaken."""
    path = Impairment(delay_s=_OUTAGE_DELAY_S)
    scenario = Scenario("held", path, path, outages=(_HELD,))
    up = (await bench.exchange(scenario, up=_DENSE_FLOW)).up
    ends_at = _HELD.start_s + _HELD.duration_s
    was_held = (up.sent_at > _HELD.start_s) & (up.sent_at < ends_at)
    released = up.first_arrival_at[was_held] - ends_at - _OUTAGE_DELAY_S
    overtaken = float(np.sum(np.diff(up.numbers) < 0))
    setting = "held outage of 0.3 s"
    return [
        _moment_row(setting, "first released, error", float(np.nanmin(released)), effort),
        _moment_row(setting, "last released, error", float(np.nanmax(released)), effort),
        _count_row(setting, "lost", float(np.sum(up.is_lost))),
        _count_row(setting, "out of order", overtaken),
    ]


def _moment_row(setting: str, figure: str, error_s: float, effort: Effort) -> Row:
    return measured(
        setting,
        figure,
        "ms",
        "timing",
        expected=0.0,
        value=1e3 * error_s,
        tolerance=effort.timing_ms,
    )


def _count_row(setting: str, figure: str, count: float) -> Row:
    return measured(setting, figure, "packets", "chance", expected=0.0, value=count, tolerance=0.0)
