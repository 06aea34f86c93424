"""Each example runs as a user would run it: in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from eloquent.keys import create_keys
from eloquent.replay import default_text

EXAMPLES = Path(__file__).parents[1] / "examples"
TIMEOUT_S = 30.0
BEGINNING = default_text()[:20]

Environment = dict[str, str]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    path = tmp_path / "keys"
    create_keys(path)
    return {**os.environ, "ELOQUENT_KEYS": str(path)}


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(*arguments: str, environment: Environment) -> Iterator[subprocess.Popen[str]]:
    """A Python process with its output, errors included, as text; at the end it gets a Ctrl-C."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command, env=environment, cwd=EXAMPLES, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)


def output_until(process: subprocess.Popen[str], expected: str) -> str:
    """What the process has written once `expected` is part of it; fails where it ends before."""
    assert process.stdout is not None
    output = ""
    while expected not in output:
        character = process.stdout.read(1)
        assert character, f"it ended with: {output}"
        output += character
    return output


def ask(ticket: str, environment: Environment) -> None:
    """Run the client until the answer has begun; what is left of it would only take time."""
    with running("client.py", ticket, "Why?", environment=environment) as client:
        assert output_until(client, BEGINNING) == f"alice asked: 'Why?'\n\n{BEGINNING}"


def test_server_and_client(environment: Environment) -> None:
    port = str(free_port(socket.SOCK_DGRAM))
    with running("server.py", port, environment=environment) as server:
        ticket = output_until(server, "\n").strip()
        ask(ticket, environment)
        # A ticket works once, and the client says so.
        again = subprocess.run(
            [sys.executable, "client.py", ticket, "Why?"],
            env=environment,
            cwd=EXAMPLES,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert again.returncode == 1
        assert again.stderr.strip().endswith("refused the ticket: it was used before")


def test_fastapi_app(environment: Environment) -> None:
    udp_port, tcp_port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
    environment = {**environment, "UDP_PORT": str(udp_port)}
    arguments = ("-m", "uvicorn", "fastapi_app:app", "--port", str(tcp_port))
    with running(*arguments, environment=environment) as app:
        output_until(app, "Uvicorn running")
        for _ in range(2):
            response = httpx.post(f"http://127.0.0.1:{tcp_port}/tickets", timeout=TIMEOUT_S)
            response.raise_for_status()
            ask(response.json(), environment)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40


def test_the_examples_are_the_three_that_are_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"server.py", "client.py", "fastapi_app.py"}
    assert re.search(r"uvicorn fastapi_app:app", (EXAMPLES / "fastapi_app.py").read_text(encoding="utf-8"))
