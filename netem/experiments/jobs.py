"""Many seeds on all processors, and the options that all experiments share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import click

Job = TypeVar("Job")
Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])

_CHUNKS_PER_WORKER = 16
"""Chunks that each worker gets: few enough to be cheap, enough to end at about the same time."""


def run_jobs(task: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int) -> list[Result]:
    """Results in the order of `jobs`, with progress on standard error.

    With more than one worker, `task` and what it takes and gives must be picklable.
    """
    if workers == 1:
        return _collect(map(task, jobs), len(jobs))
    # Not forked: the caller may have threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        chunk = max(len(jobs) // (workers * _CHUNKS_PER_WORKER), 1)
        return _collect(pool.map(task, jobs, chunksize=chunk), len(jobs))


def _collect(results: Iterable[Result], length: int) -> list[Result]:
    with click.progressbar(results, length=length, label="simulating", file=sys.stderr) as bar:
        return list(bar)


def seeds_option(default: int) -> Callable[[Command], Command]:
    """`--seeds`: how many runs, with the seeds 0, 1, 2..."""
    return click.option(
        "--seeds",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Runs; their seeds are 0, 1, 2...",
    )


def output_options(command: Command) -> Command:
    """`--workers` and `--json`."""
    workers = click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=lambda: os.cpu_count() or 1,
        show_default="all processors",
        help="Processes that share the runs.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return workers(as_json(command))
