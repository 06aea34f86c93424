"""`eloquent chat`: ask a server, watch the answer come, and see how it came."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console

from eloquent.client import Connection, Status, connect
from eloquent.commands.figures import Figures, figures_of, table_of
from eloquent.commands.loop import BackgroundLoop
from eloquent.commands.options import INTERRUPTED_STATUS, ticket_maker, ticket_options
from eloquent.commands.screen import Plain, Screen, Terminal
from eloquent.errors import ConfigurationError, ConnectTimeout, EloquentError, StreamError
from eloquent.pacer import LISTENING_RATE, READING_RATE, Pacer, paced
from eloquent.protocol.ticket import Address, Ticket
from eloquent.reply import Reply
from eloquent.stats import ConnectionStats
from eloquent.tickets import TicketSource

PACES = {"off": None, "reading": READING_RATE, "listening": LISTENING_RATE}
"""Names for paces, in tokens per second; None shows everything when it comes."""


def _pace(value: str | float | None) -> float | None:
    """A name or a number as tokens per second."""
    if not isinstance(value, str):
        return value
    try:
        rate = PACES[value] if value in PACES else float(value)
        if rate is not None:
            Pacer(rate)
    except (ValueError, ConfigurationError):
        raise click.BadParameter(
            f"{value!r} is not reading, listening, off or a number of tokens per second above 0"
        ) from None
    return rate


@click.command("chat")
@click.argument("prompt", required=False)
@ticket_options
@click.option(
    "--ticket",
    "ticket_text",
    metavar="TEXT",
    help="A ticket, instead of one from the key file; it names the server.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds until a server that does not answer is given up.",
)
@click.option(
    "--pace",
    type=_pace,
    default="off",
    show_default=True,
    metavar="reading|listening|off|N",
    help="Show the text at the speed at which it is read or heard, or at N tokens per second.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document for each answer, nothing else."
)
def command(
    prompt: str | None,
    server: Address,
    key_path: Path | None,
    worker: int,
    ticket_text: str | None,
    timeout: float,
    pace: float | None,
    as_json: bool,
) -> None:
    """Ask a server, and watch the answer come.

    Asks PROMPT, or else one line of standard input after the other over one connection. Ctrl-C stops
    an answer. How the answers came is printed at the end.
    """
    if as_json and pace is not None:
        raise click.UsageError("--pace is for text that is shown; --json shows none")
    source: TicketSource = ticket_text or _own_tickets(server, key_path, worker)
    turns: list[Turn] = []
    with BackgroundLoop() as loop:
        chat = Chat(source, timeout, pace)
        loop.run(chat.open())
        try:
            for text in _lines() if prompt is None else [prompt]:
                turn = loop.run(chat.ask(text, _screen(as_json)))
                turns.append(turn)
                _report(turn, as_json)
        except ConnectTimeout as error:
            raise ConnectTimeout(f"{error} (does `eloquent serve` run there, with the same keys?)") from None
        finally:
            loop.run(chat.close())
    if turns and not as_json:
        console = Console(stderr=not sys.stdout.isatty())
        console.print(table_of([turn.figures for turn in turns]))
    if prompt is not None and not turn.is_shown:
        sys.exit(1 if turn.error else INTERRUPTED_STATUS)


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer, as far as it came. `error` says why not further; Ctrl-C is no error."""

    text: str
    figures: Figures
    is_shown: bool
    """Whether all of it was shown; with a pace, it may be here and not be shown yet."""
    error: EloquentError | None


@dataclass(slots=True)
class Arrived:
    """What has come of an answer, shown or not."""

    texts: list[str]
    stats: ConnectionStats
    """The connection's, when the answer had come: what it sends while a pacer goes on is not counted."""


class Chat:
    """A conversation whose answers are shown on one screen after the other."""

    def __init__(self, source: TicketSource, timeout: float, pace: float | None) -> None:
        self._source = source
        self._timeout = timeout
        self._pace = pace
        self._connection: Connection | None = None
        self._screen: Screen | None = None

    async def open(self) -> None:
        self._connection = await connect(self._source, timeout=self._timeout, on_status=self._on_status)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def ask(self, prompt: str, screen: Screen) -> Turn:
        """One turn; a cancellation stops the answer and returns what has come of it."""
        assert self._connection is not None
        before = self._connection.stats
        arrived = Arrived([], before)
        error: EloquentError | None = None
        is_shown = False
        with screen:
            self._screen = screen
            try:
                async with self._connection.ask(prompt) as reply:
                    with suppress(asyncio.CancelledError):
                        texts = _arriving(reply, self._connection, arrived, screen)
                        async for text in texts if self._pace is None else paced(texts, rate=self._pace):
                            screen.on_text(text)
                        is_shown = True
            except StreamError as caught:
                error = caught
            finally:
                self._screen = None
        figures = figures_of(reply.stats, before, arrived.stats, complete=reply.is_complete)
        return Turn("".join(arrived.texts), figures, is_shown, error)

    def _on_status(self, status: Status) -> None:
        if self._screen is not None:
            self._screen.on_status(status)


async def _arriving(
    reply: Reply, connection: Connection, arrived: Arrived, screen: Screen
) -> AsyncIterator[str]:
    """The text as it comes, whenever it will be shown."""
    try:
        async for text in reply.text():
            arrived.texts.append(text)
            screen.on_arrival()
            yield text
    finally:
        arrived.stats = connection.stats


def _own_tickets(server: Address, key_path: Path | None, worker: int) -> TicketSource:
    make = ticket_maker(server, key_path, worker)

    async def source() -> Ticket:
        return make()

    return source


def _lines() -> Iterator[str]:
    """What the user types, line by line, without the empty ones."""
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if is_interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  # The arrow keys work in input() from here on.
    try:
        while True:
            line = input("> " if is_interactive else "").strip()
            if line:
                yield line
    except (EOFError, KeyboardInterrupt):
        if is_interactive:
            click.echo()


def _screen(as_json: bool) -> Screen:
    if as_json:
        return Screen()
    return Terminal(Console()) if sys.stdout.isatty() else Plain()


def _report(turn: Turn, as_json: bool) -> None:
    """What is told right after an answer."""
    if as_json:
        click.echo(json.dumps({"text": turn.text, **asdict(turn.figures)}))
    if turn.error is not None:
        click.echo(f"Error: {turn.error}", err=True)
    elif not turn.is_shown:
        click.echo("stopped", err=True)
