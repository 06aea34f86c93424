"""Programs that know nothing of the laboratory: ping, curl and iperf3 behind a scenario."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path
from random import Random

import pytest

from netem import Impairment, Lab, Scenario

TIMEOUT_S = 60.0  # for what must happen; nothing waits that long unless it fails

RATE_BPS = 5e6


def require(program: str) -> None:
    """Skip where a program is not installed, fail where that is the continuous integration."""
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{program} is not installed")


def symmetric(impairment: Impairment) -> Scenario:
    return Scenario("test", up=impairment, down=impairment)


async def wait_for(words: bytes, process: asyncio.subprocess.Process) -> None:
    """Read what a program says until it says that."""
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        while words not in await process.stdout.readline():
            assert not process.stdout.at_eof(), f"it ended without saying {words!r}"


async def test_ping_takes_at_least_the_delay_of_both_directions() -> None:
    require("ping")
    scenario = Scenario("test", up=Impairment(delay_s=0.030), down=Impairment(delay_s=0.012))
    async with Lab(scenario, seed=1) as lab:
        command = ["ping", "-n", "-c", "10", "-i", "0.05", lab.host("server").address]
        result = await lab.host("client").run(command, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stdout + result.stderr
    times_ms = [float(time) for time in re.findall(r"time=([\d.]+) ms", result.stdout)]
    assert len(times_ms) == 10
    assert min(times_ms) >= 42.0


async def test_ping_of_ipv6_passes_the_same_link() -> None:
    require("ping")
    async with Lab(symmetric(Impairment(delay_s=0.020)), seed=1) as lab:
        command = ["ping", "-n", "-c", "3", "-i", "0.05", lab.host("server").address_v6]
        result = await lab.host("client").run(command, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stdout + result.stderr
    assert min(float(time) for time in re.findall(r"time=([\d.]+) ms", result.stdout)) >= 40.0


async def test_ping_misses_what_the_link_drops() -> None:
    require("ping")
    async with Lab(symmetric(Impairment(loss=1.0)), seed=1) as lab:
        command = ["ping", "-n", "-c", "3", "-i", "0.05", "-W", "1", lab.host("server").address]
        result = await lab.host("client").run(command, timeout=TIMEOUT_S)
        counts = lab.counts()
    assert result.returncode == 1, result.stdout + result.stderr
    assert (counts["up"].dropped_by_loss, counts["down"].sent) == (3, 0)


async def test_curl_gets_every_byte_through_loss(tmp_path: Path) -> None:
    require("curl")
    content = Random(1).randbytes(300_000)
    (tmp_path / "file").write_bytes(content)
    async with Lab(symmetric(Impairment(delay_s=0.010, loss=0.05)), seed=1) as lab:
        server = lab.host("server")
        serve = [sys.executable, "-u", "-m", "http.server", "8000", "--directory", str(tmp_path)]
        async with server.start([*serve, "--bind", server.address], stderr=DEVNULL) as process:
            await wait_for(b"Serving", process)
            received = tmp_path / "received"
            command = ["curl", "--silent", "--show-error", "--fail", "--output", str(received)]
            result = await lab.host("client").run(
                [*command, f"http://{server.address}:8000/file"], timeout=TIMEOUT_S
            )
        dropped = lab.counts()["down"].dropped_by_loss
    assert result.returncode == 0, result.stderr
    assert hashlib.sha256(received.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert dropped > 0


async def test_iperf3_stays_below_the_rate() -> None:
    require("iperf3")
    scenario = symmetric(Impairment(delay_s=0.005, rate_bps=RATE_BPS, queue_s=0.1))
    async with Lab(scenario, seed=1) as lab:
        server = lab.host("server")
        async with server.start(["iperf3", "--server", "--one-off", "--forceflush"]) as process:
            await wait_for(b"listening", process)
            command = ["iperf3", "--client", server.address, "--time", "2", "--omit", "1", "--json"]
            result = await lab.host("client").run(command, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stdout + result.stderr
    received_bps = json.loads(result.stdout)["end"]["sum_received"]["bits_per_second"]
    assert 0.5 * RATE_BPS < received_bps < RATE_BPS
