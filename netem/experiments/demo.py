"""`demo`: the same answer with and without redundancy, side by side, over the same bad link."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import cycle, islice

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from eloquent.commands.loop import new_event_loop
from eloquent.protocol.send import ELOQUENT, RETRANSMISSION_ONLY
from eloquent.replay import default_text, subword_split
from netem.experiments.panes import REFRESH_RATE, Panes
from netem.experiments.race import Plan, Side, run_race
from netem.figures import Report, Value, delay_figures
from netem.profiles import scenario, scenario_names

_LABELS = {
    "p50_ms": ("extra delay, p50", "{:.0f} ms"),
    "p99_ms": ("extra delay, p99", "{:.0f} ms"),
    "stalls": ("stalls", "{}"),
    "longest_stall_ms": ("longest stall", "{:.0f} ms"),
    "lost_s": ("time lost in stalls", "{:.1f} s"),
    "stall_ratio": ("share of the reading time", "{:.1%}"),
    "datagrams_per_token": ("datagrams per token", "{:.2f}"),
    "padded_bytes_per_token": ("bytes per token", "{:.0f}"),
}
"""What the table shows, under the keys of `--json`."""

_CLOSING = """
Extra delay comes on top of the way through the link. A stall is a gap on the
screen that is over 0.2 s longer than the model's own. The other side is the
same program without redundancy: it sends lost bytes again, as TCP and QUIC do."""


@click.command("demo")
@click.option(
    "--scenario",
    "name",
    type=click.Choice(scenario_names()),
    default="lte-walk",
    show_default=True,
    metavar="NAME",
    help="One of the named scenarios; `simulate --help` lists them.",
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
@click.option("--plain", is_flag=True, help="No panes, also on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def command(name: str, rtt: float, tokens: int, rate: float, seed: int, plain: bool, as_json: bool) -> None:
    """Watch one answer come over a bad link twice: with Eloquent, and with retransmission only.

    Server, client and a lossy relay, with real sockets on this machine; needs no root.
    """
    text = "".join(islice(cycle(subword_split(default_text())), tokens))
    plan = Plan(text, rate, scenario(name, rtt_s=rtt), seed)
    one_way_s = plan.scenario.down.delay_s
    sides = (
        Side("Eloquent", ELOQUENT, one_way_s),
        Side("retransmission only", RETRANSMISSION_ONLY, one_way_s),
    )
    console = Console()
    headline = _headline(plan)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        if as_json:
            runner.run(run_race(plan, sides))
        elif plain or not console.is_terminal:
            click.echo(headline)
            runner.run(run_race(plan, sides))
        else:
            with Live(Panes(headline, sides), console=console, refresh_per_second=REFRESH_RATE):
                runner.run(run_race(plan, sides))
    report = Report(
        "demo",
        conditions={"scenario": name, "rtt_s": rtt, "rate": rate, "tokens": tokens, "seed": seed},
        rows=[{"side": side.name, **_figures(side)} for side in sides],
        faults=[
            f"{side.name}: what came is not what was sent" for side in sides if not _is_exact(side, text)
        ],
    )
    if as_json or report.faults:
        report.finish(as_json=as_json)
    else:
        console.print(_table(report.rows), _CLOSING, highlight=False)


def _headline(plan: Plan) -> str:
    path = plan.scenario
    rtt_ms = 1e3 * (path.up.delay_s + path.down.delay_s)
    return (
        "One answer, twice, over the same bad link: "
        f"{path.name}, {100 * path.down.mean_loss:.0f} % of datagrams lost each way, RTT {rtt_ms:g} ms"
    )


def _is_exact(side: Side, text: str) -> bool:
    return side.is_complete and side.text == text


def _figures(side: Side) -> dict[str, Value]:
    lost = [stall.lost_s for stall in side.stalls]
    shown = max(len(side.shown_at), 1)
    duration_s = side.shown_at[-1] - side.shown_at[0] if side.shown_at else 0.0
    return {
        **delay_figures(side.extra_delays()),
        "stalls": len(lost),
        "longest_stall_ms": max(lost, default=0.0) * 1e3,
        "lost_s": sum(lost),
        "stall_ratio": sum(lost) / duration_s if duration_s else 0.0,
        "datagrams_per_token": side.down.sent / shown,
        "padded_bytes_per_token": side.down.sent_bytes / shown,
        "padded_ack_bytes_per_token": side.up.sent_bytes / shown,
    }


def _table(rows: Sequence[Mapping[str, Value]]) -> Table:
    """A column for each side."""
    table = Table(box=None, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("")
    for row in rows:
        table.add_column(str(row["side"]), justify="right")
    for key, (label, form) in _LABELS.items():
        table.add_row(label, *(form.format(row[key]) for row in rows))
    return table
