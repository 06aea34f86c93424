"""`outages`: how soon text is on the screen again after a time in which nothing passes.

Two cases. *flowing*: tokens go on all the time. *pause*: the model is silent when the outage
begins (the client has had its PINGs answered and shows "thinking"), and its next token is due at a
random moment of the outage. Start and length of the outage are drawn by the seed, the length from
10 % around the one in the table: with equal lengths the probes, whose times follow from the start,
would all meet the end at the same phase. Nothing else is lost.

The figure is the time from the end of the outage to the first new text on the screen. Text that was
already under way when the outage began does not count. No protocol can be faster than the one-way
delay.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Literal

import click

from netem.conversation import FIRST_START, Conversation, Turn
from netem.experiments.answer import PROMPT, TIME_LIMIT_S, tokens_of
from netem.experiments.jobs import output_options, run_jobs, seeds_option
from netem.figures import Report, Value, delay_figures
from netem.impairment import Impairment
from netem.scenario import Outage, Scenario

Case = Literal["flowing", "pause"]

DURATIONS_S = (0.25, 1.0, 3.0, 8.0, 12.0, 60.0)
RTTS_S = (0.02, 0.06, 0.2, 0.6)

GAP_S = 0.025
WARM_UP_S = 1.0
"""Seconds of text before anything else happens; arbitrary, above the time that estimates need."""

PAUSE_BEFORE_S = 3.0
"""Seconds of silence before the outage begins: by then PINGs were answered twice."""

PHASE_S = 2.5
"""Seconds over which the start is spread: one interval between PINGs while the model thinks."""

SPREAD = 0.1
"""Share by which an outage is shorter or longer than its name."""

TEXT_AFTER_S = 2.0
_ROUNDING_S = 1e-9


@dataclass(frozen=True, slots=True)
class OutagePlan:
    """One cell of the table and one seed."""

    case: Case
    rtt_s: float
    outage_s: float
    seed: int


@dataclass(slots=True)
class OutageRecord:
    """Seconds from the end of the outage to the first new text; None where none came."""

    silence_s: float | None
    faults: list[str]


def run_outage(plan: OutagePlan) -> OutageRecord:
    """One answer with one outage in it."""
    random = Random(f"{plan.seed}/outage")
    text_starts_at = FIRST_START + plan.rtt_s / 2
    starts_at = text_starts_at + 2 * plan.rtt_s + WARM_UP_S + random.random() * PHASE_S
    if plan.case == "pause":
        starts_at += PAUSE_BEFORE_S
    outage_s = plan.outage_s * random.uniform(1 - SPREAD, 1 + SPREAD)
    ends_at = starts_at + outage_s
    gaps = [GAP_S] * round((ends_at + TEXT_AFTER_S - text_starts_at) / GAP_S)
    if plan.case == "pause":
        due_at = starts_at + random.random() * outage_s
        gaps = _with_pause(text_starts_at, due_at, ends_at)
    path = Impairment(delay_s=plan.rtt_s / 2)
    scenario = Scenario("outage", path, path, outages=(Outage(starts_at, outage_s),))
    conversation = Conversation(scenario, seed=plan.seed)
    conversation.ask_at(FIRST_START, PROMPT, tokens_of(plan.seed, len(gaps)), gaps)
    conversation.run(until=ends_at + TIME_LIMIT_S)
    label = f"{plan.case}, RTT {plan.rtt_s} s, outage of {plan.outage_s} s, seed {plan.seed}"
    faults = [f"{label}: {fault}" for fault in conversation.faults()]
    first = _first_new_text(conversation.turns[0], ends_at + plan.rtt_s / 2)
    return OutageRecord(None if first is None else first - ends_at, faults)


def _with_pause(text_starts_at: float, due_at: float, ends_at: float) -> list[float]:
    """Gaps of an answer that pauses after the warm-up until `due_at`."""
    before = round(WARM_UP_S / GAP_S)
    pause = due_at - (text_starts_at + before * GAP_S)
    after = round((ends_at + TEXT_AFTER_S - due_at) / GAP_S)
    return [GAP_S] * before + [pause] + [GAP_S] * after


def _first_new_text(turn: Turn, earliest: float) -> float | None:
    """When the first text came that was sent after the outage."""
    return next((at for at, _ in turn.read_at if at >= earliest - _ROUNDING_S), None)


@click.command("outages")
@seeds_option(50)
@output_options
def command(seeds: int, workers: int, as_json: bool) -> None:
    """Cut the path for 0.25 to 60 s; print how soon new text is on the screen afterwards."""
    cases: tuple[Case, ...] = ("flowing", "pause")
    cells = list(product(cases, DURATIONS_S, RTTS_S))
    plans = [
        OutagePlan(case, rtt_s, outage_s, seed) for case, outage_s, rtt_s in cells for seed in range(seeds)
    ]
    records = run_jobs(run_outage, plans, workers=workers)
    rows: list[dict[str, Value]] = []
    for at, (case, outage_s, rtt_s) in enumerate(cells):
        found = records[at * seeds : (at + 1) * seeds]
        rows.append({"case": case, "outage_s": outage_s, "rtt_ms": rtt_s * 1e3, **_figures(found, rtt_s)})
    faults = [fault for record in records for fault in record.faults]
    Report("outages", {"seeds": seeds}, rows=rows, faults=faults).finish(as_json=as_json)


def _figures(records: list[OutageRecord], rtt_s: float) -> dict[str, Value]:
    silences = [record.silence_s for record in records if record.silence_s is not None]
    figures = delay_figures(silences)
    return {
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "lower_bound_ms": rtt_s * 5e2,
        "answers": len(records),
        "exact": sum(not record.faults for record in records),
    }
