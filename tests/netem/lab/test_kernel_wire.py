"""The `kernel` backend as far as a kernel without tc-netem shows it; the rest is in tests/kernel."""

import asyncio
import os
from dataclasses import replace

import pytest

from eloquent.errors import ConfigurationError
from netem import Change, Impairment, Lab, LabUnavailable, Scenario, scenario, scenario_names
from netem.lab.kernel.wire import check_playable, missing
from netem.lab.namespace import namespaces
from netem.trace import DeliveryTrace

CLEAR = Impairment()


def test_the_scenarios_that_come_with_the_package_are_playable() -> None:
    for name in scenario_names():
        check_playable(scenario(name))


@pytest.mark.parametrize(
    ("impairment", "reason"),
    [
        (Impairment(trace=DeliveryTrace((0, 5, 10))), "trace"),
        (Impairment(delay_s=0.1, jitter_s=0.01, jitter_correlation=0.5), "jitter_correlation 0.5"),
        (Impairment(reordering=0.1, reordering_delay_s=20.0), "17 s"),
    ],
    ids=["trace", "correlation", "long delays"],
)
def test_what_tc_cannot_play_is_refused_wherever_it_stands(impairment: Impairment, reason: str) -> None:
    plain = Scenario("odd", CLEAR, CLEAR)
    for odd in (
        replace(plain, up=impairment),
        replace(plain, down=impairment),
        replace(plain, changes=(Change(1.0, CLEAR, impairment),)),
    ):
        with pytest.raises(ConfigurationError, match=reason) as caught:
            check_playable(odd)
        assert "'odd'" in str(caught.value)
        assert "`user`" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
async def test_what_is_missing_is_named_with_a_remedy_and_leaves_nothing() -> None:
    before = {each.name for each in namespaces()}
    lacks = await asyncio.to_thread(missing)
    mine = {each.name for each in namespaces() if f".{os.getpid()}." in each.name}
    assert mine <= before
    if not lacks:
        pytest.skip("this kernel has all of it; tests/kernel boots one that has, too")
    (reason,) = lacks
    assert "sch_netem" in reason
    assert "modprobe" in reason
    with pytest.raises(LabUnavailable, match="sch_netem"):
        async with Lab(Scenario("clear", CLEAR, CLEAR), backend="kernel"):
            pass
