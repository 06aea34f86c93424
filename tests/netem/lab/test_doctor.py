"""`python -m netem doctor`: what it says of this machine agrees with what can be done on it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from netem.commands.doctor import table
from netem.lab import machine
from netem.lab.machine import Check

TIMEOUT_S = 60.0

CHECK = Check("thing", True, "/usr/bin/thing", "something")


def doctor(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "netem", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_json_has_all_checks() -> None:
    done = doctor("--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["command"], document["backend"], document["reason"]) == ("doctor", "user", "")
    checks = {check["name"]: check for check in document["checks"]}
    for check in checks.values():
        assert set(check) == {"name", "is_there", "found", "purpose", "remedy"}
        assert bool(check["remedy"]) == (not check["is_there"]), check
        assert check["found"]
        assert check["purpose"]
    for name in ("Linux", "namespaces", "backend user", "nsenter", "setpriv", "pyroute2"):
        assert checks[name]["is_there"], name
    assert checks["Linux"]["found"].endswith(os.uname().release)


def test_text_has_a_line_for_each_check_and_the_backend() -> None:
    lines = doctor().stdout.splitlines()
    assert lines[0].startswith("ok       Linux ")
    assert lines[-1] == "A laboratory here uses the backend user."


def test_what_is_missing_comes_with_its_remedy() -> None:
    missing = replace(CHECK, name="other", is_there=False, found="missing", remedy="apt-get install other")
    assert table([CHECK, missing]).splitlines() == [
        "ok       thing  /usr/bin/thing (something)",
        "missing  other  missing (something)",
        "    to get it: apt-get install other",
    ]


def test_a_program_that_is_not_there_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = {check.name: check for check in machine.examine()}
    assert not checks["nsenter"].is_there
    assert checks["nsenter"].remedy == "apt-get install util-linux"


def test_without_the_extra_there_is_no_laboratory_but_an_answer(tmp_path: Path) -> None:
    # None there means for imports that it is not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pyroute2'] = None")
    done = doctor(path=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    assert "pip install 'eloquent-stream[lab]'" in done.stdout.splitlines()[-1]
