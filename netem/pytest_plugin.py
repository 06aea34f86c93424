"""The laboratory in tests: a marker that names the bad network, and a fixture that is it.

    pytest_plugins = ["netem.pytest_plugin"]  # in conftest.py

    @pytest.mark.netem("bursty", seed=1)
    async def test_my_client(lab: netem.Lab) -> None:
        await lab.host("client").run([...])

It needs pytest-asyncio. Where the machine cannot build the laboratory the test is skipped with the
reason. That is a failure instead with `--netem-required`, and where the variable CI is set to true,
unless the marker asks for the `kernel` backend, which many kernels cannot do.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from eloquent.errors import ConfigurationError
from netem.errors import LabUnavailable
from netem.lab.cable import Cable
from netem.lab.lab import Lab
from netem.lab.machine import require_laboratory
from netem.lab.wire import Backend
from netem.scenario import Scenario
from netem.scenario_file import find_scenario

_MARKER = (
    "netem(scenario, *, seed=0, backend=None, rtt_s=None): the network of the fixture `lab`. `scenario` is "
    "a name, a TOML file (relative to that of the test), a netem.Scenario or a list of netem.Cable; rtt_s "
    "replaces its round-trip time in seconds."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--netem-required`."""
    parser.getgroup("netem").addoption(
        "--netem-required",
        action="store_true",
        help="A test whose laboratory this machine cannot build fails; otherwise it is skipped.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture(scope="session")
def _missing_for_laboratory() -> str:
    """Why this process can have no laboratory; empty where it can.

    Not in the event loop: pyroute2 has one of its own, and the threads of the test's come too early
    for an ordinary user, whose process has to change its namespaces before it has any.
    """
    try:
        require_laboratory()
    except LabUnavailable as error:
        return str(error)
    return ""


@pytest_asyncio.fixture
async def lab(request: pytest.FixtureRequest, _missing_for_laboratory: str) -> AsyncIterator[Lab]:
    """The laboratory that the test's marker `netem` describes, until the test is over."""
    wanted = _wanted(request)
    async with AsyncExitStack() as stack:
        try:
            if _missing_for_laboratory:
                raise LabUnavailable(_missing_for_laboratory)
            laboratory = await stack.enter_async_context(
                Lab(wanted.cables, seed=wanted.seed, backend=wanted.backend, name=request.node.name)
            )
        except LabUnavailable as error:
            reason = f"no laboratory on this machine: {error}"
            if _is_required(request.config) and wanted.backend != "kernel":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        except ConfigurationError as error:
            pytest.fail(f"@pytest.mark.netem: {error}", pytrace=False)
        yield laboratory


@dataclass(frozen=True, slots=True)
class _Wanted:
    cables: Scenario | Sequence[Cable]
    seed: int
    backend: Backend | None


def _wanted(request: pytest.FixtureRequest) -> _Wanted:
    marker = request.node.get_closest_marker("netem")
    if marker is None:
        pytest.fail(
            'the fixture `lab` needs to know the network: @pytest.mark.netem("bursty")', pytrace=False
        )
    try:
        return _read(request.path.parent, *marker.args, **marker.kwargs)
    except TypeError as error:
        message = str(error).removeprefix("_read() ")
        pytest.fail(f"@pytest.mark.netem: {message}; the form is {_MARKER}", pytrace=False)
    except ConfigurationError as error:
        pytest.fail(f"@pytest.mark.netem: {error}", pytrace=False)


def _read(
    folder: Path,
    scenario: str | Path | Scenario | Sequence[Cable],
    /,
    *,
    seed: int = 0,
    backend: Backend | None = None,
    rtt_s: float | None = None,
) -> _Wanted:
    """The marker's arguments; raises TypeError and ConfigurationError."""
    if isinstance(scenario, str | Path):
        is_file = str(scenario).endswith(".toml")
        found = find_scenario(str(folder / scenario) if is_file else str(scenario), rtt_s=rtt_s)
        return _Wanted(found, seed, backend)
    if isinstance(scenario, Scenario):
        return _Wanted(scenario if rtt_s is None else scenario.with_rtt(rtt_s), seed, backend)
    if rtt_s is not None:
        raise TypeError("rtt_s is not for cables, each of which has a scenario of its own")
    if not isinstance(scenario, list | tuple) or not all(isinstance(cable, Cable) for cable in scenario):
        raise TypeError(f"{scenario!r} is no scenario")
    return _Wanted(scenario, seed, backend)


def _is_required(config: pytest.Config) -> bool:
    return config.getoption("--netem-required") or os.environ.get("CI", "").lower() == "true"
