"""One answer of the library's real server and client over each scenario, and what became of it.

Each scenario has a laboratory of its own, with the server's process on one host and the client's on
the other; several run at the same time. The answer lasts at least until everything that the
scenario lists has begun and ended once, unless told otherwise. Extra delay is the time from writing
a token to the moment at which it could be shown, minus the one-way delay set at that moment. A
stall is a gap on the screen that is over 200 ms longer than the model's own.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from netem.errors import LinkFailed
from netem.experiments.answer import stalls
from netem.figures import Value, delay_figures
from netem.lab.backends import choose_backend
from netem.lab.lab import Lab
from netem.lab.privilege import become_root
from netem.lab.wire import Backend
from netem.link import LinkCounts
from netem.probe.stream import Shown, Written
from netem.scenario import Direction, Scenario

RATE = 40.0
"""Tokens per second."""

LEAST_SECONDS = 8.0
_AFTER_S = 2.0
"""Seconds of text after the last thing that a scenario lists."""

_PATIENCE_S = 180.0
"""Seconds beyond the text's own that a run may take; far above any that ends."""

_PROGRAM = [sys.executable, "-m", "netem.probe.stream"]


@dataclass(frozen=True, slots=True)
class Survival:
    """What became of one answer."""

    scenario: Scenario
    seconds: float
    """Of text, at the model's pace."""
    begins_at: float
    written: Written
    shown: Shown
    counts: dict[Direction, LinkCounts]

    def fault(self) -> str | None:
        """What keeps the log from being exact; None where nothing does."""
        if self.shown.fault is None and self.written.answers != 1:
            return f"the prompt ran {self.written.answers} times"
        return self.shown.fault

    def row(self) -> dict[str, Value]:
        """The figures of a table's row."""
        lost = stalls(self.written.at, self.shown.at)
        lasted_s = self.shown.at[-1] - self.shown.at[0] if self.shown.at else 0.0
        figures = delay_figures(self._extra_delays())
        down, up = self.counts["down"], self.counts["up"]
        # With cross traffic, most of what the link counts is not the stream's.
        per_token = math.nan if self.scenario.cross_traffic else 1.0 / max(len(self.shown.at), 1)
        return {
            "scenario": self.scenario.name,
            "exact": self.fault() is None,
            "tokens": len(self.shown.at),
            **{key: figures[key] for key in ("p50_ms", "p99_ms", "p999_ms")},
            "stalls": len(lost),
            "longest_stall_ms": 1e3 * max(lost, default=0.0),
            "stall_ratio": sum(lost) / lasted_s if lasted_s else 0.0,
            "datagrams_per_token": down.sent * per_token,
            "bytes_per_token": down.sent_bytes * per_token,
            "dropped_down": _dropped(down),
            "dropped_up": _dropped(up),
        }

    def _extra_delays(self) -> list[float]:
        return [
            shown - written - self.scenario.impairment_at("down", written - self.begins_at).delay_s
            for written, shown in zip(self.written.at, self.shown.at, strict=False)
        ]


def _dropped(counts: LinkCounts) -> int:
    return counts.dropped_by_loss + counts.dropped_by_queue + counts.dropped_by_outage


def length_of(path: Scenario) -> float:
    """Seconds of text within which everything that the scenario lists has happened once."""
    happenings = [
        *(change.at_s for change in path.changes),
        *(outage.start_s + outage.duration_s for outage in path.outages),
        *(traffic.start_s + traffic.duration_s for traffic in path.cross_traffic),
    ]
    return max(LEAST_SECONDS, max(happenings, default=0.0) + _AFTER_S)


async def survive(path: Scenario, *, seconds: float, seed: int, backend: Backend | None = None) -> Survival:
    """One answer over a laboratory of its own. Raises TimeoutError where it does not end."""
    tokens, label = str(round(seconds * RATE)), f"survive-{path.name}"
    async with (
        asyncio.timeout(seconds + _PATIENCE_S),
        Lab(path, seed=seed, backend=backend, name=label) as lab,
    ):
        at, client_host = lab.host("server"), lab.host("client")
        serve = [*_PROGRAM, "server", at.address, str(RATE), tokens, str(seed)]
        read = [*_PROGRAM, "client", tokens, str(seed)]
        async with at.start(serve, stdin=PIPE) as server, client_host.start(read, stdin=PIPE) as client:
            ticket = await _line(server)
            await _line(client)
            begins_at = await lab.play(seed=seed)
            shown = await _finish(client, ticket)
            counts = await asyncio.to_thread(lab.counts)
            written = await _finish(server)
    return Survival(path, seconds, begins_at, Written(**written), Shown(**shown), counts)


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise EOFError("a process of the run has ended")
    return line


async def _finish(process: Process, last_words: bytes = b"") -> dict[str, Any]:
    """Say that, and take what the process says at its end."""
    output, _ = await process.communicate(last_words)
    if process.returncode:
        raise EOFError("a process of the run has failed")
    document = json.loads(output)
    assert isinstance(document, dict)
    return document


def survive_all(
    paths: Sequence[Scenario], *, seconds: float | None, seed: int, backend: Backend | None, jobs: int
) -> tuple[Backend, list[Survival | str]]:
    """(backend, what became of each or in words why nothing did); `jobs` of them at the same time.

    Raises LabUnavailable and ConfigurationError before any begins.
    """
    become_root()
    chosen = choose_backend(backend, paths)
    lengths = [length_of(path) if seconds is None else seconds for path in paths]
    return chosen, asyncio.run(_survive_all(paths, lengths, seed=seed, backend=chosen, jobs=jobs))


async def _survive_all(
    paths: Sequence[Scenario], lengths: Sequence[float], *, seed: int, backend: Backend, jobs: int
) -> list[Survival | str]:
    slots = asyncio.Semaphore(jobs)
    results: dict[int, Survival | str] = {}

    async def run(index: int) -> None:
        async with slots:
            try:
                results[index] = await survive(
                    paths[index], seconds=lengths[index], seed=seed, backend=backend
                )
            except (TimeoutError, EOFError, ConnectionError, LinkFailed) as error:
                results[index] = str(error) or "it did not end in time"
            bar.update(1)

    with click.progressbar(length=len(paths), label="streaming", file=sys.stderr) as bar:
        async with asyncio.TaskGroup() as group:
            # The longest first, so that all jobs end at about the same time.
            for index in sorted(range(len(paths)), key=lambda each: -lengths[each]):
                group.create_task(run(index))
    return [results[index] for index in range(len(paths))]
