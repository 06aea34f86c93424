"""The tables from which tc-netem draws delays, read as the kernel reads them."""

import math
from array import array
from statistics import fmean, pstdev

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from netem.impairment import Impairment
from netem.jitter import DISTRIBUTIONS
from netem.lab.kernel.delays import TABLE_ENTRIES, DelayTable, delay_table

FEW = settings(max_examples=15)
NS = 1e-9


def delays_ns(table: DelayTable) -> list[int]:
    """Every delay that tabledist() of sch_netem.c can give."""
    if not table.jitter_ns:
        return [table.latency_ns]
    return [tabledist(table.latency_ns, table.jitter_ns, entry) for entry in array("h", table.entries)]


def tabledist(mu: int, sigma: int, t: int) -> int:
    x = (sigma % 8192) * t
    x += 4096 if x >= 0 else -4096
    return math.trunc(x / 8192) + sigma // 8192 * t + mu


def resolution_ns(table: DelayTable) -> float:
    return table.jitter_ns / 8192 + 2.0


@given(st.floats(0.0, 100.0))
def test_a_constant_delay_needs_no_table(delay_s: float) -> None:
    table = delay_table(Impairment(delay_s=delay_s))
    assert table == DelayTable(round(delay_s / NS), 0, b"")


@FEW
@given(
    st.floats(0.0, 1.0),
    st.floats(1e-6, 1.0),
    st.sampled_from(DISTRIBUTIONS),
)
@example(0.0, 1e-6, "pareto")
def test_quantiles_come_back_within_the_resolution(delay_s: float, jitter_s: float, shape: str) -> None:
    impairment = Impairment(delay_s=delay_s, jitter_s=jitter_s, jitter_distribution=shape)  # type: ignore[arg-type]
    table = delay_table(impairment)
    delays = sorted(delays_ns(table))
    assert len(delays) == TABLE_ENTRIES
    for index in range(0, TABLE_ENTRIES, 97):
        expected = impairment.delay_quantile((index + 0.5) / TABLE_ENTRIES) / NS
        assert delays[index] == pytest.approx(expected, abs=resolution_ns(table))


def test_jitter_has_its_mean_and_deviation() -> None:
    delays = delays_ns(delay_table(Impairment(delay_s=0.1, jitter_s=0.02)))
    assert fmean(delays) * NS == pytest.approx(0.1, abs=1e-6)
    assert pstdev(delays) * NS == pytest.approx(0.02, rel=1e-3)


def test_delays_are_never_negative() -> None:
    table = delay_table(Impairment(delay_s=0.001, jitter_s=0.02))
    assert min(delays_ns(table)) >= -resolution_ns(table)


@FEW
@given(st.floats(0.001, 1.0), st.floats(0.001, 1.0), st.sampled_from([0.0, 0.01]))
def test_the_share_that_is_reordered_comes_late(share: float, late_s: float, jitter_s: float) -> None:
    impairment = Impairment(delay_s=0.1, jitter_s=jitter_s, reordering=share, reordering_delay_s=late_s)
    table = delay_table(impairment)
    delays = delays_ns(table)
    expected = 0.1 + late_s * round(share * TABLE_ENTRIES) / TABLE_ENTRIES
    assert fmean(delays) * NS == pytest.approx(expected, abs=resolution_ns(table) * NS + 1e-5)


def test_without_jitter_there_are_two_delays() -> None:
    table = delay_table(Impairment(delay_s=0.01, reordering=0.25, reordering_delay_s=0.05))
    delays = delays_ns(table)
    late = [delay for delay in delays if delay > 30e6]
    assert len(late) == TABLE_ENTRIES // 4
    assert set(late) == {max(delays)}
    assert max(delays) == pytest.approx(60e6, abs=resolution_ns(table))
    assert min(delays) == pytest.approx(10e6, abs=resolution_ns(table))
