"""Every value on docs/protocol.md that names its constant, and every code, agrees with the code."""

import ast
import importlib
import inspect
import pkgutil
import re
from enum import IntEnum
from types import ModuleType
from typing import Any

import pytest

import eloquent.protocol
from eloquent.protocol import content, wire
from eloquent.protocol.crypto import Aead

UNITS = {
    "": 1, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86_400,
    "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
    "%": 0.01, "PTO": 1, "packets": 1, "characters": 1,
}  # fmt: skip

VALUE = re.compile(r"([0-9.]+)(?:\^([0-9]+))?(?:/([0-9]+))?(?: - ([0-9]+))?\s*([A-Za-z%]*)")

NOT_ON_THE_PAGE = {
    "cadence.RECOMPUTE_EVERY",  # how often a statistic is refreshed
    "compose.ARRAY_SLACK",
    "compose.MAX_BURST",  # how much one call of the library does
    "content.STREAM_BUFFER",
    "delivery.ACK_ENTRY_SIZE",  # estimates
    "delivery.ACK_OVERHEAD",
    "delivery.FRAME_OVERHEAD",
    "delivery.MIN_FORGOTTEN",  # when memory is cleared up
    "listener.SWEEP_INTERVAL",
    "log.TRIM_STEP",
}
"""What another implementation may do in its own way without anyone noticing."""


def read_value(text: str) -> float:
    match = VALUE.fullmatch(text)
    assert match is not None, f"not a value: {text}"
    number, power, divisor, less, unit = match.groups()
    value = float(number) ** int(power or 1) / int(divisor or 1) - int(less or 0)
    return value * UNITS[unit]


def module_of(name: str) -> ModuleType:
    package = "eloquent" if name == "store" else "eloquent.protocol"
    return importlib.import_module(f"{package}.{name}")


def constant(path: str) -> Any:
    """What `module.NAME` is, or the default of a setting, `module.Class.name`."""
    module, *names = path.split(".")
    found: Any = module_of(module)
    for name in names:
        found = getattr(found() if inspect.isclass(found) else found, name)
    return found


def numbers_of(name: str) -> set[str]:
    """The public numeric constants that a module defines, not what it imports."""
    module = module_of(name)
    names = set()
    for node in ast.parse(inspect.getsource(module)).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {
        f"{name}.{found}"
        for found in names
        if re.fullmatch(r"[A-Z][A-Z0-9_]*", found) and isinstance(getattr(module, found), (int, float))
    }


def test_the_values_on_the_page_are_those_of_the_code(tables: Any) -> None:
    stated = {row["constant"].strip("`"): row["value"] for row in tables.with_column("constant")}
    stated.pop("", None)
    differing = {
        path: (text, constant(path))
        for path, text in stated.items()
        if read_value(text) != pytest.approx(constant(path), rel=1e-12)
    }
    assert differing == {}


def test_no_constant_of_the_code_is_missing_on_the_page(tables: Any) -> None:
    stated = {row["constant"].strip("`") for row in tables.with_column("constant")}
    modules = [module.name for module in pkgutil.iter_modules(eloquent.protocol.__path__)]
    defined = set().union(*(numbers_of(name) for name in [*modules, "store"]))
    assert defined - stated - NOT_ON_THE_PAGE == set()


@pytest.mark.parametrize(
    ("heading", "number", "codes"),
    [
        ("Kinds", "kind", wire.Kind),
        ("Close codes", "code", wire.CloseCode),
        ("Refusal codes", "code", wire.RefusalCode),
        ("Reset codes", "code", wire.ResetCode),
    ],
)
def test_codes(tables: Any, heading: str, number: str, codes: type[IntEnum]) -> None:
    stated = {row["name"]: int(row[number]) for row in tables[heading]}
    assert stated == {code.name: code.value for code in codes}


def test_aeads(tables: Any) -> None:
    stated = {int(row["number"]): (row["name"], int(row["key size"])) for row in tables["AEADs"]}
    assert stated == {
        Aead.AES_128_GCM: ("AES-128-GCM", Aead.AES_128_GCM.key_size),
        Aead.CHACHA20_POLY1305: ("ChaCha20-Poly1305", Aead.CHACHA20_POLY1305.key_size),
    }


def test_types_of_frames_and_kinds_of_events(tables: Any) -> None:
    frames = {row["name"]: int(row["type"]) for row in tables["Frame types"]}
    assert frames == {name: getattr(wire, name) for name in frames}
    assert len(frames) == len(wire._DECODERS)
    events = {row["name"]: int(row["kind"]) for row in tables["Events"]}
    assert events == {name: getattr(content, name) for name in events}
    assert len(events) == len(content._KINDS) + 1  # CUSTOM is decoded by itself
