"""`upload`: how long a long prompt takes, against the same core with retransmission only.

Both senders have the same congestion control, flow control and acknowledgments; the second sends
each byte once, and again when it is declared lost or after a PTO, as QUIC does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random

import click

from eloquent.protocol.connection import Settings
from eloquent.protocol.content import encode_bytes
from eloquent.protocol.send import ELOQUENT, RETRANSMISSION_ONLY, Policy
from netem.conversation import FIRST_START, Conversation
from netem.experiments.answer import TIME_LIMIT_S, tokens_of
from netem.experiments.jobs import output_options, run_jobs, seeds_option
from netem.figures import Report, percentile
from netem.impairment import Impairment
from netem.scenario import Scenario


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """A prompt of `size` bytes and the path that it takes."""

    size: int
    loss: float
    rtt_s: float


@dataclass(slots=True)
class UploadRecord:
    """Seconds from the question until the server holds the whole prompt; nan where it never did."""

    eloquent_s: float
    retransmission_s: float
    faults: list[str]


def run_upload(plan: UploadPlan, seed: int) -> UploadRecord:
    """The same prompt with both senders over the same path."""
    faults: list[str] = []
    eloquent_s = _upload(plan, seed, ELOQUENT, faults)
    retransmission_s = _upload(plan, seed, RETRANSMISSION_ONLY, faults)
    return UploadRecord(eloquent_s, retransmission_s, faults)


def _upload(plan: UploadPlan, seed: int, policy: Policy, faults: list[str]) -> float:
    path = Impairment(delay_s=plan.rtt_s / 2, loss=plan.loss)
    settings = Settings(policy=policy)
    conversation = Conversation(Scenario("upload", path, path), seed=seed, settings=settings)
    prompt = encode_bytes(Random(f"{seed}/prompt").randbytes(plan.size))
    conversation.ask_at(FIRST_START, prompt, tokens_of(seed, 1), [0.0])
    conversation.run(until=FIRST_START + TIME_LIMIT_S)
    faults += [f"seed {seed}: {fault}" for fault in conversation.faults()]
    turn = conversation.turns[0]
    return float("nan") if turn.prompt_whole_at is None else turn.prompt_whole_at - turn.asked_at


@click.command("upload")
@click.option(
    "--size", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Bytes of the prompt."
)
@click.option(
    "--loss", type=click.FloatRange(0.0, 0.5), default=0.02, show_default=True, help="Share lost, each way."
)
@click.option("--rtt", type=click.FloatRange(min=0.0), default=0.1, show_default=True, help="Seconds.")
@seeds_option(50)
@output_options
def command(size: int, loss: float, rtt: float, seeds: int, workers: int, as_json: bool) -> None:
    """Send a long prompt; print its time against a QUIC-like sender, run by run."""
    plan = UploadPlan(size, loss, rtt)
    records = run_jobs(partial(run_upload, plan), range(seeds), workers=workers)
    ratios = sorted(record.eloquent_s / record.retransmission_s for record in records)
    eloquent = sorted(record.eloquent_s for record in records)
    retransmission = sorted(record.retransmission_s for record in records)
    report = Report(
        "upload",
        conditions={"size": size, "loss": loss, "rtt_s": rtt, "seeds": seeds},
        figures={
            "eloquent_p50_s": percentile(eloquent, 0.5),
            "eloquent_p95_s": percentile(eloquent, 0.95),
            "retransmission_p50_s": percentile(retransmission, 0.5),
            "retransmission_p95_s": percentile(retransmission, 0.95),
            "ratio_p50": percentile(ratios, 0.5),
            "ratio_p95": percentile(ratios, 0.95),
        },
        faults=[fault for record in records for fault in record.faults],
    )
    report.finish(as_json=as_json)
