"""`slow`: whether redundancy fills the queue before a slow link.

The time that each datagram waits in the queue follows from when it was sent, its size and the rate
(Lindley 1952): a datagram starts when the one before it has left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import click

from netem.conversation import Conversation
from netem.experiments.answer import AnswerPlan, AnswerRecord, answer_figures, converse, record_of
from netem.experiments.jobs import output_options, run_jobs, seeds_option
from netem.figures import Report, Value, percentile
from netem.impairment import IP_UDP_HEADER_BYTES, Impairment
from netem.link import Fate
from netem.scenario import Direction, Scenario
from netem.simulation import Address

KBPS = (32, 64)
QUEUE_S = 2.0
DURATION_S = 30.0
"""Seconds of each answer; arbitrary, three times the memory of the delay signal."""


class QueueWatch:
    """Seconds that each datagram towards the client waits before it is on the wire."""

    def __init__(self, rate_bps: float) -> None:
        self.waits: list[float] = []
        self.dropped = 0
        self._rate_bps = rate_bps
        self._free_at = 0.0

    def on_datagram(
        self,
        direction: Direction,
        source: Address,
        destination: Address,
        data: bytes,
        at: float,
        fate: Fate,
    ) -> None:
        """Observe a datagram of the simulation."""
        if direction == "up":
            return
        if fate is Fate.QUEUE:
            self.dropped += 1
            return
        starts_at = max(at, self._free_at)
        self.waits.append(starts_at - at)
        self._free_at = starts_at + (len(data) + IP_UDP_HEADER_BYTES) * 8 / self._rate_bps


@dataclass(slots=True)
class SlowRecord:
    """One answer over a slow link, and what its queue saw."""

    answer: AnswerRecord
    waits: list[float]
    dropped: int


def run_slow(plan: AnswerPlan, seed: int) -> SlowRecord:
    """One answer over a link of limited rate."""
    assert plan.scenario.down.rate_bps is not None
    watch = QueueWatch(plan.scenario.down.rate_bps)
    conversation = Conversation(
        plan.scenario, seed=seed, settings=plan.settings, on_datagram=watch.on_datagram
    )
    record = record_of(conversation, plan, converse(plan, conversation))
    return SlowRecord(record, watch.waits, watch.dropped)


@click.command("slow")
@click.option(
    "--rate",
    type=click.FloatRange(min=0.0, min_open=True),
    default=40.0,
    show_default=True,
    help="Tokens per second.",
)
@click.option("--rtt", type=click.FloatRange(min=0.0), default=0.1, show_default=True, help="Seconds.")
@seeds_option(20)
@output_options
def command(rate: float, rtt: float, seeds: int, workers: int, as_json: bool) -> None:
    """Stream over 32 and 64 kbit/s with a queue of 2 s; print the time spent in the queue."""
    rows: list[dict[str, Value]] = []
    faults: list[str] = []
    for kbps in KBPS:
        path = Impairment(delay_s=rtt / 2, rate_bps=kbps * 1e3, queue_s=QUEUE_S)
        plan = AnswerPlan(Scenario("slow", path, path), round(rate * DURATION_S), rate, has_pauses=True)
        records = run_jobs(partial(run_slow, plan), range(seeds), workers=workers)
        waits = sorted(wait for record in records for wait in record.waits)
        rows.append(
            {
                "kbps": kbps,
                "queue_p50_ms": percentile(waits, 0.5) * 1e3,
                "queue_p95_ms": percentile(waits, 0.95) * 1e3,
                "queue_p99_ms": percentile(waits, 0.99) * 1e3,
                "queue_drops": sum(record.dropped for record in records),
                **answer_figures([record.answer for record in records]),
            }
        )
        faults += [f"{kbps} kbit/s, {fault}" for record in records for fault in record.answer.faults]
    conditions: dict[str, Value] = {"rate": rate, "rtt_s": rtt, "queue_s": QUEUE_S, "seeds": seeds}
    Report("slow", conditions, rows=rows, faults=faults).finish(as_json=as_json)
