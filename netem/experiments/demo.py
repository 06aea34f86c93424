"""`demo`: the same answer sent in different ways, side by side, over the same bad link."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from eloquent.commands.loop import new_event_loop
from eloquent.errors import EloquentError
from eloquent.protocol.send import ELOQUENT, RETRANSMISSION_ONLY
from eloquent.replay import default_text, subword_split
from netem.commands.scenario_type import ScenarioType
from netem.errors import LabUnavailable
from netem.experiments.panes import REFRESH_RATE, Panes
from netem.experiments.race import (
    Plan,
    Side,
    cables,
    congestion_control,
    run_in_laboratory,
    run_over_relays,
)
from netem.figures import Report, Value, delay_figures
from netem.scenario import Scenario
from netem.transport import UdpTransport

if TYPE_CHECKING:
    from netem.lab.lab import Lab

_CABLES = 3
"""One for each side of the race in the laboratory."""

_LABELS = {
    "p50_ms": ("extra delay, p50", "{:.0f} ms"),
    "p99_ms": ("extra delay, p99", "{:.0f} ms"),
    "stalls": ("stalls", "{}"),
    "longest_stall_ms": ("longest stall", "{:.0f} ms"),
    "lost_s": ("time lost in stalls", "{:.1f} s"),
    "stall_ratio": ("share of the reading time", "{:.1%}"),
    "datagrams_per_token": ("packets per token", "{:.2f}"),
    "padded_bytes_per_token": ("bytes per token", "{:.0f}"),
}
"""What the table shows, under the keys of `--json`."""

_CLOSING = """
Extra delay comes on top of the way through the link. A stall is a gap on the
screen that is over 0.2 s longer than the model's own. "Retransmission only" is
the same program without redundancy: it sends lost bytes again, as QUIC does."""

_TCP_CLOSING = """"TCP (SSE)" is this machine's kernel ({}) under an ordinary web server."""


@click.command("demo")
@click.option(
    "--scenario",
    "chosen",
    type=ScenarioType(),
    default="lte-walk",
    show_default=True,
    help="`python -m netem list` has the names.",
)
@click.option("--rtt", type=click.FloatRange(min=0.0), default=0.2, show_default=True, help="Seconds.")
@click.option(
    "--tokens", type=click.IntRange(min=2), default=800, show_default=True, help="Tokens of the answer."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0.0, min_open=True),
    default=40.0,
    show_default=True,
    help="Tokens per second.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the link's bad moments.")
@click.option(
    "--relay", "is_relayed", is_flag=True, help="No laboratory, and so no TCP, also where it works."
)
@click.option("--plain", is_flag=True, help="No panes, also on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def command(
    chosen: Scenario,
    rtt: float,
    tokens: int,
    rate: float,
    seed: int,
    is_relayed: bool,
    plain: bool,
    as_json: bool,
) -> None:
    """Watch one answer come over a bad link: with Eloquent, with retransmission only, over TCP.

    Real servers and clients on this machine, in the laboratory. Where that cannot be built, a relay
    between the sockets takes its place, without root; it has no TCP.
    """
    if is_relayed and not chosen.is_simulated:
        raise click.UsageError(f"{chosen.name} has cross traffic, which is real TCP: leave out --relay")
    text = "".join(islice(cycle(subword_split(default_text())), tokens))
    plan = Plan(text, rate, chosen.with_rtt(rtt), seed)
    console = Console()
    view = _View(plan, console, has_panes=console.is_terminal and not plain, is_silent=as_json)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            sides, means = runner.run(_run(plan, view, is_relayed=is_relayed))
        except (EloquentError, ExceptionGroup) as error:
            raise click.ClickException(_reason(error)) from error
    report = Report(
        "demo",
        conditions={
            "scenario": chosen.name,
            "rtt_s": rtt,
            "rate": rate,
            "tokens": tokens,
            "seed": seed,
            "backend": means.backend,
            "congestion_control": means.congestion_control,
        },
        rows=[{"side": side.name, **_delays(side), **_traffic(side, plan.scenario)} for side in sides],
        faults=[
            f"{side.name}: what came is not what was sent" for side in sides if not _is_exact(side, text)
        ],
    )
    if as_json or report.faults:
        report.finish(as_json=as_json)
    else:
        console.print(_table(report.rows), _CLOSING, highlight=False)
        if means.congestion_control:
            console.print(_TCP_CLOSING.format(means.congestion_control), highlight=False)


@dataclass(frozen=True, slots=True)
class _View:
    """What is on the screen while the race goes on."""

    plan: Plan
    console: Console
    has_panes: bool
    is_silent: bool

    def of(self, sides: Sequence[Side]) -> AbstractContextManager[object]:
        """Show them as long as the context lasts."""
        if self.is_silent:
            return nullcontext()
        headline = _headline(self.plan, len(sides))
        if self.has_panes:
            return Live(Panes(headline, sides), console=self.console, refresh_per_second=REFRESH_RATE)
        click.echo(headline)
        return nullcontext()


@dataclass(frozen=True, slots=True)
class _Means:
    """What was between the sockets, and the congestion control of TCP where there was one."""

    backend: str
    congestion_control: str | None


async def _run(plan: Plan, view: _View, *, is_relayed: bool) -> tuple[list[Side], _Means]:
    one_way_s = plan.scenario.down.delay_s
    sides = [
        Side("Eloquent", UdpTransport(ELOQUENT), one_way_s),
        Side("retransmission only", UdpTransport(RETRANSMISSION_ONLY), one_way_s),
    ]
    async with AsyncExitStack() as stack:
        # The laboratory comes first: an ordinary user's must begin before there are threads.
        lab = None if is_relayed else await _enter_laboratory(plan, stack)
        if lab is None:
            with view.of(sides):
                await run_over_relays(plan, sides)
            return sides, _Means("relay", None)
        from netem.sse import SseTransport

        sides.append(Side("TCP (SSE)", SseTransport(), one_way_s))
        with view.of(sides):
            await run_in_laboratory(plan, sides, lab)
        return sides, _Means(lab.backend, congestion_control(lab))


async def _enter_laboratory(plan: Plan, stack: AsyncExitStack) -> Lab | None:
    """The laboratory with its cables; None, and a line on stderr, where this machine has none."""
    try:
        import netem.sse  # noqa: F401  # as much of an extra as the laboratory
        from netem.lab.lab import Lab

        return await stack.enter_async_context(
            Lab(cables(plan.scenario, _CABLES), seed=plan.seed, name="demo")
        )
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed"
    except (LabUnavailable, OSError) as error:
        reason = str(error)
    click.echo(f"Without TCP, which needs the laboratory (`python -m netem doctor`): {reason}", err=True)
    return None


def _reason(error: Exception) -> str:
    """The message of the first of the library's errors in a group; raises a group that has none."""
    if not isinstance(error, ExceptionGroup):
        return str(error)
    ours = error.subgroup(EloquentError)
    if ours is None:
        raise error
    return _reason(ours.exceptions[0])


def _headline(plan: Plan, sides: int) -> str:
    path = plan.scenario
    conditions = [path.name]
    if path.changes or path.outages:
        conditions.append("a link that comes and goes")
    elif path.down.mean_loss:
        conditions.append(f"{100 * path.down.mean_loss:.0f} % of packets lost each way")
    if path.cross_traffic:
        conditions.append("a download beside it")
    conditions.append(f"RTT {1e3 * (path.up.delay_s + path.down.delay_s):g} ms")
    times = "three times" if sides == _CABLES else "twice"
    return f"One answer, {times}, over the same bad link: {', '.join(conditions)}"


def _is_exact(side: Side, text: str) -> bool:
    return side.is_complete and side.text == text


def _delays(side: Side) -> dict[str, Value]:
    lost = [stall.lost_s for stall in side.stalls]
    duration_s = side.shown_at[-1] - side.shown_at[0] if side.shown_at else 0.0
    return {
        **delay_figures(side.extra_delays()),
        "stalls": len(lost),
        "longest_stall_ms": max(lost, default=0.0) * 1e3,
        "lost_s": sum(lost),
        "stall_ratio": sum(lost) / duration_s if duration_s else 0.0,
    }


def _traffic(side: Side, path: Scenario) -> dict[str, Value]:
    """What crossed the link; None where it cannot be told from cross traffic."""
    shown = max(len(side.shown_at), 1)
    figures: dict[str, Value] = {
        "datagrams_per_token": side.down.sent / shown,
        "padded_bytes_per_token": side.down.sent_bytes / shown,
        "padded_ack_bytes_per_token": side.up.sent_bytes / shown,
    }
    return dict.fromkeys(figures) if path.cross_traffic else figures


def _table(rows: Sequence[Mapping[str, Value]]) -> Table:
    """A column for each side."""
    table = Table(box=None, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("")
    for row in rows:
        table.add_column(str(row["side"]), justify="right")
    for key, (label, form) in _LABELS.items():
        table.add_row(label, *("?" if row[key] is None else form.format(row[key]) for row in rows))
    return table
