"""The laboratory's command line: `python -m netem`."""

from __future__ import annotations

import click

from netem.commands import clean, doctor, list, run, show
from netem.experiments import (
    calibrate,
    cost,
    demo,
    exact,
    outages,
    rates,
    simulate,
    slow,
    survive,
    upload,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Bad networks, and what they do to a token stream."""


for module in (
    *(demo, run, list, show, doctor, clean, calibrate, survive),
    *(simulate, outages, upload, rates, slow, exact, cost),
):
    main.add_command(module.command)

if __name__ == "__main__":
    main(prog_name="python -m netem")
