"""Hosts, cables and what is left of them; that the links keep to their settings is in test_calibrate.py."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from eloquent.errors import ConfigurationError, UsageError
from netem import Cable, Lab, Outage, scenario
from netem.lab.namespace import namespaces

CLEAN = scenario("clean", rtt_s=0.01)


async def ping(lab: Lab, source: str, address: str) -> int:
    finished = await lab.host(source).run(["ping", "-c", "1", "-W", "2", address])
    return finished.returncode


async def test_two_hosts_reach_each_other_over_both_families() -> None:
    async with Lab(CLEAN, name="test_two_hosts") as lab:
        client, server = lab.host("client"), lab.host("server")
        assert await ping(lab, "client", server.address) == 0
        assert await ping(lab, "server", client.address_v6) == 0
        assert lab.backend == "user"
        # Nothing but the two echo requests and their answers.
        assert lab.counts()["up"].sent == lab.counts()["down"].sent == 2


async def test_hosts_in_a_row_pass_packets_on() -> None:
    cables = [Cable(CLEAN, "a", "b"), Cable(CLEAN, "b", "c"), Cable(CLEAN, "c", "d")]
    async with Lab(cables, name="test_row") as lab:
        assert await ping(lab, "a", lab.host("d").address) == 0
        assert await ping(lab, "d", lab.host("a").address_v6) == 0
        assert lab.counts(2)["up"].sent == lab.counts(2)["down"].sent == 2


async def test_a_host_with_two_cables_to_another_uses_the_one_that_it_addresses() -> None:
    async with Lab([Cable(CLEAN), Cable(CLEAN)], name="test_two_cables") as lab:
        assert await ping(lab, "client", lab.host("server").attachments[1].address) == 0
        assert lab.counts(0)["up"].sent == 0
        assert lab.counts(1)["up"].sent == 1


async def test_wrong_names_are_refused() -> None:
    lab = Lab(CLEAN, name="test_wrong_names")
    with pytest.raises(UsageError, match="outside"):
        lab.host("client")
    async with lab:
        with pytest.raises(UsageError, match="no host is named 'sever'; there are: client, server"):
            lab.host("sever")
    with pytest.raises(UsageError, match="outside"):
        lab.host("client")
    with pytest.raises(ConfigurationError, match="at least one cable"):
        Lab([])
    with pytest.raises(ConfigurationError, match="backend is 'fast'"):
        async with Lab(CLEAN, backend="fast"):  # type: ignore[arg-type]
            pass


async def test_a_program_has_its_output_status_and_environment() -> None:
    async with Lab(CLEAN, name="test_program") as lab:
        host = lab.host("client")
        finished = await host.run(["sh", "-c", "echo $WORD; echo bad >&2; exit 3"], env={"WORD": "hi"})
        assert (finished.returncode, finished.stdout, finished.stderr) == (3, "hi\n", "bad\n")
        with pytest.raises(TimeoutError):
            await host.run(["sleep", "600"], timeout=0.05)
        assert host.namespace.processes() == []
        missing = await host.run(["no-such-program"])
        assert missing.returncode != 0
        assert "no-such-program" in missing.stderr


async def test_a_program_whose_child_holds_its_output_ends_at_once() -> None:
    async with Lab(CLEAN, name="test_child") as lab:
        command = ["sh", "-c", "sleep 600 & echo started; wait"]
        async with lab.host("server").start(command) as process:
            assert process.stdout is not None
            await process.stdout.readline()
            left_at = time.monotonic()
        assert process.returncode == -signal.SIGTERM
        assert time.monotonic() - left_at < 2.0  # and not after the grace for those that stay


async def test_a_laboratory_is_built_once() -> None:
    lab = Lab(CLEAN, name="test_once")
    with pytest.raises(UsageError, match="plays nothing outside"):
        await lab.play(seed=1)
    async with lab:
        pass
    with pytest.raises(UsageError, match="built once"):
        await lab.__aenter__()
    with pytest.raises(UsageError, match="plays nothing outside"):
        await lab.play(seed=1)


async def test_what_fails_at_the_end_does_not_hide_what_failed_before() -> None:
    async def fail() -> None:
        async with Lab(CLEAN, name="test_hide", capture=Path("/dev/full")) as lab:
            await ping(lab, "client", lab.host("server").address)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as failure:
        await fail()
    assert "/dev/full is incomplete" in failure.value.__notes__[0]


async def test_a_program_in_the_background_ends_with_its_block() -> None:
    async with Lab(CLEAN, name="test_background") as lab:
        async with lab.host("server").start(["cat"], stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"line\n")
            assert await process.stdout.readline() == b"line\n"
        assert process.returncode == -signal.SIGTERM


async def test_coroutines_run_inside_with_loops_of_their_own() -> None:
    async with Lab(CLEAN, name="test_coroutines") as lab:
        client, server = lab.host("client"), lab.host("server")
        bound = asyncio.Event()
        outer = asyncio.get_running_loop()

        async def serve() -> bytes:
            with socket.create_server((server.address, 4000)) as listener:
                listener.setblocking(False)
                outer.call_soon_threadsafe(bound.set)
                loop = asyncio.get_running_loop()
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    return await loop.sock_recv(connection, 100)

        async def send() -> int:
            _, writer = await asyncio.open_connection(server.address, 4000)
            writer.write(b"hello")
            writer.close()
            await writer.wait_closed()
            return 5

        serving = asyncio.create_task(server.run(serve))
        await bound.wait()
        assert await client.run(send) == 5
        assert await serving == b"hello"


async def test_a_coroutine_raises_and_is_cancelled_like_one_outside() -> None:
    async with Lab(CLEAN, name="test_coroutine_ends") as lab:
        host = lab.host("client")
        ended: list[str] = []

        async def fail() -> None:
            raise KeyError("inside")

        async def wait() -> None:
            try:
                await asyncio.sleep(600)
            finally:
                ended.append("cleaned up")

        with pytest.raises(KeyError, match="inside"):
            await host.run(fail)
        with pytest.raises(TimeoutError):
            await host.run(wait, timeout=0.2)
        assert ended == ["cleaned up"]


async def test_after_the_block_a_host_runs_nothing() -> None:
    async with Lab(CLEAN, name="test_after") as lab:
        host = lab.host("client")

    async def work() -> None: ...

    with pytest.raises(FileNotFoundError):
        await host.run(work)
    assert (await host.run(["true"])).returncode != 0


async def test_playing_again_starts_time_and_counts_anew() -> None:
    dead = replace(CLEAN, outages=(Outage(start_s=0.0, duration_s=600.0),))
    async with Lab(CLEAN, name="test_play") as lab:
        server = lab.host("server").address
        assert await ping(lab, "client", server) == 0
        await lab.play(seed=2, scenario=dead)
        assert (await lab.host("client").run(["ping", "-c", "1", "-W", "1", server])).returncode == 1
        assert lab.counts()["up"].dropped_by_outage == lab.counts()["up"].sent == 1
        await lab.play(seed=3)
        assert await ping(lab, "client", server) == 0
        assert lab.counts()["up"].dropped_by_outage == 0


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_whatever_ends_the_block_nothing_is_left(error: type[BaseException]) -> None:
    devices = os.listdir("/sys/class/net")
    started: list[asyncio.subprocess.Process] = []

    async def work() -> None:
        async with Lab(CLEAN, name="test_ends") as lab, lab.host("client").start(["sleep", "9"]) as process:
            started.append(process)
            raise error

    with pytest.raises(error):
        await work()
    assert started[0].returncode is not None
    assert [each.name for each in namespaces() if "test_ends" in each.name] == []
    assert os.listdir("/sys/class/net") == devices


async def test_cancelling_while_it_is_set_up_leaves_nothing() -> None:
    for delay_s in (0.0, 0.002, 0.01, 0.03):
        entering = asyncio.create_task(Lab(CLEAN, name="test_cancelled").__aenter__())
        await asyncio.sleep(delay_s)
        if entering.cancel():
            with pytest.raises(asyncio.CancelledError):
                await entering
            assert [each.name for each in namespaces() if "test_cancelled" in each.name] == []
        else:
            await (await entering).__aexit__(None, None, None)


async def test_fifty_in_a_row_and_two_at_once_leave_nothing() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))

    async def one(number: int) -> None:
        async with Lab(CLEAN, name=f"test_row_{number}") as lab:
            await lab.host("client").run(["true"])

    for number in range(0, 50, 2):
        await asyncio.gather(one(number), one(number + 1))
    assert [each.name for each in namespaces() if "test_row" in each.name] == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2  # what asyncio opens once


LIVING = """
import asyncio, sys
from netem import Lab, scenario

async def main():
    async with Lab(scenario("clean"), name="test_signals") as lab:
        async with lab.host("client").start(["sleep", "600"]):
            print("up", flush=True)
            EXPRESSION

asyncio.run(main())
"""


def start_living(expression: str = "await asyncio.sleep(600)") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LIVING.replace("EXPRESSION", expression)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def inside_of(pid: int) -> list[int]:
    """The processes on the hosts of a program, once there are some."""
    while True:
        inside = [each for host in namespaces() if f".{pid}." in host.name for each in host.processes()]
        if inside:
            return inside
        time.sleep(0.01)


def of_process(pid: int) -> list[str]:
    return [each.name for each in namespaces() if f".{pid}." in each.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_tears_everything_down(number: signal.Signals) -> None:
    with start_living() as process:
        assert len(of_process(process.pid)) == 2
        process.send_signal(number)
        process.wait()
    assert of_process(process.pid) == []
    assert process.returncode == -number


NAGGED = """
import asyncio, os, signal, sys, threading, time
from netem import Lab, scenario

def nag():
    time.sleep(float(sys.argv[1]))
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.015)

async def main():
    threading.Thread(target=nag, daemon=True).start()
    async with Lab(scenario("clean"), name="test_nagged"):
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("wait_s", [0.03, 0.06, 0.09, 0.12, 0.15, 0.2])
def test_many_interrupts_while_it_is_set_up_leave_nothing(wait_s: float) -> None:
    with subprocess.Popen([sys.executable, "-c", NAGGED, str(wait_s)], stderr=subprocess.DEVNULL) as process:
        process.wait()
    assert of_process(process.pid) == []


def test_many_interrupts_at_any_moment_leave_nothing() -> None:
    for wait_s in (0.0, 0.02, 0.05, 0.08, 0.12):
        with start_living() as process:
            time.sleep(wait_s)
            for _ in range(4):
                process.send_signal(signal.SIGINT)
                time.sleep(0.007)
            process.wait()
        assert of_process(process.pid) == []


@pytest.mark.parametrize("expression", ["sys.exit(0)", "1 / 0"])
def test_leaving_the_program_tears_everything_down(expression: str) -> None:
    with start_living(expression) as process:
        process.wait()
    assert of_process(process.pid) == []


def test_a_killed_program_leaves_names_that_are_stale_but_no_process() -> None:
    with start_living() as process:
        inside = inside_of(process.pid)
        process.kill()
        process.wait()
    left = [each for each in namespaces() if f".{process.pid}." in each.name]
    try:
        assert len(left) == 2
        assert all(each.is_stale for each in left)
        while any(Path(f"/proc/{pid}").exists() for pid in inside):
            time.sleep(0.01)
    finally:
        for each in left:
            each.delete()
