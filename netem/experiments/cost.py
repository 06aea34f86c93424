"""`cost`: CPU time of the server for each token, beside a plain UDP sender and the token source alone.

Server and clients are two processes on loopback, each on a core of its own where there are two. The
three kinds of server run in turn, so that what else the machine does hits them alike; ratios are
taken within such a round, medians over the rounds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

import click

from netem.figures import Report, Value, percentile
from netem.load.clients import run_clients
from netem.load.plan import READ, STOP, Load, Reading
from netem.load.server import LOOPS, run_server

WARM_UP_S = 1.0
"""Seconds of tokens before anything is measured."""

STOP_TIMEOUT_S = 10.0
"""Seconds after which a process that does not end is killed; arbitrary."""

BUSY_SHARE = 0.9
"""Of a core: clients above it may be what was measured."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one kind of server, from the first reading to the second."""

    cpu_us: float
    """CPU microseconds of the server by tokens."""
    tokens: int
    clients: Reading
    """What the clients did in the meantime."""

    @property
    def clients_share(self) -> float:
        """CPU time of the clients' process by time."""
        return self.clients.cpu_s / self.clients.wall_s


@dataclass(frozen=True, slots=True)
class Round:
    """The three kinds of server at the same load, one after the other."""

    eloquent: Measurement
    plain: Measurement
    generator: Measurement


def measure(kind: str, loop: str, load: Load, seconds: float) -> Measurement:
    """Run one kind of server with its clients."""
    with _process(run_server, kind, loop, load) as server:
        ready = server.recv()
        if ready is None:
            return _measure_steady(server, None, seconds)
        address, tickets = ready
        with _process(run_clients, kind, address, tickets, load) as clients:
            clients.recv()
            return _measure_steady(server, clients, seconds)


def run_round(loop: str, load: Load, seconds: float) -> Round:
    """All kinds; the plain sender sends datagrams as long as the protocol's were."""
    eloquent = measure("eloquent", loop, load, seconds)
    received = eloquent.clients
    same = replace(
        load,
        datagram_size=round(received.datagram_bytes / received.datagrams),
        ack_size=round(received.ack_bytes / received.acks),
    )
    return Round(eloquent, measure("plain", loop, same, seconds), measure("generator", loop, load, seconds))


def figures(rounds: Sequence[Round]) -> dict[str, Value]:
    """Medians over the rounds."""

    def middle(figure: Callable[[Round], float]) -> float:
        return median([figure(round_) for round_ in rounds])

    def delay(share: float) -> Callable[[Round], float]:
        return lambda round_: percentile(sorted(round_.eloquent.clients.delays_s), share) * 1e3

    return {
        "cpu_us_per_token": middle(lambda round_: round_.eloquent.cpu_us),
        "cpu_us_per_token_net": middle(lambda round_: round_.eloquent.cpu_us - round_.generator.cpu_us),
        "plain_us_per_token": middle(lambda round_: round_.plain.cpu_us),
        "generator_us_per_token": middle(lambda round_: round_.generator.cpu_us),
        "ratio_to_plain": middle(lambda round_: round_.eloquent.cpu_us / round_.plain.cpu_us),
        "datagrams_per_token": middle(
            lambda round_: round_.eloquent.clients.datagrams / round_.eloquent.tokens
        ),
        "acks_per_token": middle(lambda round_: round_.eloquent.clients.acks / round_.eloquent.tokens),
        "p50_ms": middle(delay(0.5)),
        "p99_ms": middle(delay(0.99)),
        "client_cpu_share": max(round_.eloquent.clients_share for round_ in rounds),
    }


@click.command("cost")
@click.option(
    "--streams",
    "counts",
    type=click.IntRange(min=1),
    multiple=True,
    default=(200, 500, 1000),
    show_default=True,
    help="Streams at once; may be given several times.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0.0, min_open=True),
    default=50.0,
    show_default=True,
    help="Tokens per second of each stream.",
)
@click.option(
    "--streams-per-connection",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="More of them share datagrams.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Length of the interval that is measured.",
)
@click.option(
    "--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Medians are over these."
)
@click.option(
    "--loop",
    "loops",
    type=click.Choice(list(LOOPS)),
    multiple=True,
    default=tuple(LOOPS),
    show_default=True,
    help="Event loop of the server.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    counts: tuple[int, ...],
    rate: float,
    streams_per_connection: int,
    seconds: float,
    runs: int,
    loops: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure CPU microseconds per token of the server on loopback, for many streams at once."""
    cells = [(loop, Load(count, rate, streams_per_connection)) for loop in loops for count in counts]
    rounds: dict[tuple[str, Load], list[Round]] = {cell: [] for cell in cells}
    with click.progressbar(length=runs * len(cells), label="measuring", file=sys.stderr) as bar:
        for _ in range(runs):
            for loop, load in cells:
                rounds[loop, load].append(run_round(loop, load, seconds))
                bar.update(1)
    report = Report(
        "cost",
        conditions={
            "rate": rate,
            "streams_per_connection": streams_per_connection,
            "seconds": seconds,
            "runs": runs,
        },
        rows=[{"loop": loop, "streams": load.streams, **figures(rounds[loop, load])} for loop, load in cells],
    )
    report.finish(as_json=as_json)
    for row in report.rows:
        _warn_if_busy(row)


def _warn_if_busy(row: dict[str, Value]) -> None:
    share = row["client_cpu_share"]
    assert isinstance(share, float)
    if share > BUSY_SHARE:
        click.echo(
            f"{row['loop']}, {row['streams']} streams: the clients took {share:.0%} of their core, "
            "so the delays are partly theirs",
            err=True,
        )


def _measure_steady(server: Connection, clients: Connection | None, seconds: float) -> Measurement:
    children = [server] if clients is None else [server, clients]
    start = time.monotonic()
    for pipe in reversed(children):  # The clients must know it before the first token comes.
        pipe.send(start)
    time.sleep(WARM_UP_S)
    before = [_read(pipe) for pipe in children]
    time.sleep(seconds)
    spent = [_between(first, _read(pipe)) for first, pipe in zip(before, children, strict=True)]
    own = spent[0]
    return Measurement(own.cpu_s / own.tokens * 1e6, own.tokens, spent[-1])


def _read(pipe: Connection) -> Reading:
    pipe.send(READ)
    reading = pipe.recv()
    assert isinstance(reading, Reading)
    return reading


def _between(before: Reading, after: Reading) -> Reading:
    return Reading(
        after.cpu_s - before.cpu_s,
        after.wall_s - before.wall_s,
        tokens=after.tokens - before.tokens,
        datagrams=after.datagrams - before.datagrams,
        datagram_bytes=after.datagram_bytes - before.datagram_bytes,
        acks=after.acks - before.acks,
        ack_bytes=after.ack_bytes - before.ack_bytes,
        delays_s=after.delays_s,
    )


@contextmanager
def _process(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run a function in a process of its own; its last argument is the other end of the pipe."""
    context = get_context("spawn")  # not forked: the caller may have threads
    pipe, other = context.Pipe()
    process = context.Process(target=target, args=(*arguments, other), daemon=True)
    process.start()
    # Closed here, so that a process that dies is heard as the end of its pipe.
    other.close()
    try:
        yield pipe
        pipe.send(STOP)
        process.join(STOP_TIMEOUT_S)
    except EOFError:
        raise click.ClickException("a process of the run has died; it says why above") from None
    finally:
        process.kill()
        process.join()
        pipe.close()
