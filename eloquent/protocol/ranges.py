"""A set of byte ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """Disjoint half-open ranges [start, stop) in ascending order."""

    __slots__ = ("_stops", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        """First offsets, ascending: as a truth value, cheaper than asking the set."""
        self._stops: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts, self._stops, strict=True)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def first(self) -> tuple[int, int]:
        """The lowest range; the set must not be empty."""
        return self.starts[0], self._stops[0]

    @property
    def size(self) -> int:
        """Bytes in all ranges."""
        return sum(self._stops) - sum(self.starts)

    def add(self, start: int, stop: int) -> None:
        """Add a range, merging what touches it."""
        if start >= stop:
            return
        low = bisect_left(self._stops, start)
        high = bisect_right(self.starts, stop)
        if low < high:
            start = min(start, self.starts[low])
            stop = max(stop, self._stops[high - 1])
        self.starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """Take a range out, splitting what lies around it."""
        if start >= stop:
            return
        low = bisect_right(self._stops, start)
        high = bisect_left(self.starts, stop)
        if low >= high:
            return
        starts, stops = [], []
        if self.starts[low] < start:
            starts.append(self.starts[low])
            stops.append(start)
        if self._stops[high - 1] > stop:
            starts.append(stop)
            stops.append(self._stops[high - 1])
        self.starts[low:high] = starts
        self._stops[low:high] = stops

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of [start, stop) that are not in the set."""
        found = []
        for index in range(bisect_right(self._stops, start), len(self.starts)):
            if self.starts[index] >= stop:
                break
            if self.starts[index] > start:
                found.append((start, self.starts[index]))
            start = self._stops[index]
        if start < stop:
            found.append((start, stop))
        return found
