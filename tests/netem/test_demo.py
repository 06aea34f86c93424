"""The demonstration over relays, and what its panes say; test_demo_lab.py has the laboratory."""

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from eloquent.protocol.send import ELOQUENT, RETRANSMISSION_ONLY
from netem import Impairment, Scenario
from netem.experiments.panes import Panes
from netem.experiments.race import Plan, Side, Stall, run_over_relays
from netem.transport import UdpTransport

TIMEOUT_S = 60.0  # for what must happen; nothing waits that long unless it fails

SHORT = ["--relay", "--tokens", "60", "--rate", "400", "--rtt", "0.02"]

KEYS = {
    "side",
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "p9999_ms",
    "stalls",
    "longest_stall_ms",
    "lost_s",
    "stall_ratio",
    "datagrams_per_token",
    "padded_bytes_per_token",
    "padded_ack_bytes_per_token",
}


def demo(*arguments: str) -> str:
    command = [sys.executable, "-m", "netem", "demo", *SHORT, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_json_has_a_row_for_each_side() -> None:
    document = json.loads(demo("--json", "--scenario", "bursty"))
    assert (document["command"], document["scenario"], document["faults"]) == ("demo", "bursty", [])
    assert [row["side"] for row in document["rows"]] == ["Eloquent", "retransmission only"]
    for row in document["rows"]:
        assert set(row) == KEYS
        assert row["p99_ms"] >= row["p50_ms"] > 0.0
        assert row["datagrams_per_token"] > 0.0
        assert row["padded_bytes_per_token"] > 0.0


def test_without_a_terminal_there_is_a_headline_and_a_table() -> None:
    output = demo()
    assert output.startswith("One answer, twice, over the same bad link: lte-walk, 13 % of packets lost")
    assert "longest stall" in output
    assert "\x1b" not in output
    assert "╭" not in output


def test_a_relay_cannot_play_cross_traffic() -> None:
    command = [sys.executable, "-m", "netem", "demo", *SHORT, "--scenario", "dsl-download"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Error: dsl-download has cross traffic" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of forkpty:DeprecationWarning")
def test_on_a_terminal_there_are_two_panes() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "netem", "demo", *SHORT],
            {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        )
    output = b""
    with suppress(OSError):  # the terminal's end
        while chunk := os.read(terminal, 65536):
            output += chunk
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    text = output.decode(errors="replace")
    assert text.count("╭") >= 2
    assert "s lost in stalls" in text
    assert "longest stall" in text


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_both_sides_say_the_same_at_the_same_time(loss: float) -> None:
    impairment = Impairment(delay_s=0.01, loss=loss)
    text = "One two three four five six seven eight nine ten. " * 3
    plan = Plan(text, 200.0, Scenario("test", up=impairment, down=impairment), seed=1)
    sides = [Side("test", UdpTransport(policy), 0.01) for policy in (ELOQUENT, RETRANSMISSION_ONLY)]
    asyncio.run(asyncio.wait_for(run_over_relays(plan, sides), TIMEOUT_S))
    for side in sides:
        assert side.text == text
        assert side.is_complete
        assert len(side.written_at) == len(side.shown_at) == len(side.extra_delays())
        assert side.down.sent > 0
    assert len(sides[0].written_at) == len(sides[1].written_at)


def side_with(written_at: list[float], tokens: list[tuple[float, str]]) -> Side:
    """A side whose tokens were shown at these times."""
    side = Side("test", UdpTransport(ELOQUENT), 0.1, written_at=written_at)
    for at, token in tokens:
        side.on_token(token, now=at)
    return side


def test_a_stall_is_a_gap_that_the_model_did_not_make() -> None:
    written = [0.0, 0.025, 1.025, 1.050]
    side = side_with(written, [(0.1, "a"), (0.4, "b"), (1.4, "c"), (1.62, "d")])
    assert [(stall.position, round(stall.lost_s, 3)) for stall in side.stalls] == [(1, 0.275)]
    assert [round(delay, 3) for delay in side.extra_delays()] == [0.0, 0.275, 0.275, 0.47]


def test_an_overdue_token_shows_as_a_stall_while_it_lasts() -> None:
    side = side_with([1.0], [(1.1, "a")])
    assert side.stalled_for(now=9.0) is None  # the model is silent
    side.written_at.append(9.0)
    assert side.stalled_for(now=9.29) is None  # 100 ms on its way, 190 ms late
    assert side.stalled_for(now=9.31) == pytest.approx(8.21)


def test_panes_mark_where_the_text_stood_still() -> None:
    side = side_with([0.0, 0.025], [(0.1, "before"), (0.9, " after")])
    side.stalls.append(Stall(len(side.text), 0.3))
    overdue = side_with([0.0, 0.025], [(0.1, "waiting")])
    output = io.StringIO()
    console = Console(file=output, width=100, height=12, force_terminal=False)
    console.print(Panes("The headline", [side, overdue]))
    assert "The headline" in output.getvalue()
    assert "before 0.8s  after 0.3s" in output.getvalue()
    assert "waiting stalled" in output.getvalue()
    assert "1.1 s lost in stalls" in output.getvalue()


def test_panes_show_the_end_of_a_long_text() -> None:
    side = side_with([0.0], [(0.1, "\n".join(f"line {number}" for number in range(200)))])
    output = io.StringIO()
    Console(file=output, width=60, height=12).print(Panes("", [side, side]))
    assert output.getvalue().count("line 199") == 2
    assert "line 190" not in output.getvalue()
