"""The demonstration in the laboratory, with TCP as its third side; and where there is none."""

import json
import os
import pty
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest

TIMEOUT_S = 60.0  # for what must happen; nothing waits that long unless it fails

DEMO = [sys.executable, "-m", "netem", "demo"]
SHORT = ["--tokens", "60", "--rate", "100", "--rtt", "0.02"]


def run_demo(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, *DEMO, *SHORT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    """Of one run without loss; skips the tests, except in CI, where there is no laboratory."""
    result = run_demo("--json", "--scenario", "clean")
    if "Without TCP" in result.stderr and not os.environ.get("CI"):
        pytest.skip(result.stderr)
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["faults"] == []
    found: list[dict[str, object]] = document["rows"]
    return found


def test_the_laboratory_adds_tcp_with_the_same_figures(rows: list[dict[str, object]]) -> None:
    assert [row["side"] for row in rows] == ["Eloquent", "retransmission only", "TCP (SSE)"]
    assert len({frozenset(row) for row in rows}) == 1


def test_packets_and_bytes_are_counted_on_the_cable(rows: list[dict[str, object]]) -> None:
    tcp = rows[2]
    # A segment for each token: the web server has Nagle's algorithm off, and nothing is lost.
    assert tcp["datagrams_per_token"] == pytest.approx(1.0, abs=0.2)
    # IP and TCP take 52 bytes with timestamps, the event some 240.
    assert tcp["padded_bytes_per_token"] == pytest.approx(295.0, abs=60.0)
    # Each acknowledgment takes 52.
    assert 0.0 < tcp["padded_ack_bytes_per_token"] <= 1.2 * 52
    for row in rows:
        assert row["datagrams_per_token"] > 0.5


@pytest.mark.usefixtures("rows")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of forkpty:DeprecationWarning")
def test_on_a_terminal_there_are_three_panes() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "30"}
        os.execve(sys.executable, [*DEMO, *SHORT], environment)
    output = b""
    with suppress(OSError):  # the terminal's end
        while chunk := os.read(terminal, 65536):
            output += chunk
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    text = output.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) == 0
    assert "One answer, three times" in text
    assert text.count("╭") % 3 == 0
    for words in ("Eloquent", "retransmission only", "TCP (SSE)", "s lost in stalls", "longest stall"):
        assert words in text


@pytest.mark.usefixtures("rows")
def test_packets_beside_a_download_are_not_told_from_it() -> None:
    document = json.loads(run_demo("--json", "--scenario", "dsl-download").stdout)
    for row in document["rows"]:
        assert row["p50_ms"] is not None
        assert row["datagrams_per_token"] is None
        assert row["padded_bytes_per_token"] is None


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_root_without_capabilities_gets_two_sides_and_the_reason() -> None:
    """As in most containers."""
    without = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    result = run_demo("--plain", prefix=without)
    assert result.stderr.startswith("Without TCP, which needs the laboratory (`python -m netem doctor`): ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout.startswith("One answer, twice")
