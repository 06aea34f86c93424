"""The picture that `show` draws: loss, delay and rate of both directions over time."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from netem.commands.timeline import Moment, impairments, moments
from netem.scenario import CrossTraffic, Direction, Scenario
from netem.trace import OPPORTUNITY_BYTES, PACKET_OVERHEAD_BYTES, DeliveryTrace

_LOSS, _DELAY, _RATE = "#b3261e", "#1f5fa8", "#1b7f4d"
_TRAFFIC = "#7b4fa3"
_TITLES: dict[Direction, str] = {"up": "up (client to server)", "down": "down (server to client)"}
_BAND = (0.05, 0.5, 0.95)
_BINS = 240
"""Of a trace, over the width of a panel."""

_LOG_ABOVE = 20.0
"""Ratio of the greatest to the least rate from which they are on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class _Shade:
    """A kind of moment that shows as a coloured strip through all panels."""

    label: str
    colour: str
    applies: Callable[[Moment], bool]
    hatch: str | None = None

    @property
    def style(self) -> dict[str, Any]:
        return {
            "facecolor": to_rgba(self.colour, 0.22),
            "edgecolor": to_rgba(self.colour, 0.5),
            "hatch": self.hatch,
            "linewidth": 0.0,
        }


_SHADES = (
    _Shade("burst of loss", "#f2a65a", lambda each: each.is_burst),
    _Shade("outage", "#3c3c3c", lambda each: each.outage is not None and not each.outage.held),
    _Shade(
        "held outage: sent when it ends",
        "#8a6d1a",
        lambda each: each.outage is not None and each.outage.held,
        hatch="////",
    ),
)


def draw(scenario: Scenario, *, seed: int, duration_s: float, file: Path) -> None:
    """Draw the scenario to a file, in the format that its suffix names; raises OSError."""
    figure = Figure(figsize=(12.0, 7.4), layout="constrained")
    panels = figure.subplots(3, 2, sharex=True, sharey="row")
    courses = [moments(scenario, direction, seed=seed, until=duration_s) for direction in _TITLES]
    for column, (direction, course) in enumerate(zip(_TITLES, courses, strict=True)):
        loss, delay, rate = panels[:, column]
        loss.set_title(_TITLES[direction], fontsize=11)
        for panel in (loss, delay, rate):
            _shade(panel, course)
            panel.grid(alpha=0.25, linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        _draw_loss(loss, course)
        _draw_delay(delay, course)
        _draw_rate(rate, course)
        _draw_traffic(rate, [each for each in scenario.cross_traffic if each.direction == direction])
        rate.set_xlim(0.0, duration_s)
        rate.set_xlabel("seconds")
    _set_loss_axis(*panels[0])
    _set_delay_axis(*panels[1])
    _set_rate_axis(*panels[2], scenario=scenario)
    _set_title(figure, scenario, seed)
    _add_legend(figure, [each for course in courses for each in course])
    figure.savefig(file, dpi=110)


def _shade(panel: Axes, course: Sequence[Moment]) -> None:
    across = panel.get_xaxis_transform()
    for shade in _SHADES:
        spans = [(start, end - start) for start, end in _spans(filter(shade.applies, course))]
        panel.broken_barh(spans, (0.0, 1.0), transform=across, zorder=0, **shade.style)


def _spans(course: Iterable[Moment]) -> list[tuple[float, float]]:
    """Start and end of each stretch of moments that follow each other."""
    spans: list[tuple[float, float]] = []
    for each in course:
        if spans and spans[-1][1] == each.start_s:
            spans[-1] = (spans[-1][0], each.end_s)
        else:
            spans.append((each.start_s, each.end_s))
    return spans


def _draw_loss(panel: Axes, course: Sequence[Moment]) -> None:
    times = [each.start_s for each in course] + [course[-1].end_s]
    losses = [each.loss for each in course] + [course[-1].loss]
    panel.plot(times, losses, drawstyle="steps-post", color=_LOSS, linewidth=1.2, clip_on=False)


def _draw_delay(panel: Axes, course: Sequence[Moment]) -> None:
    """The median with a band; what is held comes the later the earlier it was sent."""
    for (impairment, outage), group in groupby(course, key=lambda each: (each.impairment, each.outage)):
        if outage is not None and outage.loss == 1.0 and not outage.held:
            continue
        stretch = list(group)
        start, end = stretch[0].start_s, stretch[-1].end_s
        waits = [0.0, 0.0]
        if outage is not None and outage.held:
            over_at = outage.end_at(start) or end
            waits = [over_at - start, over_at - end]
        low, middle, high = ([impairment.delay_quantile(u) + wait for wait in waits] for u in _BAND)
        panel.fill_between([start, end], low, high, color=_DELAY, alpha=0.2, linewidth=0.0)
        panel.plot([start, end], middle, color=_DELAY, linewidth=1.4)


def _draw_rate(panel: Axes, course: Sequence[Moment]) -> None:
    for impairment, group in groupby(course, key=lambda each: each.impairment):
        stretch = list(group)
        start, end = stretch[0].start_s, stretch[-1].end_s
        if impairment.trace is not None:
            _draw_trace(panel, impairment.trace, start, end, course[-1].end_s)
        elif impairment.rate_bps is not None:
            panel.plot(
                [start, end], [impairment.rate_bps] * 2, color=_RATE, linewidth=1.6, solid_capstyle="butt"
            )
        else:
            panel.text(
                0.5 * (start + end),
                0.5,
                "no limit",
                color=_RATE,
                ha="center",
                va="center",
                transform=panel.get_xaxis_transform(),
                clip_on=True,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 2.0},
            )


def _draw_trace(panel: Axes, trace: DeliveryTrace, start: float, end: float, until: float) -> None:
    """The mean rate in short intervals."""
    width = until / _BINS
    times = [start + width * number for number in range(math.ceil((end - start) / width) + 1)]
    passed = [trace.first_after(time) for time in times]
    bits = (OPPORTUNITY_BYTES - PACKET_OVERHEAD_BYTES) * 8.0
    rates = [bits * (later - earlier) / width for earlier, later in pairwise(passed)]
    panel.stairs(rates, times, color=_RATE, linewidth=1.2, baseline=None)


def _draw_traffic(panel: Axes, traffic: Sequence[CrossTraffic]) -> None:
    for row, each in enumerate(traffic):
        bottom = 0.04 + 0.13 * row
        across = panel.get_xaxis_transform()
        panel.broken_barh(
            [(each.start_s, each.duration_s)], (bottom, 0.1), transform=across, facecolor=_TRAFFIC, zorder=3
        )
        count = "" if each.connections == 1 else f" × {each.connections}"
        panel.text(
            each.start_s + 0.5 * each.duration_s,
            bottom + 0.05,
            f"TCP {each.congestion_control}{count}",
            transform=across,
            color="white",
            ha="center",
            va="center",
            fontsize=9,
            clip_on=True,
            zorder=4,
        )


def _top(*panels: Axes) -> float:
    """The greatest value in panels that share their scale; 0 where there is none."""
    return max((top for panel in panels if math.isfinite(top := panel.dataLim.ymax)), default=0.0)


def _set_loss_axis(panel: Axes, neighbour: Axes) -> None:
    panel.set_ylabel("loss")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    panel.set_ylim(bottom=0.0, top=1.05 * max(_top(panel, neighbour), 0.05))


def _set_delay_axis(panel: Axes, neighbour: Axes) -> None:
    panel.set_ylabel("delay")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{1e3 * seconds:g} ms"))
    panel.set_ylim(bottom=0.0, top=1.15 * max(_top(panel, neighbour), 0.001))


def _set_rate_axis(panel: Axes, neighbour: Axes, *, scenario: Scenario) -> None:
    panel.set_ylabel("rate")
    everything = [each for direction in _TITLES for each in impairments(scenario, direction)]
    rates = [each.rate_bps for each in everything if each.rate_bps is not None]
    has_trace = any(each.trace is not None for each in everything)
    if not rates and not has_trace:
        panel.set_yticks([])
    elif not has_trace and max(rates) > _LOG_ABOVE * min(rates):
        panel.set_yscale("log")
        panel.set_ylim(0.4 * min(rates), 2.5 * max(rates))
    else:
        panel.set_ylim(bottom=0.0, top=1.15 * _top(panel, neighbour))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda bps, _: _format_rate(bps)))


def _format_rate(bps: float) -> str:
    if bps == 0.0:
        return "0"
    return f"{bps / 1e6:g} Mbit/s" if bps >= 1e6 else f"{bps / 1e3:g} kbit/s"


def _set_title(figure: Figure, scenario: Scenario, seed: int) -> None:
    words = f"{scenario.name}: {scenario.note}" if scenario.note else scenario.name
    figure.suptitle("\n".join([*textwrap.wrap(words, 120), f"seed {seed}"]), fontsize=12)


def _add_legend(figure: Figure, everything: Sequence[Moment]) -> None:
    """Only of what is there to be seen."""
    shades = [shade for shade in _SHADES if any(map(shade.applies, everything))]
    handles = [Patch(label=shade.label, **shade.style) for shade in shades]
    if any(each.impairment.jitter_s or each.impairment.reordering for each in everything):
        handles.append(Patch(facecolor=_DELAY, alpha=0.4, label="delay: median, 5 to 95 %"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
