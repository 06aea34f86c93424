"""Figures of a run: percentiles, and the report that every command prints as a table or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import click

Value = str | int | float | bool | None

MAX_FAULTS_SHOWN = 20
"""Faults that are printed; one is enough to work on, JSON has all."""

_PERCENTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "p9999_ms": 0.9999}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed (nearest rank); nan of none."""
    if not ordered:
        return math.nan
    return ordered[min(max(math.ceil(share * len(ordered)), 1), len(ordered)) - 1]


def delay_figures(delays: Sequence[float]) -> dict[str, float]:
    """p50, p99, p99.9 and p99.99 in milliseconds of delays in seconds."""
    ordered = sorted(delays)
    return {key: percentile(ordered, share) * 1e3 for key, share in _PERCENTILES.items()}


@dataclass(slots=True)
class Report:
    """What a command has found: either `figures` or a table of `rows`, and what went wrong."""

    command: str
    conditions: dict[str, Value]
    figures: dict[str, Value] = field(default_factory=dict)
    rows: list[dict[str, Value]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """One JSON document; numbers that do not exist are null."""
        document: dict[str, object] = {"command": self.command, **_plain(self.conditions)}
        document |= _plain(self.figures)
        if self.rows:
            document["rows"] = [_plain(row) for row in self.rows]
        document["faults"] = self.faults
        return json.dumps(document, indent=2, allow_nan=False)

    def to_text(self) -> str:
        """The conditions in one line, then a table."""
        conditions = ", ".join(f"{key} {_cell(value)}" for key, value in self.conditions.items())
        rows = self.rows or [{"figure": key, "value": value} for key, value in self.figures.items()]
        return f"{self.command}: {conditions}\n\n{_table(rows)}"

    def finish(self, *, as_json: bool) -> None:
        """Print the report; exit with status 1 where something was not exact."""
        click.echo(self.to_json() if as_json else self.to_text())
        if self.faults:
            for fault in self.faults[:MAX_FAULTS_SHOWN]:
                click.echo(f"fault: {fault}", err=True)
            raise SystemExit(1)


def _plain(values: Mapping[str, Value]) -> dict[str, Value]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else _rounded(value)
        for key, value in values.items()
    }


def _rounded(value: Value) -> Value:
    return round(value, 6) + 0.0 if isinstance(value, float) else value


def _cell(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # Adding zero makes a rounded -0.0 positive.
        return f"{round(value, 4) + 0.0:.4g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _table(rows: Sequence[Mapping[str, Value]]) -> str:
    """Columns in the order of the first row, numbers to the right."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    is_text = [isinstance(rows[0][column], str) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in cells
    )
