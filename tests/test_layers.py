"""The boundaries between the packages, and the ban on clocks, sockets and randomness in the core."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE_RULES = ROOT / "eloquent" / "protocol" / "ruff.toml"
needs_checkout = pytest.mark.skipif(
    not CORE_RULES.exists(), reason="ruff's rules are in the checkout, not in the wheel"
)


def package_folder(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def imported_modules(path: Path, package: str) -> Iterator[str]:
    """Absolute names of what the file imports, at any depth of its code, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_of(package: str) -> Iterator[tuple[str, str]]:
    """(file, imported module) for every import statement in the package."""
    folder = package_folder(package)
    for path in sorted(folder.rglob("*.py")):
        parent = ".".join([package, *path.parent.relative_to(folder).parts])
        for module in imported_modules(path, parent):
            yield path.relative_to(folder.parent).as_posix(), module


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import netem.link", ["netem.link"]),
        ("from netem import link", ["netem.link"]),
        ("from . import wire", ["eloquent.protocol.wire"]),
        ("from .wire import WireError", ["eloquent.protocol.wire.WireError"]),
        ("from ..endpoint import Endpoint", ["eloquent.endpoint.Endpoint"]),
        ("def lazy():\n    import netem", ["netem"]),
    ],
)
def test_every_form_of_import_is_seen(tmp_path: Path, source: str, expected: list[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    assert list(imported_modules(path, "eloquent.protocol")) == expected


def test_the_library_never_imports_the_laboratory() -> None:
    found = [(file, module) for file, module in imports_of("eloquent") if is_within(module, "netem")]
    assert found == []


def test_the_core_imports_nothing_above_itself() -> None:
    imports = list(imports_of("eloquent.protocol"))
    assert imports
    above = [
        (file, module)
        for file, module in imports
        if is_within(module, "eloquent", "netem")
        and not is_within(module, "eloquent.protocol", "eloquent.errors")
    ]
    assert above == []


def broken_rules(source: str, filename: str) -> list[str]:
    """Codes of the rules that ruff finds broken in `source` as if it were in `filename`."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format=json",
        "--stdin-filename",
        filename,
        "-",
    ]
    result = subprocess.run(command, input=source, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode in (0, 1), result.stderr
    return [violation["code"] for violation in json.loads(result.stdout)]


BANNED = {
    "time": "import time",
    "time.monotonic": "from time import monotonic",
    "socket": "import socket",
    "asyncio": "import asyncio",
    "random": "from random import Random",
    "os.urandom": "from os import urandom",
    "secrets": "from secrets import token_bytes",
    "datetime.now": "from datetime import datetime",
    "threading": "import threading",
    "inside a function": "def wait():\n    import time as clock\n    return clock",
    "key generation": (
        "from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey\n"
        "key = X25519PrivateKey.generate()"
    ),
}


@needs_checkout
@pytest.mark.parametrize("source", BANNED.values(), ids=BANNED.keys())
def test_ruff_bans_clocks_sockets_and_randomness_in_the_core(source: str) -> None:
    assert "TID251" in broken_rules(source, "eloquent/protocol/snippet.py")


@needs_checkout
@pytest.mark.parametrize("filename", ["eloquent/snippet.py", "netem/snippet.py", "tests/snippet.py"])
def test_ruff_allows_them_everywhere_else(filename: str) -> None:
    assert "TID251" not in broken_rules("\n".join(BANNED.values()), filename)


@needs_checkout
def test_ruff_allows_what_the_core_needs() -> None:
    source = '"""A module."""\n\nfrom hashlib import sha256\n\nDIGEST = sha256\n'
    assert broken_rules(source, "eloquent/protocol/snippet.py") == []
