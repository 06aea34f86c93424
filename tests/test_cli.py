"""The commands as people run them: processes, real sockets on loopback, real key files."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from eloquent.keys import create_keys, load_keys

TIMEOUT_S = 30.0  # for what must happen; nothing waits that long unless it fails

TEXT = "Sunlight is a mixture of all colours, and air scatters the short, blue waves. 青空 🌤️\n\nThat is all."

needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals, file modes and terminals of POSIX")
pytestmark = needs_posix


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user who has no keys yet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ELOQUENT", "XDG"))}
    return {**kept, "HOME": str(tmp_path), "COLUMNS": "100", "TERM": "xterm", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "answer.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


class Process:
    """A running command whose output is collected while it runs."""

    def __init__(self, arguments: list[str], environment: dict[str, str], stdin: str | None = None) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "eloquent", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self.out, self.err = "", ""
        self._news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._collect, args=(name,), daemon=True) for name in ("out", "err")
        ]
        for thread in self._threads:
            thread.start()
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):
            self.popen.stdin.write((stdin or "").encode())
        self.popen.stdin.close()

    def _collect(self, name: str) -> None:
        stream = self.popen.stdout if name == "out" else self.popen.stderr
        assert stream is not None
        read = b""
        while chunk := os.read(stream.fileno(), 65536):
            read += chunk
            with self._news:
                setattr(self, name, read.decode(errors="replace"))
                self._news.notify_all()
        stream.close()

    def wait_for(self, condition: Callable[["Process"], object]) -> None:
        with self._news:
            arrived = self._news.wait_for(lambda: condition(self), TIMEOUT_S)
        assert arrived, f"{self.out!r}, {self.err!r}"

    def send_signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def finish(self) -> int:
        status = self.popen.wait(TIMEOUT_S)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        return status


@contextmanager
def running(arguments: list[str], environment: dict[str, str], stdin: str | None = None) -> Iterator[Process]:
    process = Process(arguments, environment, stdin)
    try:
        yield process
    finally:
        process.popen.kill()
        process.finish()


class Server(Process):
    """`eloquent serve` on a free port."""

    address: str

    @property
    def to(self) -> list[str]:
        return ["--server", self.address]


@contextmanager
def serving(environment: dict[str, str], *arguments: str, stdin: str | None = None) -> Iterator[Server]:
    server = Server(["serve", "--port", "0", *arguments], environment, stdin)
    try:
        server.wait_for(lambda process: "\n" in process.out)
        found = re.match(r"listening on (\S+); in another terminal: eloquent chat ", server.out)
        assert found
        server.address = found[1]
        yield server
    finally:
        server.popen.kill()
        server.finish()


def run(*arguments: str, environment: dict[str, str], stdin: str = "") -> Process:
    """A command that ends by itself."""
    with running(list(arguments), environment, stdin) as process:
        process.finish()
    return process


def refused(*arguments: str, environment: dict[str, str], stdin: str = "") -> str:
    """The one line of a command that fails."""
    process = run(*arguments, environment=environment, stdin=stdin)
    assert process.popen.returncode == 1
    assert process.out == ""
    assert process.err.count("\n") == 1, process.err
    return process.err


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


# --- keys


def test_a_new_key_file_is_private_and_never_overwritten(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "keys"
    process = run("keys", "new", "--path", str(path), environment=environment)
    assert (process.popen.returncode, process.out) == (0, f"wrote a new key to {path}\n")
    assert mode_of(path) == 0o600
    before = path.read_bytes()
    assert "exists already" in refused("keys", "new", "--path", str(path), environment=environment)
    assert path.read_bytes() == before


def test_rotation_puts_a_new_key_before_the_old_ones(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old = list(create_keys(path))
    process = run("keys", "rotate", "--path", str(path), environment=environment)
    assert process.popen.returncode == 0
    new = list(load_keys(path))
    assert new[1:] == old
    assert new[0] not in old
    assert mode_of(path) == 0o600
    assert sorted(tmp_path.iterdir()) == [path]
    assert not any(key.hex() in process.out for _, key in new)


def test_where_tells_which_keys_count(environment: dict[str, str], tmp_path: Path) -> None:
    assert "there is no key file" in refused("keys", "where", environment=environment)
    run("keys", "new", environment=environment)
    path = tmp_path / ".config" / "eloquent" / "keys"
    ((key_id, _),) = load_keys(path)
    process = run("keys", "where", environment=environment)
    assert process.out == f"{path}: {key_id.hex()}\n"
    process = run("keys", "where", environment={**environment, "ELOQUENT_KEYS": path.read_text()})
    assert process.out == f"ELOQUENT_KEYS: {key_id.hex()}\n"


# --- the whole chain


def test_first_try_on_one_machine(environment: dict[str, str], tmp_path: Path, text_file: Path) -> None:
    with serving(environment, str(text_file), "--rate", "500") as server:
        path = tmp_path / ".config" / "eloquent" / "keys"
        assert mode_of(path) == 0o600
        server.wait_for(lambda process: f"made a key file that only you can read: {path}" in process.err)
        process = run("chat", "hi", "--json", *server.to, environment=environment)
    assert (process.popen.returncode, process.err) == (0, "")
    result = json.loads(process.out)
    assert result["text"] == TEXT
    assert result["complete"] is True
    assert result["tokens"] > 10
    for key in ("ttft_ms", "itl_mean_ms", "itl_p50_ms", "itl_p95_ms", "rtt_ms"):
        assert result[key] >= 0.0
    assert (result["stall_ratio"], result["loss"]) == (0.0, 0.0)
    assert result["datagrams_per_token"] > 0.0
    assert result["bytes_per_token"] > len(TEXT.encode()) / result["tokens"]


def test_the_printed_command_works_as_it_stands(
    environment: dict[str, str], tmp_path: Path, text_file: Path
) -> None:
    keys = tmp_path / "other keys"
    arguments = [str(text_file), "--rate", "500", "--keys", str(keys), "--worker", "3"]
    with serving(environment, *arguments) as server:
        line = server.out.partition("in another terminal: ")[2]
        result = subprocess.run(
            ["sh", "-c", line.replace("eloquent", f"{sys.executable} -m eloquent", 1)],
            env=environment,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    assert result.stdout.decode() == TEXT


def test_text_goes_to_standard_output_and_the_rest_elsewhere(
    environment: dict[str, str], text_file: Path
) -> None:
    with serving(environment, str(text_file), "--rate", "500") as server:
        process = run("chat", "hi", *server.to, environment=environment)
    assert (process.popen.returncode, process.out) == (0, TEXT)
    assert "datagrams" in process.err


def test_standard_input_can_be_replayed(environment: dict[str, str]) -> None:
    with serving(environment, "-", "--rate", "500", "--jitter", "0.5", stdin=TEXT) as server:
        assert run("chat", "hi", *server.to, environment=environment).out == TEXT


def test_the_packages_own_text_is_the_default(environment: dict[str, str]) -> None:
    with serving(environment, "--rate", "20000") as server:
        assert len(run("chat", "hi", *server.to, environment=environment).out) > 5000


def test_lines_are_turns_over_one_connection(environment: dict[str, str], text_file: Path) -> None:
    with serving(environment, str(text_file), "--rate", "500") as server:
        process = run("chat", "--json", *server.to, environment=environment, stdin="first\n\nsecond\n")
        server.wait_for(lambda process: process.err.count("finished") == 2)
        peers = set(re.findall(r"answer ([01]) to (\S+): started", server.err))
    assert process.popen.returncode == 0
    assert [json.loads(line)["text"] for line in process.out.splitlines()] == [TEXT, TEXT]
    assert {number for number, _ in peers} == {"0", "1"}
    assert len({peer for _, peer in peers}) == 1


def test_a_ticket_opens_the_server_once_without_the_keys(
    environment: dict[str, str], tmp_path: Path, text_file: Path
) -> None:
    with serving(environment, str(text_file), "--rate", "500") as server:
        ticket = run("ticket", *server.to, environment=environment).out.strip()
        stranger = {**environment, "HOME": str(tmp_path / "nobody")}
        assert run("chat", "hi", "--ticket", ticket, environment=stranger).out == TEXT
        message = refused("chat", "hi", "--ticket", ticket, environment=stranger)
    assert "it was used before" in message
    assert server.address in message


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_addresses_are_written_as_in_urls(environment: dict[str, str], text_file: Path) -> None:
    with serving(environment, str(text_file), "--rate", "500", "--host", "::1") as server:
        assert server.address.startswith("[::1]:")
        assert run("chat", "hi", *server.to, environment=environment).out == TEXT


def test_all_addresses_can_be_served_and_one_advertised(environment: dict[str, str], text_file: Path) -> None:
    arguments = ["--host", "0.0.0.0", "--advertise", "127.0.0.1:4433, [::1]:4433"]
    with serving(environment, str(text_file), *arguments) as server:
        server.wait_for(lambda process: process.out.count("\n") == 2)
        line = server.out.splitlines()[0]
        assert re.search(r"eloquent chat '.*' --server 127\.0\.0\.1:\d+$", line)
        assert server.out.endswith("for other machines: eloquent ticket --server 127.0.0.1:4433\n")


def test_the_tutorials_program_runs(environment: dict[str, str]) -> None:
    tutorial = Path(__file__).parents[1] / "docs" / "tutorial.md"
    program = tutorial.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    run("keys", "new", environment=environment)
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=TIMEOUT_S, check=True
    )
    assert result.stdout == b"[alice asks]\nYou asked: Why is the sky blue? "


# --- the pace


def test_a_pace_shows_the_same_text(environment: dict[str, str], text_file: Path) -> None:
    with serving(environment, str(text_file), "--rate", "500") as server:
        process = run("chat", "hi", *server.to, "--pace", "400", environment=environment)
    assert (process.popen.returncode, process.out) == (0, TEXT)
    assert "datagrams" in process.err


def test_text_that_is_here_waits_for_the_reader(environment: dict[str, str], text_file: Path) -> None:
    with (
        serving(environment, str(text_file), "--rate", "500") as server,
        # It would take 8 s.
        running(["chat", "hi", *server.to, "--pace", "listening"], environment) as chat,
    ):
        chat.wait_for(lambda process: process.out)
        server.wait_for(lambda process: "finished" in process.err)
        chat.send_signal(signal.SIGINT)
        assert chat.finish() == 130
    assert chat.out != TEXT
    assert TEXT.startswith(chat.out)
    assert "stopped" in chat.err
    assert "datagrams" in chat.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pace", "quick"], "'quick' is not reading, listening, off or a number"),
        (["--pace", "0"], "'0' is not reading, listening, off or a number"),
        (["--pace", "inf"], "'inf' is not reading, listening, off or a number"),
        (["--pace", "reading", "--json"], "--json shows none"),
    ],
    ids=["word", "zero", "infinite", "json"],
)
def test_paces_are_checked(environment: dict[str, str], arguments: list[str], message: str) -> None:
    process = run("chat", "hi", *arguments, environment=environment)
    assert process.popen.returncode == 2
    assert message in process.err


# --- leaving


def test_leaving_an_answer_stops_it_at_the_server(environment: dict[str, str]) -> None:
    with serving(environment, "--rate", "50") as server:
        with running(["chat", "hi", *server.to], environment) as chat:
            chat.wait_for(lambda process: len(process.out) > 20)
            chat.send_signal(signal.SIGINT)
            assert chat.finish() == 130
        server.wait_for(lambda process: "stopped after" in process.err)
    assert "stopped" in chat.err
    assert "datagrams" in chat.err
    assert "Traceback" not in chat.err + server.err


def test_a_stopping_server_lets_an_answer_finish(environment: dict[str, str], text_file: Path) -> None:
    with serving(environment, str(text_file), "--rate", "20") as server:
        with running(["chat", "hi", *server.to], environment) as chat:
            chat.wait_for(lambda process: process.out)
            server.send_signal(signal.SIGINT)
            server.wait_for(lambda process: "stopping" in process.err)
            assert chat.finish() == 0
            assert chat.out == TEXT
        assert server.finish() == 0


def test_a_second_interrupt_stops_the_server_at_once(environment: dict[str, str]) -> None:
    with serving(environment, "--rate", "5") as server:
        with running(["chat", "hi", *server.to], environment) as chat:
            chat.wait_for(lambda process: process.out)
            server.send_signal(signal.SIGINT)
            server.wait_for(lambda process: "stopping" in process.err)
            server.send_signal(signal.SIGINT)
            assert server.finish() == 130
            assert chat.finish() == 1
        assert "Error: the answer was interrupted" in chat.err
    assert "Traceback" not in chat.err + server.err


def test_sigterm_is_as_good_as_an_interrupt(environment: dict[str, str]) -> None:
    with serving(environment) as server:
        server.send_signal(signal.SIGTERM)
        assert server.finish() == 0


# --- what the reader sees


def test_a_stall_is_shown_with_its_end(environment: dict[str, str], text_file: Path) -> None:
    with (
        serving(environment, str(text_file), "--rate", "50") as server,
        running(["chat", "hi", *server.to], environment) as chat,
    ):
        chat.wait_for(lambda process: process.out)
        server.send_signal(signal.SIGSTOP)  # as good as a tunnel
        chat.wait_for(lambda process: "[stalled for" in process.err)
        server.send_signal(signal.SIGCONT)
        assert chat.finish() == 0
    assert "[resumed after" in chat.err
    assert chat.out == TEXT


def test_a_thinking_model_is_not_a_stall(environment: dict[str, str]) -> None:
    pauses = ["--pause-probability", "1", "--pause-seconds", "4", "4"]
    with serving(environment, "-", *pauses, stdin="Hello there") as server:
        chat = run("chat", "hi", *server.to, environment=environment)
    assert chat.out == "Hello there"
    assert chat.err.startswith("[thinking]\n")
    assert "stalled" not in chat.err


class OnTerminal:
    """A command on a pseudo-terminal. What was waited for is behind: the next wait begins after it."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "eloquent", *arguments], environment)
        self.output = ""
        self._seen = 0

    def read_until(self, text: str) -> None:
        while (found := self.output.find(text, self._seen)) < 0:
            assert self._read(), f"{text!r} is missing in {self.output!r}"
        self._seen = found + len(text)

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def finish(self) -> int:
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        os.close(self._terminal)  # which hangs up on the command, should it still run

    def _read(self) -> bool:
        """False at the end of the output; fails where nothing comes."""
        ready, _, _ = select.select([self._terminal], [], [], TIMEOUT_S)
        assert ready, f"nothing came after {self.output!r}"
        try:
            chunk = os.read(self._terminal, 65536)
        except OSError:  # Linux reports the end of a terminal so
            return False
        self.output += chunk.decode(errors="replace")
        return bool(chunk)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of forkpty:DeprecationWarning")
def test_a_conversation_on_a_terminal(environment: dict[str, str]) -> None:
    hostile = "The title \x1b]0;mine\x07of this window stays.\n\nDone."
    with (
        serving(environment, "-", "--rate", "200", stdin=hostile) as server,
        closing(OnTerminal(["chat", *server.to], environment)) as chat,
    ):
        for question in ("one", "two"):
            chat.read_until("> ")
            chat.type(f"{question}\n")
            chat.read_until("Done.")
        chat.read_until("> ")
        chat.type("\x04")
        chat.read_until("datagrams")
        assert chat.finish() == 0
    assert "\x1b]0;" not in chat.output


# --- what cannot be used


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "hi"], "there is no key file"),
        (["ticket"], "there is no key file"),
        (["chat", "hi", "--ticket", "nonsense"], "ticket"),
        (["serve", "no such file"], "cannot read no such file: No such file"),
        (["serve", "-"], "it is empty"),
        (["serve", "--rate", "0"], "rate must be above 0"),
        (["serve", "--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["serve", "--host", "0.0.0.0", "--port", "0", "--advertise", "a:b:c"], "a:b:c"),
    ],
)
def test_errors_are_one_line(environment: dict[str, str], arguments: list[str], message: str) -> None:
    if arguments[:2] == ["serve", "--host"]:
        environment = {**environment, "ELOQUENT_KEYS": f"00000000:{'A' * 43}="}
    assert message in refused(*arguments, environment=environment)


def test_text_that_is_none_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"GIF89a\xff\xff")
    assert "it is no UTF-8 text (byte 6)" in refused(
        "serve", str(tmp_path / "image"), environment=environment
    )


@pytest.mark.parametrize("address", ["a:b:c", "host:99999", ":4433", "host/path", "[::1"])
def test_server_addresses_are_checked(environment: dict[str, str], address: str) -> None:
    process = run("chat", "hi", "--server", address, environment=environment)
    assert process.popen.returncode == 2
    assert f"{address!r} is not host:port" in process.err


def test_a_port_in_use_is_named(environment: dict[str, str]) -> None:
    with serving(environment) as server:
        port = server.address.partition(":")[2]
        message = refused("serve", "--port", port, environment=environment)
    assert f"cannot serve on {server.address}" in message


def test_a_server_that_does_not_answer_is_named(environment: dict[str, str]) -> None:
    run("keys", "new", environment=environment)
    arguments = ["chat", "hi", "--server", "127.0.0.1:9", "--timeout", "0.2"]
    message = refused(*arguments, environment=environment)
    assert "no answer from 127.0.0.1:9 within 0.2 s" in message
    assert "eloquent serve" in message


def test_other_keys_get_no_answer(environment: dict[str, str], tmp_path: Path) -> None:
    create_keys(tmp_path / "other")
    with serving(environment) as server:
        arguments = ["chat", "hi", *server.to, "--keys", str(tmp_path / "other"), "--timeout", "0.5"]
        message = refused(*arguments, environment=environment)
    assert f"no answer from {server.address} within 0.5 s" in message
    assert "with the same keys?" in message


@pytest.mark.parametrize("name", ["click", "rich"])
def test_without_its_libraries_the_command_line_says_what_to_install(name: str) -> None:
    program = f"import sys; sys.modules[{name!r}] = None; from eloquent.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == f"the command line needs {name}: pip install 'eloquent-stream[cli]'\n"
