"""`rates`: whether delay grows smoothly with the rate of the tokens.

Above some rate the window of unacknowledged text no longer fits one datagram, and redundancy
becomes partial. There must be no rate at which delays suddenly jump.
"""

from __future__ import annotations

from functools import partial

import click

from netem.experiments.answer import AnswerPlan, answer_figures, run_answer
from netem.experiments.jobs import output_options, run_jobs, seeds_option
from netem.figures import Report, Value
from netem.impairment import Impairment
from netem.scenario import Scenario

RATES = (100, 200, 400, 800)
DURATION_S = 10.0
"""Seconds of each answer; arbitrary, well above the RTT."""


@click.command("rates")
@click.option("--rtt", type=click.FloatRange(min=0.0), default=0.6, show_default=True, help="Seconds.")
@click.option(
    "--loss", type=click.FloatRange(0.0, 0.5), default=0.05, show_default=True, help="Share lost, each way."
)
@seeds_option(20)
@output_options
def command(rtt: float, loss: float, seeds: int, workers: int, as_json: bool) -> None:
    """Stream at 100, 200, 400 and 800 tokens per second over a long, lossy path."""
    path = Impairment(delay_s=rtt / 2, loss=loss)
    scenario = Scenario("rates", path, path)
    rows: list[dict[str, Value]] = []
    faults: list[str] = []
    for rate in RATES:
        plan = AnswerPlan(scenario, round(rate * DURATION_S), rate)
        records = run_jobs(partial(run_answer, plan), range(seeds), workers=workers)
        rows.append({"rate": rate, **answer_figures(records)})
        faults += [f"rate {rate}, {fault}" for record in records for fault in record.faults]
    conditions: dict[str, Value] = {"rtt_s": rtt, "loss": loss, "duration_s": DURATION_S, "seeds": seeds}
    Report("rates", conditions, rows=rows, faults=faults).finish(as_json=as_json)
