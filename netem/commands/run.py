"""`run`: any command behind a bad network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eloquent.errors import ConfigurationError, EloquentError
from netem.commands.scenario_type import ScenarioType
from netem.commands.seconds_type import Seconds
from netem.commands.signals import Signals, has_terminal
from netem.lab.machine import require_laboratory
from netem.link import LinkCounts
from netem.scenario import Direction, Scenario

if TYPE_CHECKING:
    from netem.lab.forward import Forward, Forwarder
    from netem.lab.host import Host
    from netem.lab.lab import Lab
    from netem.lab.namespace import Namespace
    from netem.lab.wire import Backend

_NOT_FOUND_STATUS = 127  # as shells and env(1) have it
_NOT_EXECUTABLE_STATUS = 126
_NEW_SESSION = ("setsid", "--")
_STDERR = 2
_LISTEN_LIMIT_S = 10.0
"""How long COMMAND waits for the server to listen; arbitrary."""
_LISTEN_INTERVAL_S = 0.03


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and behind what."""

    command: tuple[str, ...]
    scenario: Scenario
    seed: int
    backend: Backend | None
    server: tuple[str, ...]
    """Empty where none is wanted."""
    forwards: tuple[Forward, ...]
    capture: Path | None


def _read_forwards(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[Forward, ...]:
    from netem.lab.forward import Forward

    try:
        forwards = tuple(Forward.parse(text) for text in texts)
        for forward in forwards:
            forward.check_target()
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error
    ports = [forward.port for forward in forwards]
    for port in ports:
        if ports.count(port) > 1:
            raise click.BadParameter(f"port {port} is forwarded twice")
    return forwards


def _read_words(ctx: click.Context, param: click.Parameter, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no command: {error}") from error


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, required=True, metavar="COMMAND...")
@click.option(
    "--scenario",
    type=ScenarioType(),
    default="bursty",
    show_default=True,
    help="`python -m netem list` lists the names.",
)
@click.option("--rtt", type=Seconds(min=0.0), help="Seconds, in place of the scenario's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random in the link.")
@click.option("--backend", type=click.Choice(["user", "kernel"]), help="What is behind the link.")
@click.option(
    "--server",
    default="",
    callback=_read_words,
    metavar="COMMAND",
    help="Runs on the host `server`; the other COMMAND starts when it listens.",
)
@click.option(
    "--forward",
    "forwards",
    multiple=True,
    callback=_read_forwards,
    metavar="PORT[=HOST:PORT]",
    help="This port of the host `server` leads to a server outside; TCP and UDP. HOST is 127.0.0.1 and the "
    "port the same if left out.",
)
@click.option(
    "--capture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.pcapng",
    help="Record the packets of both sides, with their fates.",
)
def command(
    words: tuple[str, ...],
    scenario: Scenario,
    rtt: float | None,
    seed: int,
    backend: Backend | None,
    server: tuple[str, ...],
    forwards: tuple[Forward, ...],
    capture: Path | None,
) -> None:
    """Run COMMAND on a host whose only cable is a bad one, and exit with its status.

    The cable leads to the host `server`. {server} and {client} in COMMAND and in --server stand for
    the addresses of the two hosts; so do the variables NETEM_SERVER, NETEM_SERVER_V6 and
    NETEM_CLIENT. The scenario begins when COMMAND does.

    \b
    python -m netem run --scenario train -- ping {server}
    python -m netem run --forward 8000 -- curl http://{server}:8000/
    python -m netem run --server "iperf3 --server" -- iperf3 --client {server}
    """
    _open_closed_streams()
    played = scenario if rtt is None else scenario.with_rtt(rtt)
    plan = Plan(words, played, seed, backend, server, forwards, capture)
    for program in (plan.command[0], *plan.server[:1]):
        _check_program(program)
    try:
        status = _run(plan)
    except (EloquentError, OSError) as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(status)


def _open_closed_streams() -> None:
    """Lead standard streams that are closed to /dev/null.

    Otherwise sockets of the laboratory get their numbers, and programs take them for the streams.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            lowest_free = os.open(os.devnull, os.O_RDWR)  # that is `number`
            os.set_inheritable(lowest_free, True)
    if sys.stderr is None:  # or click would print errors to standard output
        sys.stderr = os.fdopen(_STDERR, "w", closefd=False)


def _check_program(program: str) -> None:
    """Exit as a shell does where there is no such program."""
    if shutil.which(program) is None:
        is_file = "/" in program and Path(program).exists()
        _say(f"{program}: {'cannot be executed' if is_file else 'there is no such program'}")
        raise SystemExit(_NOT_EXECUTABLE_STATUS if is_file else _NOT_FOUND_STATUS)


def _run(plan: Plan) -> int:
    """Run to the end; return the exit status as shells have it."""
    from netem.lab.forward import Forwarder

    with ExitStack() as stack:
        # Before this process leaves the network of the machine.
        forwarder = stack.enter_context(Forwarder()) if plan.forwards else None
        require_laboratory()
        signals = Signals()
        try:
            return asyncio.run(_run_in_lab(plan, forwarder, signals))
        except asyncio.CancelledError:
            return signals.status


async def _run_in_lab(plan: Plan, forwarder: Forwarder | None, signals: Signals) -> int:
    from netem.lab.lab import Lab

    signals.take()
    lab = Lab(plan.scenario, seed=plan.seed, backend=plan.backend, name="run", capture=plan.capture)
    async with lab:
        client, server = lab.host("client"), lab.host("server")
        if forwarder is not None:
            for forward in plan.forwards:
                forwarder.add(server, forward)
        _say(
            f"{plan.scenario.name}, backend {lab.backend}, seed {plan.seed}; "
            f"the server is {server.address}, {server.address_v6}"
        )
        async with _server(plan, client, server):
            return await _run_client(plan, lab, signals)


async def _run_client(plan: Plan, lab: Lab, signals: Signals) -> int:
    client, server = lab.host("client"), lab.host("server")
    await lab.play(seed=plan.seed)
    session = [] if has_terminal() else _NEW_SESSION
    words = _filled_in(plan.command, client, server)
    signals.hold()
    async with client.start(
        [*session, *words], env=_environment(client, server), stdin=None, stdout=None
    ) as process:
        signals.pass_on_to(process)
        status = await process.wait()
    _report(lab.counts())
    return status if status >= 0 else 128 - status


@contextlib.asynccontextmanager
async def _server(plan: Plan, client: Host, server: Host) -> AsyncIterator[None]:
    """The program of --server, from when it listens to the end of the block."""
    if not plan.server:
        yield
        return
    # Its output must not be among what COMMAND prints, and Ctrl-C is for COMMAND alone.
    async with server.start(
        [*_NEW_SESSION, *_filled_in(plan.server, client, server)],
        env=_environment(client, server),
        stdout=_STDERR,
    ) as process:
        await _until_it_listens(process, server.namespace)
        yield
        if process.returncode is not None:
            _say(f"the server had ended before, with status {process.returncode}")


async def _until_it_listens(process: asyncio.subprocess.Process, namespace: Namespace) -> None:
    from netem.lab.listening import is_listening

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LISTEN_LIMIT_S):
            while not is_listening(namespace, session=process.pid):
                if process.returncode is not None:
                    raise click.ClickException(
                        f"the server ended with status {process.returncode} before it listened"
                    )
                await asyncio.sleep(_LISTEN_INTERVAL_S)
            return
    _say(f"the server does not listen after {_LISTEN_LIMIT_S:g} s; COMMAND starts all the same")


def _environment(client: Host, server: Host) -> dict[str, str]:
    return {
        "NETEM_SERVER": server.address,
        "NETEM_SERVER_V6": server.address_v6,
        "NETEM_CLIENT": client.address,
    }


def _filled_in(words: Sequence[str], client: Host, server: Host) -> list[str]:
    return [word.replace("{server}", server.address).replace("{client}", client.address) for word in words]


def _report(counts: dict[Direction, LinkCounts]) -> None:
    for direction, of_it in counts.items():
        lost = of_it.dropped_by_loss + of_it.dropped_by_queue + of_it.dropped_by_outage
        share = f" ({lost / of_it.sent:.1%})" if of_it.sent else ""
        _say(f"{direction}: {of_it.sent} packets, {lost} lost{share}, {of_it.sent_bytes} bytes")


def _say(text: str) -> None:
    """Tell the user; where nobody reads that, it changes nothing for COMMAND and its status."""
    with contextlib.suppress(OSError):
        # Not sys.stderr: what it could not write makes Python itself fail at its end.
        os.write(_STDERR, f"netem: {text}\n".encode(errors="backslashreplace"))
