"""`list`: the named scenarios in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from netem.commands.timeline import impairments
from netem.figures import Report, Value
from netem.impairment import Impairment
from netem.profiles import scenario, scenario_names
from netem.scenario import Scenario


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def command(as_json: bool) -> None:
    """List the named scenarios.

    A range is from the least to the greatest over time; `1/2` is up and down.
    """
    found = [scenario(name) for name in scenario_names()]
    rows = [_row_for_programs(each) if as_json else row_of(each) for each in found]
    Report("list", {"scenarios": len(found)}, rows=rows).finish(as_json=as_json)


def row_of(path: Scenario) -> dict[str, Value]:
    """A scenario in a line."""
    return {
        "name": path.name,
        "RTT, ms": _rtt(path),
        "loss, %": _both_ways(path, lambda each: 100.0 * each.mean_loss),
        "kbit/s": _both_ways(path, lambda each: _rate_bps(each) / 1e3),
        "jitter, ms": _both_ways(path, lambda each: 1e3 * each.jitter_s),
        "timeline": _timeline(path),
        "source": path.source,
    }


def _rtt(path: Scenario) -> str:
    pairs = zip(impairments(path, "up"), impairments(path, "down"), strict=True)
    return _span(1e3 * (up.delay_s + down.delay_s) for up, down in pairs)


def _both_ways(path: Scenario, quantity: Callable[[Impairment], float]) -> str:
    up = _span(quantity(each) for each in impairments(path, "up"))
    down = _span(quantity(each) for each in impairments(path, "down"))
    return up if up == down else f"{up}/{down}"


def _span(values: Iterable[float], digits: int = 1) -> str:
    """Nothing for zero, which stands for what a scenario does not have."""
    ordered = sorted(round(value, digits) for value in values)
    if ordered[-1] == 0.0:
        return ""
    return f"{ordered[0]:g}" if ordered[0] == ordered[-1] else f"{ordered[0]:g}-{ordered[-1]:g}"


def _rate_bps(impairment: Impairment) -> float:
    if impairment.trace is not None:
        return impairment.trace.mean_rate_bps
    return impairment.rate_bps or 0.0


def _timeline(path: Scenario) -> str:
    parts = [_count(len(path.changes), "change")] if path.changes else []
    for period in dict.fromkeys(each.period_s for each in path.outages):
        lengths = [each.duration_s for each in path.outages if each.period_s == period]
        often = "" if period is None else f" every {period:g} s"
        parts.append(f"{_count(len(lengths), 'outage')} of {_span(lengths, 3)} s{often}")
    for traffic in path.cross_traffic:
        kind = "download" if traffic.direction == "down" else "upload"
        parts.append(f"{traffic.congestion_control} {kind}")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _row_for_programs(path: Scenario) -> dict[str, Value]:
    """Figures of the start, in seconds, bits per second and shares."""
    row: dict[str, Value] = {"name": path.name, "rtt_s": path.up.delay_s + path.down.delay_s}
    for direction, impairment in (("up", path.up), ("down", path.down)):
        row |= {
            f"loss_{direction}": impairment.mean_loss,
            f"rate_{direction}_bps": _rate_bps(impairment) or None,
            f"jitter_{direction}_s": impairment.jitter_s,
        }
    return row | {
        "changes": len(path.changes),
        "outages": len(path.outages),
        "cross_traffic": len(path.cross_traffic),
        "is_simulated": path.is_simulated,
        "source": path.source,
        "licence": path.licence,
        "note": path.note,
    }
