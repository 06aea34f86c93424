"""`eloquent serve`: replay a text, token by token, as the answer to every prompt."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from eloquent.addresses import format_address, is_wildcard
from eloquent.answer import ServerStream
from eloquent.commands.loop import new_event_loop
from eloquent.commands.options import DEFAULT_SERVER, INTERRUPTED_STATUS, keys_option, worker_option
from eloquent.errors import ConfigurationError
from eloquent.keys import ENVIRONMENT_VARIABLE, create_keys, default_key_path, load_keys
from eloquent.protocol.ticket import Address, KeyRing
from eloquent.replay import default_text, replay
from eloquent.server import GRACE, serve

Tokens = Callable[[], AsyncGenerator[str, None]]
"""Begins the text once more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to serve, and with which keys."""

    host: str
    port: int
    advertise: str | None
    keys: KeyRing
    key_path: Path | None
    worker: int


@click.command("serve")
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("--host", default="127.0.0.1", show_default=True, help='Address; "::" is all, IPv4 as well.')
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_SERVER[1],
    show_default=True,
    help="UDP port; 0 takes a free one.",
)
@click.option("--advertise", metavar="HOST:PORT", help="Under which address clients reach the server.")
@click.option(
    "--rate", type=float, default=40.0, show_default=True, help="Tokens per second, pauses not counted."
)
@click.option(
    "--jitter",
    type=float,
    default=0.0,
    show_default=True,
    help="Sigma of a lognormal factor on each gap between tokens.",
)
@click.option(
    "--pause-probability",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of tokens after which the model thinks.",
)
@click.option(
    "--pause-seconds",
    type=float,
    nargs=2,
    default=(0.2, 1.2),
    show_default=True,
    help="Shortest and longest such pause.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of jitter and pauses.")
@keys_option
@worker_option
def command(
    file: str | None,
    host: str,
    port: int,
    advertise: str | None,
    rate: float,
    jitter: float,
    pause_probability: float,
    pause_seconds: tuple[float, float],
    seed: int,
    key_path: Path | None,
    worker: int,
) -> None:
    """Serve a text as if a model wrote it.

    Every prompt gets the same answer: FILE, standard input (-), or a text that comes with the package.
    Ctrl-C lets running answers finish.
    """
    tokens = partial(
        replay,
        _text(file),
        rate=rate,
        jitter=jitter,
        pause_probability=pause_probability,
        pause_s=pause_seconds,
        seed=seed,
    )
    # An async generator that never starts needs no end; its arguments are checked.
    tokens()
    place = Place(host, port, advertise, _keys(key_path), key_path, worker)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            runner.run(_serve(place, tokens))
        except asyncio.CancelledError:
            sys.exit(INTERRUPTED_STATUS)


def _text(file: str | None) -> str:
    """The text to replay; raises ConfigurationError where it cannot be read or there is none."""
    try:
        if file is None:
            return default_text()
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"cannot replay {file}: it is no UTF-8 text (byte {error.start})") from None
    if not text:
        raise ConfigurationError(f"cannot replay {file}: it is empty")
    return text


def _keys(path: Path | None) -> KeyRing:
    """The keys, from a new key file where there is none yet."""
    is_configured = path is None and os.environ.get(ENVIRONMENT_VARIABLE, "").strip() != ""
    target = path or default_key_path()
    if is_configured or target.exists():
        return load_keys(path)
    keys = create_keys(target)
    click.echo(f"made a key file that only you can read: {target}", err=True)
    return keys


async def _serve(place: Place, tokens: Tokens) -> None:
    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: SIGTERM ends the process at once there.
            asyncio.get_running_loop().add_signal_handler(number, main.cancel)
    async with serve(
        partial(_answer, tokens),
        place.host,
        place.port,
        keys=place.keys,
        advertise=place.advertise,
        worker=place.worker,
    ) as server:
        command_line = _chat_command(place, server.address)
        click.echo(f"listening on {format_address(*server.address)}; in another terminal: {command_line}")
        if place.advertise is not None:
            click.echo(f"for other machines: {_ticket_command(place, place.advertise)}")
        try:
            await server.serve_forever()
        except asyncio.CancelledError:
            # Ctrl-C or SIGTERM; a second one cancels what follows.
            main.uncancel()
            click.echo(f"stopping: running answers have {GRACE:g} s to finish (Ctrl-C: at once)", err=True)
            await server.close()


async def _answer(tokens: Tokens, stream: ServerStream) -> AsyncGenerator[str, None]:
    await stream.prompt()
    who = f"answer {stream.id} to {format_address(*stream.peer)}" if stream.peer else f"answer {stream.id}"
    click.echo(f"{who}: started", err=True)
    count = 0
    end = "stopped"
    try:
        async for token in tokens():
            yield token
            count += 1
        end = "finished"
    finally:
        click.echo(f"{who}: {end} after {count} tokens", err=True)


def _chat_command(place: Place, bound: Address) -> str:
    """What to type on this machine to talk to this server."""
    arguments = ["eloquent", "chat", "Why is the sky blue?"]
    host, port = "127.0.0.1" if is_wildcard(bound[0]) else bound[0], bound[1]
    if (host, port) != DEFAULT_SERVER:
        arguments += ["--server", format_address(host, port)]
    return shlex.join(arguments + _key_arguments(place))


def _ticket_command(place: Place, advertise: str) -> str:
    """What to type on this machine for a ticket that works on others."""
    server = advertise.partition(",")[0].strip()
    return shlex.join(["eloquent", "ticket", "--server", server, *_key_arguments(place)])


def _key_arguments(place: Place) -> list[str]:
    arguments = [] if place.key_path is None else ["--keys", str(place.key_path)]
    return arguments + (["--worker", str(place.worker)] if place.worker else [])
