"""RangeSet against a set of integers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.ranges import RangeSet

BOUND = 40
offsets = st.integers(0, BOUND)
operations = st.lists(st.tuples(st.sampled_from(["add", "remove"]), offsets, offsets), max_size=30)


def built(steps: list[tuple[str, int, int]]) -> tuple[RangeSet, set[int]]:
    ranges, model = RangeSet(), set[int]()
    for name, start, stop in steps:
        getattr(ranges, name)(start, stop)
        if name == "add":
            model |= set(range(start, stop))
        else:
            model -= set(range(start, stop))
    return ranges, model


def members(pairs: list[tuple[int, int]]) -> set[int]:
    return {offset for start, stop in pairs for offset in range(start, stop)}


@given(operations)
def test_holds_what_a_set_would_hold(steps: list[tuple[str, int, int]]) -> None:
    ranges, model = built(steps)
    assert members(list(ranges)) == model
    assert ranges.size == len(model)
    assert bool(ranges) == bool(model)
    assert len(ranges) == len(list(ranges))
    if model:
        assert ranges.first[0] == min(model)


@given(operations)
def test_ranges_are_ascending_and_never_touch(steps: list[tuple[str, int, int]]) -> None:
    pairs = list(built(steps)[0])
    assert all(start < stop for start, stop in pairs)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(pairs))


@given(operations, offsets, offsets)
def test_gaps_are_the_complement(steps: list[tuple[str, int, int]], start: int, stop: int) -> None:
    ranges, model = built(steps)
    gaps = ranges.gaps(start, stop)
    assert members(gaps) == set(range(start, stop)) - model
    assert sum(high - low for low, high in gaps) == len(members(gaps))
    assert all(low < high for low, high in gaps)
