"""`simulate`: how late tokens are on a lossy path, and what that costs in datagrams and bytes."""

from __future__ import annotations

from functools import partial

import click

from eloquent.protocol.connection import PADDING, Settings
from eloquent.protocol.send import ELOQUENT, RETRANSMISSION_ONLY
from netem.commands.scenario_type import ScenarioType
from netem.experiments.answer import AnswerPlan, answer_figures, run_answer
from netem.experiments.jobs import output_options, run_jobs, seeds_option
from netem.figures import Report
from netem.profiles import scenario_names
from netem.scenario import Scenario

POLICIES = {"eloquent": ELOQUENT, "retransmission": RETRANSMISSION_ONLY}


@click.command("simulate")
@click.option(
    "--scenario",
    "path",
    type=ScenarioType(is_simulated=True),
    default="bursty",
    show_default=True,
    help="A TOML file, or one of: " + ", ".join(scenario_names(is_simulated=True)) + ".",
)
@click.option("--rtt", type=click.FloatRange(min=0.0), help="Seconds; the scenario's own if left out.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0.0, min_open=True),
    default=40.0,
    show_default=True,
    help="Tokens per second, pauses not counted.",
)
@click.option(
    "--jitter",
    type=click.FloatRange(min=0.0),
    default=0.0,
    show_default=True,
    help="Sigma of a lognormal factor on each gap between tokens.",
)
@click.option(
    "--tokens", type=click.IntRange(min=1), default=300, show_default=True, help="Tokens of each answer."
)
@click.option(
    "--pauses/--no-pauses",
    default=True,
    show_default=True,
    help="Pauses of 0.2 to 1.2 s after 2 % of the tokens.",
)
@click.option(
    "--policy",
    type=click.Choice(list(POLICIES)),
    default="eloquent",
    show_default=True,
    help="Redundancy in both directions, or retransmission only, as QUIC does.",
)
@click.option(
    "--padding",
    type=click.IntRange(0, 1200),
    default=PADDING,
    show_default=True,
    help="Bytes to a multiple of which text is padded; 0 is off.",
)
@seeds_option(200)
@output_options
def command(
    path: Scenario,
    rtt: float | None,
    rate: float,
    jitter: float,
    tokens: int,
    pauses: bool,
    policy: str,
    padding: int,
    seeds: int,
    workers: int,
    as_json: bool,
) -> None:
    """Stream answers over a scenario; print extra delay, datagrams, bytes and stalls."""
    if rtt is not None:
        path = path.with_rtt(rtt)
    settings = Settings(padding=padding, policy=POLICIES[policy])
    plan = AnswerPlan(path, tokens, rate, jitter, pauses, settings)
    records = run_jobs(partial(run_answer, plan), range(seeds), workers=workers)
    report = Report(
        "simulate",
        conditions={
            "scenario": path.name,
            "rtt_s": path.up.delay_s + path.down.delay_s,
            "rate": rate,
            "jitter": jitter,
            "pauses": pauses,
            "tokens": tokens,
            "policy": policy,
            "padding": padding,
            "seeds": seeds,
        },
        figures=answer_figures(records),
        faults=[fault for record in records for fault in record.faults],
    )
    report.finish(as_json=as_json)
