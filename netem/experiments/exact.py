"""`exact`: whether every byte arrives, whatever the network does.

Each conversation runs over one of the named scenarios, made worse: datagrams are also duplicated,
reordered and corrupted, the path is cut once for up to 8 s, the NAT forgets its mapping once, and
in the middle the client goes on from a new socket. Several streams overlap in it. Exact means that
both sides hold what the other wrote, that the digests match, that no prompt ran twice, that nothing
stays in flight, and that all this takes a bounded time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import click

from eloquent.protocol.content import encode_bytes
from eloquent.replay import token_gaps
from netem.conversation import FIRST_START, Conversation
from netem.experiments.answer import tokens_of
from netem.experiments.jobs import output_options, run_jobs
from netem.figures import Report, Value
from netem.impairment import Impairment
from netem.profiles import scenario, scenario_names
from netem.scenario import Outage, Scenario
from netem.simulation import Livelock

STREAMS_PER_CONNECTION = 4

TROUBLE = 0.01
"""Share of datagrams that are duplicated, reordered and corrupted, each, beside the profile's own."""

REORDERING_DELAY_S = 0.05
LONGEST_OUTAGE_S = 8.0
TROUBLE_UNTIL_S = 6.0
"""Virtual time by which outage, rebinding and the new socket have begun."""

TIME_LIMIT_S = 180.0
"""Virtual seconds that a conversation may take; far above any that ends."""

SETTLE_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class ExactPlan:
    """One conversation."""

    profile: str
    seed: int
    streams: int = STREAMS_PER_CONNECTION


@dataclass(slots=True)
class ExactRecord:
    """What became of it."""

    plan: ExactPlan
    seconds: float
    """Virtual time until everything was acknowledged."""
    bytes: int
    """Of all logs, both directions."""
    faults: list[str]


def run_exact(plan: ExactPlan) -> ExactRecord:
    """One conversation through a bad network that gets worse."""
    random = Random(f"{plan.profile}/{plan.seed}/exact")
    conversation = Conversation(_troubled(scenario(plan.profile), random), seed=plan.seed)
    simulation = conversation.simulation
    for number in range(plan.streams):
        _ask(conversation, random, plan.seed * plan.streams + number)

    def rebind(now: float) -> None:
        # After the end the client has nothing to say, so the server could never find it again.
        if not conversation.is_over:
            conversation.client.rebind()

    def change_network(now: float) -> None:
        conversation.dialer.network_changed(now=now)

    simulation.call_at(_moment(random), rebind, conversation.client)
    simulation.call_at(_moment(random), change_network, conversation.client)
    seconds, faults = _outcome(conversation)
    turns = conversation.turns.values()
    return ExactRecord(
        plan,
        seconds,
        bytes=sum(len(turn.prompt) + len(turn.answer) for turn in turns),
        faults=[f"{plan.profile}, seed {plan.seed}: {fault}" for fault in faults],
    )


def _outcome(conversation: Conversation) -> tuple[float, list[str]]:
    """(virtual seconds until everything was acknowledged, what went wrong)."""
    simulation = conversation.simulation
    try:
        conversation.run(until=TIME_LIMIT_S)
        seconds = simulation.now - FIRST_START
        faults = conversation.faults()
        if not faults and not conversation.settle(until=simulation.now + SETTLE_LIMIT_S):
            faults = [f"{conversation.in_flight} datagrams stay in flight"]
    except Livelock as livelock:
        return simulation.now - FIRST_START, [f"{livelock} ({simulation.now:.3f} s)"]
    return seconds, faults


def _moment(random: Random) -> float:
    return FIRST_START + random.random() * TROUBLE_UNTIL_S


def _ask(conversation: Conversation, random: Random, number: int) -> None:
    """Plan one stream: a prompt that now and then needs many datagrams, and an answer."""
    size = int(10 ** random.uniform(1, 4))
    prompt = encode_bytes(random.randbytes(size))
    tokens = tokens_of(number, random.randrange(300))
    gaps = token_gaps(random.uniform(15, 80), 0.3, pause_probability=0.02, seed=number)
    conversation.ask_at(FIRST_START + random.random() * 3, prompt, tokens, gaps)


def _troubled(base: Scenario, random: Random) -> Scenario:
    """The scenario with duplication, reordering, corruption and an outage."""
    outage = Outage(_moment(random), random.uniform(0.2, LONGEST_OUTAGE_S))
    worse = replace(base, up=_worse(base.up), down=_worse(base.down))
    return worse.with_outages(outage)


def _worse(impairment: Impairment) -> Impairment:
    return replace(
        impairment,
        duplication=max(impairment.duplication, TROUBLE),
        reordering=max(impairment.reordering, TROUBLE),
        reordering_delay_s=max(impairment.reordering_delay_s, REORDERING_DELAY_S),
        corruption=max(impairment.corruption, TROUBLE),
    )


def plans_for(streams: int, profiles: Sequence[str]) -> list[ExactPlan]:
    """Conversations with at least that many streams in all, evenly over the profiles."""
    connections = -(-streams // STREAMS_PER_CONNECTION)
    rounds = -(-connections // len(profiles))
    return [ExactPlan(profile, seed) for seed in range(rounds) for profile in profiles]


@click.command("exact")
@click.option(
    "--streams", type=click.IntRange(min=1), default=2000, show_default=True, help="At least this many."
)
@click.option(
    "--profile",
    "profiles",
    type=click.Choice(scenario_names(is_simulated=True)),
    multiple=True,
    metavar="NAME",
    help="Only this one; may be repeated.",
)
@output_options
def command(streams: int, profiles: tuple[str, ...], workers: int, as_json: bool) -> None:
    """Check that every byte arrives over every profile, with trouble added."""
    names = profiles or scenario_names(is_simulated=True)
    records = run_jobs(run_exact, plans_for(streams, names), workers=workers)
    rows: list[dict[str, Value]] = []
    for name in names:
        found = [record for record in records if record.plan.profile == name]
        rows.append(
            {
                "profile": name,
                "streams": sum(record.plan.streams for record in found),
                "bytes": sum(record.bytes for record in found),
                "longest_s": max(record.seconds for record in found),
                "not_exact": sum(bool(record.faults) for record in found),
            }
        )
    conditions: dict[str, Value] = {
        "streams": sum(record.plan.streams for record in records),
        "connections": len(records),
    }
    faults = [fault for record in records for fault in record.faults]
    Report("exact", conditions, rows=rows, faults=faults).finish(as_json=as_json)
