"""How an answer appears while it comes: on a terminal, as plain text, or not at all."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import Self, assert_never

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from eloquent.client import Status
from eloquent.protocol.events import Fallback, PathChanged, Resumed, Stalled, Thinking

REFRESH_RATE = 12
"""Pictures per second: enough for a count of tenths."""

RESUMED_FOR = 2.0
"""Seconds that the end of a stall stays on the screen."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters with which an answer could command the terminal; newline and tab stay."""


class Screen:
    """Shows one answer, inside of its `with` block: status lines on standard error, the text nowhere."""

    def __init__(self) -> None:
        self._heard_at = time.monotonic()
        """When there was text, or another sign that the network works."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def on_arrival(self) -> None:
        """Text has come; with a pace, it is shown later."""
        self._heard_at = time.monotonic()

    def on_text(self, text: str) -> None:
        """Show a piece of the answer."""

    def on_status(self, status: Status) -> None:
        """Something else has happened."""
        self._tell(status, self._heard())
        if isinstance(status, (Thinking, Resumed)):
            self._heard_at = time.monotonic()

    def _heard(self) -> float:
        """Seconds since anything was heard."""
        return time.monotonic() - self._heard_at

    def _tell(self, status: Status, seconds: float) -> None:
        print(f"[{describe(status, seconds)}]", file=sys.stderr, flush=True)


class Plain(Screen):
    """The text, and nothing else, on standard output."""

    def on_text(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class Terminal(Screen):
    """Finished rows scroll up as ordinary output; the row in progress and the status are redrawn."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._row = ""
        self._has_text = False
        self._status: Status | None = None
        self._told_at = 0.0
        self._told_seconds = 0.0
        self._live = Live(self, console=console, refresh_per_second=REFRESH_RATE, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._print(self._row)

    def on_arrival(self) -> None:
        super().on_arrival()
        if not isinstance(self._status, Resumed):
            self._status = None

    def on_text(self, text: str) -> None:
        self._has_text = True
        # Only one row is redrawn; what goes beyond it is printed for good.
        *finished, self._row = self._wrapped(self._row + _CONTROL.sub("", text))
        if finished:
            self._print("\n".join(finished))

    def _tell(self, status: Status, seconds: float) -> None:
        self._status, self._told_at, self._told_seconds = status, time.monotonic(), seconds

    def _wrapped(self, text: str) -> list[str]:
        # Wrapping drops spaces that do not fit at the end of a row; the next word needs them.
        visible = text.rstrip(" ")
        rows = [
            row.plain
            for line in visible.split("\n")
            for row in Text(line).wrap(self._console, self._console.width)
        ]
        rows[-1] += text[len(visible) :]
        return rows

    def _print(self, row: str) -> None:
        self._console.print(Text(row), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Asked anew for each picture, also when a finished row is printed above it.
        yield Text(self._row, no_wrap=True, overflow="crop")
        yield self._status_line()

    def _status_line(self) -> Text:
        status = self._status
        if status is None:
            return Text("" if self._has_text else "waiting for the first token", style="dim")
        if isinstance(status, Resumed) and time.monotonic() - self._told_at > RESUMED_FOR:
            return Text()
        seconds = self._told_seconds if isinstance(status, Resumed) else self._heard()
        style = (
            "bold red" if isinstance(status, Stalled) else "green" if isinstance(status, Resumed) else "dim"
        )
        return Text(describe(status, seconds), style=style)


def describe(status: Status, seconds: float) -> str:
    """A status in words, `seconds` after anything was heard from the server."""
    if isinstance(status, Thinking):
        return "thinking"
    if isinstance(status, Stalled):
        return f"stalled for {seconds:.1f} s"
    if isinstance(status, Resumed):
        return f"resumed after {seconds:.1f} s"
    if isinstance(status, PathChanged):
        return "the network has changed"
    if isinstance(status, Fallback):
        return "paused: the network is overloaded"
    assert_never(status)
