"""One line of a calibration: a figure of the link beside its setting, and whether they agree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from netem.figures import Value
from netem.probe.bench import Bench
from netem.probe.estimates import Estimate

Kind = Literal["chance", "timing", "rate"]
"""What a figure depends on besides the link: nothing, how busy the machine is, how fast it is."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure, and how exact the machine can be expected to be."""

    share: float
    """Of the full number of datagrams and seconds."""
    timing_ms: float
    """By how much 99 % of the packets may miss their times."""

    def of(self, count: int) -> int:
        """That share of a number of datagrams."""
        return round(self.share * count)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure; `expected`, `measured`, `tolerance` and the interval of 95 % are in `unit`."""

    setting: str
    figure: str
    unit: str
    kind: Kind
    expected: float
    measured: float
    interval: tuple[float, float] | None
    tolerance: float
    is_ok: bool
    """Python's own bool, not one of numpy: JSON knows only that."""

    def as_json(self) -> dict[str, Value]:
        """All of it as plain values."""
        low, high = self.interval or (None, None)
        return {**self._begin(), "low": low, "high": high, **self._end(), "ok": self.is_ok}

    def as_text(self) -> dict[str, Value]:
        """What a table shows."""
        interval = "-" if self.interval is None else f"{self.interval[0]:.4g} to {self.interval[1]:.4g}"
        shown = {key: value for key, value in self._begin().items() if key != "kind"}
        return {**shown, "interval (95 %)": interval, **self._end(), "ok": self.is_ok}

    def fault(self) -> str:
        """In words, where it is not ok."""
        return (
            f"{self.setting}: {self.figure} is {self.measured:.4g} {self.unit}, not {self.expected:.4g} "
            f"(tolerance {self.tolerance:g})"
        )

    def _begin(self) -> dict[str, Value]:
        return {
            "setting": self.setting,
            "figure": self.figure,
            "unit": self.unit,
            "kind": self.kind,
            "expected": self.expected,
            "measured": self.measured,
        }

    def _end(self) -> dict[str, Value]:
        return {"tolerance": self.tolerance}


Trial = Callable[[Bench, Effort], Awaitable[list[Row]]]
"""Measures one setting, or one for each direction at the same time."""


def estimated(
    setting: str,
    figure: str,
    unit: str,
    *,
    expected: float,
    estimate: Estimate,
    tolerance: float,
    scale: float = 1.0,
) -> Row:
    """Agrees where the wide interval, widened by `tolerance`, holds what is expected.

    `expected` and `tolerance` are in `unit`; `scale` makes `unit` of what was estimated.
    """
    low, high = (scale * bound for bound in estimate.wide)
    return Row(
        setting,
        figure,
        unit,
        "chance",
        expected,
        scale * estimate.value,
        (scale * estimate.interval[0], scale * estimate.interval[1]),
        tolerance,
        bool(low - tolerance <= expected <= high + tolerance),
    )


def measured(
    setting: str,
    figure: str,
    unit: str,
    kind: Kind,
    *,
    expected: float,
    value: float,
    tolerance: float,
) -> Row:
    """Agrees where the difference is at most `tolerance`."""
    is_ok = bool(abs(value - expected) <= tolerance)
    return Row(setting, figure, unit, kind, expected, value, None, tolerance, is_ok)


def at_least(setting: str, figure: str, unit: str, *, expected: float, value: float) -> Row:
    """Agrees where the value is not below the expected one."""
    return Row(setting, figure, unit, "rate", expected, value, None, 0.0, bool(value >= expected))
