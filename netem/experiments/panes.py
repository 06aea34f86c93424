"""Panes on a terminal: what several readers of the same answer see."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from netem.experiments.race import Side

REFRESH_RATE = 12
"""Pictures per second: enough for a count of tenths."""

MOST_ROWS = 16
"""Rows of text in a pane; arbitrary. Smaller terminals get fewer."""

ROWS_AROUND = 6
"""Rows of the terminal that are not text: the headline, the borders, the cursor's."""

_STALL = "bold white on red"


class Panes:
    """The sides beside each other, drawn as they are at the moment."""

    def __init__(self, headline: str, sides: Sequence[Side]) -> None:
        self._headline = headline
        self._sides = sides

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = max(min(console.height - ROWS_AROUND, MOST_ROWS), 1)
        width = options.max_width // len(self._sides)
        grid = Table.grid(expand=True)
        for _ in self._sides:
            grid.add_column(ratio=1)
        now = time.monotonic()
        grid.add_row(*(_pane(console, side, width - 4, rows, now) for side in self._sides))
        yield Text(self._headline)
        yield grid


def _pane(console: Console, side: Side, width: int, rows: int, now: float) -> Panel:
    stalled_s = side.stalled_for(now=now)
    text = _tail(side, width * rows)
    if stalled_s is not None:
        text.append(f" stalled {stalled_s:.1f}s ", style=_STALL)
    visible = text.wrap(console, width)[-rows:]
    lost_s = sum(stall.lost_s for stall in side.stalls)
    return Panel(
        Text("\n").join(visible),
        title=f"[bold]{side.name}[/bold]",
        subtitle=f"{lost_s:.1f} s lost in stalls",
        height=rows + 2,
        border_style="red" if stalled_s is not None else "green" if side.is_complete else "none",
    )


def _tail(side: Side, size: int) -> Text:
    """At least the last `size` characters, with a mark at each stall.

    From the start of a line, so that rows stay where they are.
    """
    start = side.text.rfind("\n", 0, max(len(side.text) - size, 0)) + 1
    tail = Text()
    for stall in side.stalls:
        if stall.position >= start:
            tail.append(side.text[start : stall.position])
            tail.append(f" {stall.lost_s:.1f}s ", style=_STALL)
            start = stall.position
    tail.append(side.text[start:])
    return tail
