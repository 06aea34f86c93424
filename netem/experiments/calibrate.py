"""`calibrate`: whether a link of the laboratory does what it was set to.

A probe on each of two hosts sends and receives datagrams, or a TCP transfer, through one link that
is given one setting after the other. Each row has what the setting says beside what came. Rows by
chance agree where the setting lies within the interval of 99.9 %, widened by the tolerance; the
others where they differ by no more than the tolerance.
"""

from __future__ import annotations

import asyncio
import os
import platform
from typing import TYPE_CHECKING

import click

from eloquent.errors import EloquentError
from netem.figures import Report, Value
from netem.lab.privilege import become_root

if TYPE_CHECKING:
    from netem.lab.wire import Backend

TIMING_TOLERANCE_MS = 2.0
"""What the `user` link promises at the rates of tokens."""

QUICK_SHARE = 0.25


@click.command("calibrate")
@click.option(
    "--backend", type=click.Choice(["user", "kernel"]), help="Chosen by what the machine has if left out."
)
@click.option("--quick", is_flag=True, help="A quarter of the packets: wider intervals.")
@click.option(
    "--timing-tolerance",
    "timing_ms",
    type=click.FloatRange(min=0.0, min_open=True),
    default=TIMING_TOLERANCE_MS,
    show_default=True,
    metavar="MS",
    help="By how much 99 % of the packets may miss their times; more on an emulated machine.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of everything by chance.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(backend: Backend | None, quick: bool, timing_ms: float, seed: int, as_json: bool) -> None:
    """Measure a link of the laboratory against its setting, on real sockets.

    A figure is ok where the setting lies in its interval of 99.9 %, widened by the tolerance.
    Ends with status 1 where one is not. Takes about a minute, on a machine with
    nothing else to do: what keeps the processor from the link shows as delay.
    """
    load = os.getloadavg()[0]
    try:
        become_root()  # before numpy is imported, which starts threads
        # Not everywhere: only what measures needs netlink and numpy.
        from netem.probe.calibration import calibrate
        from netem.probe.row import Effort

        effort = Effort(QUICK_SHARE if quick else 1.0, timing_ms)
        used, rows = asyncio.run(calibrate(backend, seed=seed, effort=effort))
    except EloquentError as error:
        raise click.ClickException(str(error)) from None
    except (EOFError, ConnectionError):
        raise click.ClickException("a process of the measurement has died; it says why above") from None
    conditions: dict[str, Value] = {
        "backend": used,
        "seed": seed,
        "quick": quick,
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "load_before": load,
    }
    report = Report(
        "calibrate",
        conditions,
        rows=[row.as_json() if as_json else row.as_text() for row in rows],
        faults=[row.fault() for row in rows if not row.is_ok],
    )
    report.finish(as_json=as_json)
