"""Scenarios in TOML files: the fields of the values under their own names.

    name = "commute"

    [both]                                  # or [up] and [down]; what they say goes before [both]
    delay_s = 0.03
    bursts = { good_s = 0.4, bad_s = 0.03, loss_in_bad = 0.5 }

    [[outages]]
    start_s = 12
    duration_s = 8

    [[changes]]
    at_s = 30
    both = { delay_s = 0.2, trace = "slow.down" }   # in place of all that was before

Whatever is wrong raises ConfigurationError, which names the file and the table.
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TypeVar

from eloquent.errors import ConfigurationError
from netem.impairment import Bursts, GilbertElliott, Impairment
from netem.profiles import scenario
from netem.scenario import Change, CrossTraffic, Outage, Scenario
from netem.trace import DeliveryTrace, read_trace

T = TypeVar("T")

_SUFFIX = ".toml"
_TEXTS = ("name", "source", "licence", "note")
_SIDES = ("both", "up", "down")


def find_scenario(name_or_path: str | PathLike[str], *, rtt_s: float | None = None) -> Scenario:
    """Return the scenario of that name, or the one in a file whose name ends in .toml.

    Half of `rtt_s`, if given, becomes the delay each way.
    """
    wanted = fspath(name_or_path)
    if not wanted.endswith(_SUFFIX):
        return scenario(wanted, rtt_s=rtt_s)
    found = load_scenario(Path(wanted))
    return found if rtt_s is None else found.with_rtt(rtt_s)


def load_scenario(path: Path) -> Scenario:
    """Read a scenario; its name, where the file gives none, is that of the file."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return _read_scenario(_Table(path, "top level", document, {}))
    except ConfigurationError:
        raise
    except RecursionError as error:
        raise ConfigurationError(f"cannot read the scenario {path}: it is nested too deeply") from error
    except (OSError, ValueError) as error:  # ValueError: no TOML, or a number of thousands of digits
        raise ConfigurationError(f"cannot read the scenario {path}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the file, and how an error names it."""

    file: Path
    place: str
    values: Mapping[str, object]
    traces: dict[str, DeliveryTrace]
    """Those read so far: one that is named twice is one value."""

    def error(self, message: str) -> ConfigurationError:
        return ConfigurationError(f"{self.file}, {self.place}: {message}")

    def check_keys(self, known: Iterable[str]) -> None:
        known = list(known)
        for key in self.values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"the keys are: {', '.join(known)}"
                raise self.error(f"there is no key {key!r} ({hint})")

    def text(self, key: str, default: str = "") -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.error(f"{key} is {value!r}; it must be a string")
        return value

    def inner(self, key: str) -> _Table | None:
        """The table under `key`, if there is one."""
        value = self.values.get(key)
        if value is None:
            return None
        place = f"[{key}]" if self.place == "top level" else f"{self.place}, {key}"
        if not isinstance(value, dict):
            raise self.error(f"{key} is {value!r}; it must be a table")
        return _Table(self.file, place, value, self.traces)

    def inner_list(self, key: str) -> list[_Table]:
        """The tables [[key]]."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.error(f"{key} is {value!r}; it must be tables, each below a line [[{key}]]")
        return [
            _Table(self.file, f"[[{key}]] number {number}", each, self.traces)
            for number, each in enumerate(value, 1)
        ]

    def build(self, kind: Callable[..., T]) -> T:
        """The value whose fields are the keys of this table."""
        parameters = inspect.signature(kind).parameters
        self.check_keys(parameters)
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in self.values:
                raise self.error(f"{name} is missing")
        try:
            return kind(**self.values)
        except ConfigurationError as error:
            raise self.error(str(error)) from error


def _read_scenario(top: _Table) -> Scenario:
    top.check_keys((*_TEXTS, *_SIDES, "changes", "outages", "cross_traffic"))
    up, down = _read_sides(top)
    changes = tuple(_read_change(each) for each in top.inner_list("changes"))
    outages = tuple(each.build(Outage) for each in top.inner_list("outages"))
    traffic = tuple(each.build(CrossTraffic) for each in top.inner_list("cross_traffic"))
    texts = {key: top.text(key, top.file.stem if key == "name" else "") for key in _TEXTS}
    try:
        return Scenario(up=up, down=down, changes=changes, outages=outages, cross_traffic=traffic, **texts)
    except ConfigurationError as error:
        raise top.error(str(error)) from error


def _read_change(table: _Table) -> Change:
    table.check_keys(("at_s", *_SIDES))
    up, down = _read_sides(table)
    values = {"up": up, "down": down, **{key: table.values[key] for key in table.values if key == "at_s"}}
    return replace(table, values=values).build(Change)


def _read_sides(table: _Table) -> tuple[Impairment, Impairment]:
    """`up` and `down`, each with what `both` says beside it."""
    both = table.inner("both") or replace(table, place=f"{table.place}, both", values={})
    up, down = (table.inner(side) for side in ("up", "down"))
    return _read_side(both, up), _read_side(both, down)


def _read_side(both: _Table, own: _Table | None) -> Impairment:
    if own is None:
        return _read_impairment(both)
    place = f"{own.place} with what [both] adds" if both.values else own.place
    return _read_impairment(replace(own, place=place, values={**both.values, **own.values}))


def _read_impairment(table: _Table) -> Impairment:
    models: dict[str, object] = {}
    for key, kind in (("bursts", Bursts), ("gilbert_elliott", GilbertElliott)):
        inner = table.inner(key)
        if inner is not None:
            models[key] = inner.build(kind)
    if "trace" in table.values:
        models["trace"] = _read_trace(table)
    return replace(table, values={**table.values, **models}).build(Impairment)


def _read_trace(table: _Table) -> DeliveryTrace:
    """The trace, in a file whose name is relative to the scenario's folder."""
    name = table.text("trace")
    if name not in table.traces:
        try:
            trace = read_trace(table.file.parent / name)
        except ConfigurationError as error:
            raise table.error(str(error)) from error
        table.traces[name] = replace(trace, file=name)
    return table.traces[name]


def format_scenario(scenario: Scenario) -> str:
    """Write a scenario as load_scenario() reads it.

    A trace is written as the name of its file; raises ConfigurationError where it has none.
    """
    texts = {key: getattr(scenario, key) for key in _TEXTS}
    head = [f"{key} = {_quote(text)}" for key, text in texts.items() if text or key == "name"]
    parts = ["\n".join(head), *_format_sides(scenario.up, scenario.down, "")]
    for change in scenario.changes:
        parts.append(f"[[changes]]\nat_s = {change.at_s!r}")
        parts += _format_sides(change.up, change.down, "changes.")
    parts += [f"[[outages]]\n{_format_fields(outage)}" for outage in scenario.outages]
    parts += [f"[[cross_traffic]]\n{_format_fields(traffic)}" for traffic in scenario.cross_traffic]
    return "\n\n".join(parts) + "\n"


def _format_sides(up: Impairment, down: Impairment, prefix: str) -> list[str]:
    sides = {"both": up} if up == down else {"up": up, "down": down}
    return [f"[{prefix}{side}]\n{_format_fields(value)}".rstrip() for side, value in sides.items()]


def _format_fields(value: Outage | CrossTraffic | Impairment) -> str:
    return "\n".join(_assignments(value))


def _assignments(value: Outage | CrossTraffic | Impairment | Bursts | GilbertElliott) -> list[str]:
    """The fields that are not at their default."""
    held = ((field.name, getattr(value, field.name), field.default) for field in fields(value))
    return [f"{name} = {_format(content)}" for name, content, default in held if content != default]


def _format(content: object) -> str:
    if isinstance(content, bool):
        return "true" if content else "false"
    if isinstance(content, str):
        return _quote(content)
    if isinstance(content, DeliveryTrace):
        if not content.file:
            raise ConfigurationError("a trace that did not come from a file cannot be written")
        return _quote(content.file)
    if isinstance(content, (Bursts, GilbertElliott)):
        return "{ " + ", ".join(_assignments(content)) + " }"
    return repr(content)


def _quote(text: str) -> str:
    """A basic string of TOML, which must not hold control characters as they are."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x20 or ord(c) == 0x7F else c for c in escaped) + '"'
