"""An ordinary user: no capability, and only what user namespaces give."""

import json
import subprocess
import sys

import pytest

AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--", sys.executable, "-c"]

WHOLE_LAB = """
import asyncio, os
from netem import Lab, scenario

async def main():
    assert os.geteuid() == 1000
    async with Lab(scenario("clean", rtt_s=0.01), name="test_user") as lab:
        pinged = await lab.host("client").run(["ping", "-c", "2", "-i", "0.2", lab.host("server").address])
        print(pinged.stdout, pinged.stderr)
        print(lab.backend, lab.counts()["up"].sent, lab.counts()["down"].delivered)

asyncio.run(main())
"""

WITH_THREADS = """
import threading, time
import netem

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
try:
    netem.become_root()
except netem.LabUnavailable as error:
    print(error)
"""

FORBIDDEN = """
import netem
from pathlib import Path

try:
    netem.become_root()
except netem.LabUnavailable as error:
    print(error)
"""


LOOPBACK = """
import socket
import netem

netem.become_root()
with socket.create_server(("127.0.0.1", 0)) as listener:
    socket.create_connection(listener.getsockname()).close()
print("connected")
"""


def run_as_user(program: str) -> str:
    finished = subprocess.run([*AS_USER, program], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_an_ordinary_user_has_a_whole_laboratory() -> None:
    output = run_as_user(WHOLE_LAB)
    assert "2 packets transmitted, 2 received" in output
    assert output.splitlines()[-1] == "user 2 2"


def test_loopback_still_works_for_those_who_must_do_without_a_laboratory() -> None:
    assert run_as_user(LOOPBACK) == "connected\n"


def test_once_there_are_threads_the_error_says_what_to_do() -> None:
    assert "call netem.become_root() first" in run_as_user(WITH_THREADS)


def test_where_user_namespaces_are_off_the_error_says_how_to_get_them() -> None:
    # A user whose group has no place in its namespace may not make another: EPERM, as where
    # the system forbids it.
    finished = subprocess.run(
        ["unshare", "--user", "--map-user=1000", "--", sys.executable, "-c", FORBIDDEN],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "user.max_user_namespaces" in finished.stdout, finished.stderr


@pytest.mark.slow
def test_an_ordinary_user_can_calibrate_although_numpy_starts_threads() -> None:
    command = [*AS_USER[:-1], "-m", "netem", "calibrate", "--quick", "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    rows = json.loads(finished.stdout)["rows"]
    # Timing is another matter: without real-time priority it depends on what else runs here.
    assert [row for row in rows if row["kind"] == "chance" and not row["ok"]] == []


def test_root_stays_as_it_is() -> None:
    program = "import netem, os; run = os.stat('/run'); netem.become_root(); print(os.stat('/run') == run)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "True\n"
