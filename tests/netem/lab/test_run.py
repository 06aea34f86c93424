"""`python -m netem run`: the program behind the link, the ones before it, and the ways it can end."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from netem.capture import read_capture
from netem.lab.namespace import Namespace, namespaces

TIMEOUT_S = 60.0  # for what must happen; nothing waits that long unless it fails

RUN = [sys.executable, "-m", "netem", "run", "--scenario", "clean", "--rtt", "0.01"]

WAIT = "import time; print('ready', flush=True); time.sleep(1000)"

LISTEN = "import socket, time; s = socket.create_server(('', 8000)); time.sleep(1000)"

COUNT_SIGNALS = """
import signal, sys, time
received = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, lambda number, frame: received.append(signal.Signals(number).name))
print("ready", flush=True)
while not received:
    time.sleep(0.01)
time.sleep(0.3)  # a second one would come at about the same time
print(*received, flush=True)
sys.exit(9)
"""


def run(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments], input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=cwd
    )


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run whose COMMAND, or server, has printed `ready`; nothing may be left of it after the block."""
    process = subprocess.Popen(
        [*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "ready\n"
        family = descendants(process.pid)
        yield process
        process.wait(TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()
        left = removed_namespaces_of(process.pid)
    assert left == []
    for pid in family:
        wait_for_end(pid)


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def wait_for_end(pid: int) -> None:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            # Readable means that the process has ended; pidfd_open(2).
            assert select.select([handle], [], [], TIMEOUT_S)[0], f"process {pid} is still there"
        finally:
            os.close(handle)


def namespaces_of(pid: int) -> list[Namespace]:
    return [each for each in namespaces() if f".{pid}." in each.name]


def removed_namespaces_of(pid: int) -> list[Namespace]:
    """Those that are left, and were removed, so that a failed test leaves nothing."""
    left = namespaces_of(pid)
    for each in left:
        each.delete()
    return left


def test_the_command_has_its_own_input_output_and_exit_status() -> None:
    done = run("--", "sh", "-c", "cat; echo to stderr >&2; exit 7", stdin="to stdout\n")
    assert (done.returncode, done.stdout) == (7, "to stdout\n")
    first, *middle, up, down = done.stderr.splitlines()
    assert first.startswith("netem: clean, backend user, seed 0; the server is 10.77.0.2, fd77:")
    assert middle == ["to stderr"]
    assert [up, down] == [f"netem: {direction}: 0 packets, 0 lost, 0 bytes" for direction in ("up", "down")]


def test_a_signal_that_ends_the_command_becomes_the_exit_status_of_shells() -> None:
    assert run("--", "sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL


def test_addresses_are_in_the_environment_and_fill_in_the_command() -> None:
    done = run(
        "--", "sh", "-c", "echo $NETEM_SERVER $NETEM_SERVER_V6 $NETEM_CLIENT; echo {server} {client} {x}"
    )
    assert done.stdout.splitlines() == ["10.77.0.2 fd77::2 10.77.0.1", "10.77.0.2 10.77.0.1 {x}"]


def test_a_command_may_have_a_name_like_an_option(tmp_path: Path) -> None:
    program = tmp_path / "--version"
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        [*RUN, "--", "--version"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "PATH": path},
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (0, "mine\n")


def test_without_standard_error_all_is_as_with_it() -> None:
    server = f'{sys.executable} -c "{LISTEN}"'
    connect = "import socket; socket.create_connection(('{server}', 8000)).close(); print('connected')"
    command = [*RUN, "--server", server, "--", sys.executable, "-c", connect]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&- <&-', "sh", *command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stdout) == (0, "connected\n")
    command = [*RUN, "--server", "sh -c 'exit 5'", "--", "echo", "never"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("status", [0, 7])
def test_where_nobody_reads_what_is_said_the_status_is_still_the_commands(status: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*RUN, "--", "sh", "-c", f"echo here; exit {status}"],
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            timeout=TIMEOUT_S,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stdout) == (status, "here\n")


def test_a_recording_into_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run("--capture", str(tmp_path / "pipe"), "--", "true")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: cannot record to")
    assert len(done.stderr.splitlines()) == 1


def test_options_after_the_command_are_the_commands() -> None:
    assert run("echo", "--seed", "-h").stdout == "--seed -h\n"


def test_packets_take_as_long_as_the_scenario_says() -> None:
    done = run("--rtt", "0.08", "--", "ping", "-c", "3", "-i", "0.2", "{server}")
    times = [float(text) for text in re.findall(r"time=([\d.]+) ms", done.stdout)]
    assert len(times) == 3
    assert min(times) >= 80.0
    assert "netem: up: 3 packets, 0 lost (0.0%), 252 bytes" in done.stderr


def test_lost_packets_are_reported() -> None:
    done = run(
        "--scenario", "wifi-lossy", "--seed", "3", "--", "ping", "-q", "-c", "100", "-i", "0.01", "{server}"
    )
    (packets, lost) = re.findall(r"up: (\d+) packets, (\d+) lost", done.stderr)[0]
    assert int(packets) == 100
    assert 0 < int(lost) < 50


def test_a_scenario_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\n[both]\ndelay_s = 0.04\n')
    done = subprocess.run(
        [*RUN[:4], "--scenario", "mine.toml", "--", "ping", "-c", "1", "{server}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=tmp_path,
    )
    assert done.stderr.startswith("netem: mine, ")
    assert float(re.findall(r"time=([\d.]+) ms", done.stdout)[0]) >= 80.0


def test_the_server_listens_before_the_command_starts() -> None:
    slow_to_listen = (
        "import os, socket, time; time.sleep(0.5); print('from the server', os.environ['NETEM_CLIENT'])\n"
        "listener = socket.create_server(('{server}', 8000)); listener.accept()[0].sendall(b'hello')"
    )
    connect = "import socket; print(socket.create_connection(('{server}', 8000)).recv(100))"
    done = run(
        "--server",
        f'{sys.executable} -u -c "{slow_to_listen}"',
        "--",
        sys.executable,
        "-W",
        "ignore",
        "-c",
        connect,
    )
    assert (done.returncode, done.stdout) == (0, "b'hello'\n")
    assert "from the server 10.77.0.1" in done.stderr


def test_a_server_of_datagrams_listens_too() -> None:
    echo = (
        "import socket; udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(('{server}', 8000))\n"
        "while True: udp.sendto(*udp.recvfrom(100))"
    )
    ask = (
        "import socket; udp = socket.socket(type=socket.SOCK_DGRAM); udp.settimeout(50)\n"
        "udp.sendto(b'hello', ('{server}', 8000)); print(udp.recv(100)); udp.close()"
    )
    done = run("--server", f'{sys.executable} -c "{echo}"', "--", sys.executable, "-c", ask)
    assert (done.returncode, done.stdout) == (0, "b'hello'\n")


def test_a_server_that_ends_before_it_listens_is_an_error() -> None:
    done = run("--server", "sh -c 'exit 5'", "--", "echo", "never")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Error: the server ended with status 5 before it listened" in done.stderr


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"from outside" * 10_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def server_outside() -> Iterator[int]:
    """An HTTP server of this process; gives its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_a_server_outside_is_reached_through_the_link() -> None:
    with server_outside() as port:
        for host in ("{server}", "[fd77::2]"):
            done = run(
                "--forward", str(port), "--", "curl", "--silent", "--show-error", f"http://{host}:{port}/"
            )
            assert (done.returncode, done.stdout) == (0, "from outside" * 10_000), done.stderr
        done = run("--forward", f"80=localhost:{port}", "--", "curl", "--silent", "http://{server}/")
        assert (done.returncode, done.stdout) == (0, "from outside" * 10_000), done.stderr
        (sent,) = re.findall(r"down: .* (\d+) bytes", done.stderr)
        assert int(sent) > 120_000


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", ""], ids=["v4", "v6", "none"])
def test_datagrams_reach_a_localhost_of_both_versions(address: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("::1 localhost\n127.0.0.1 localhost\n")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address or "127.0.0.1", 0))
        port = server.getsockname()[1]
        if not address:
            server.close()
        # It asks again, as what an address refuses is lost.
        ask = (
            "import socket, sys; udp = socket.socket(type=socket.SOCK_DGRAM); udp.settimeout(0.1)\n"
            "udp.connect(('{server}', 80)); tries = int(sys.argv[1])\n"
            "while tries:\n"
            "    tries -= 1; udp.send(b'hello')\n"
            "    try: print(udp.recv(100).decode()); break\n"
            "    except TimeoutError: pass\n"
            "udp.close()"
        )
        thread = threading.Thread(target=answer_one, args=(server,))
        if address:
            thread.start()
        with_hosts = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"']
        forwarding = [*RUN, "--forward", f"80=localhost:{port}", "--"]
        tries = "300" if address else "6"
        done = subprocess.run(
            [*with_hosts, str(tmp_path / "hosts"), *forwarding, sys.executable, "-c", ask, tries],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        if address:
            thread.join()
    complaint = f"netem: cannot forward to localhost:{port}: Connection refused"
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("from outside\n" if address else "")
    assert done.stderr.count(complaint) == (0 if address else 1)


def answer_one(server: socket.socket) -> None:
    server.settimeout(TIMEOUT_S)
    with suppress(TimeoutError):
        _, client = server.recvfrom(100)
        server.sendto(b"from outside", client)


def test_an_ordinary_user_can_do_all_that() -> None:
    ordinary = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    with server_outside() as port:
        curl = ["curl", "--silent", f"http://{{server}}:{port}/"]
        done = subprocess.run(
            [*ordinary, *RUN, "--forward", str(port), "--", *curl],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert (done.returncode, done.stdout) == (0, "from outside" * 10_000), done.stderr


def test_the_command_cannot_go_round_the_link() -> None:
    with server_outside() as port:
        done = run("--", "curl", "--silent", "--show-error", f"http://127.0.0.1:{port}/")
    assert done.returncode == 7  # curl's CURLE_COULDNT_CONNECT


def test_a_recording_has_the_packets_of_the_command(tmp_path: Path) -> None:
    done = run("--capture", str(tmp_path / "ping.pcapng"), "--", "ping", "-c", "2", "-i", "0.2", "{server}")
    assert done.returncode == 0
    # Two requests and two answers, each at both ends.
    assert len(list(read_capture(tmp_path / "ping.pcapng"))) == 8


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--", "no-such-program"], 127, "netem: no-such-program: there is no such program"),
        (["--", "/etc/passwd"], 126, "netem: /etc/passwd: cannot be executed"),
        (
            ["--server", "no-such-server", "--", "true"],
            127,
            "netem: no-such-server: there is no such program",
        ),
        (["--scenario", "burst", "--", "true"], 2, "no scenario is named 'burst' (did you mean 'bursty'?)"),
        (["--forward", "x", "--", "true"], 2, "cannot forward 'x'"),
        (["--forward", "80", "--forward", "80=::1", "--", "true"], 2, "cannot forward '80=::1'"),
        (["--forward", "80", "--forward", "80", "--", "true"], 2, "port 80 is forwarded twice"),
        (
            ["--forward", "80=no-such-host.invalid:1", "--", "true"],
            2,
            "'no-such-host.invalid' has no address",
        ),
        (["--server", "'", "--", "true"], 2, "No closing quotation"),
        (["--capture", "/no/such/folder/file", "--", "true"], 1, "No such file or directory"),
        (["--rtt", "nan", "--", "true"], 2, "nan is not a finite number of seconds"),
        (["--rtt", "inf", "--", "true"], 2, "inf is not a finite number of seconds"),
        ([], 2, "Missing argument"),
    ],
    ids=[
        "no program",
        "no executable",
        "no server",
        "no scenario",
        "no port",
        "no target",
        "twice",
        "no host",
        "no closing quote",
        "no folder",
        "no number",
        "infinite",
        "no command",
    ],
)
def test_wrong_use_is_explained(arguments: list[str], status: int, message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_program_comes_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "true").symlink_to("/bin/true")
    done = subprocess.run(
        [*RUN, "--", "true"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr == "Error: the program nsenter is missing: apt-get install util-linux\n"


@pytest.mark.parametrize(
    ("namespace", "refuse"),
    [
        ("--mount", "mount -t tmpfs -o ro netem /run && exec"),
        (
            "--map-root-user",
            "echo 0 > /proc/sys/user/max_user_namespaces && "
            "exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin --",
        ),
    ],
    ids=["root", "user"],
)
def test_where_the_kernel_refuses_the_reason_is_told(namespace: str, refuse: str) -> None:
    done = subprocess.run(
        ["unshare", namespace, "sh", "-c", f'{refuse} "$0" "$@"', *RUN, "--", "true"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1
    assert re.match(
        r"Error: (this process cannot make network namespaces \(.+\)|root here may not .+ SYS_ADMIN)",
        done.stderr,
    )
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name
)
@pytest.mark.parametrize("is_for_group", [False, True], ids=["process", "group"])
def test_signals_reach_the_command_once(number: signal.Signals, is_for_group: bool) -> None:
    with started("--", sys.executable, "-c", COUNT_SIGNALS) as process:
        (os.killpg if is_for_group else os.kill)(process.pid, number)
        assert process.stdout is not None
        assert process.stdout.readline() == f"{number.name}\n"
        assert process.wait(TIMEOUT_S) == 9


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name
)
def test_signals_end_everything(number: signal.Signals) -> None:
    background = f'sh -c "sleep 1000 & exec {sys.executable} -m http.server 8000"'
    with started("--server", background, "--forward", "9000", "--", sys.executable, "-c", WAIT) as process:
        process.send_signal(number)
        # Python turns SIGINT into an exception and ends itself by the signal then.
        assert process.wait(TIMEOUT_S) == 128 + number


def test_a_signal_before_the_command_starts_ends_the_run() -> None:
    process = subprocess.Popen(
        [*RUN, "--server", "sh -c 'echo ready; exec sleep 1000'", "--", "echo", "never"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while process.stderr.readline() != "ready\n":
        pass
    process.terminate()
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stdout, stderr) == (128 + signal.SIGTERM, "", "")
    assert removed_namespaces_of(process.pid) == []


def test_on_a_terminal_ctrl_c_reaches_the_command_once() -> None:
    server = f'{sys.executable} -c "{LISTEN}"'
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*RUN, "--server", server, "--", sys.executable, "-c", COUNT_SIGNALS])
    os.set_blocking(terminal, False)
    output = b""
    is_pressed = False
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        select.select([terminal], [], [], 1.0)
        try:
            output += os.read(terminal, 65536)
        except BlockingIOError:
            continue
        except OSError:  # the other side is closed; pty(7) has EIO for that
            break
        if b"ready" in output and not is_pressed:
            is_pressed = True
            os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    left = removed_namespaces_of(pid)
    lines = output.decode().splitlines()
    assert os.waitstatus_to_exitcode(status) == 9, lines
    assert [line.replace("^C", "") for line in lines if "SIG" in line] == ["SIGINT"]
    assert not any("the server had ended" in line for line in lines)
    assert left == []


def test_two_runs_at_once_do_not_disturb_each_other() -> None:
    with started("--", sys.executable, "-c", WAIT) as first:
        for _ in range(2):
            assert run("--", "ping", "-c", "1", "{server}").returncode == 0
        assert len(namespaces_of(first.pid)) == 2
        assert first.poll() is None
        first.terminate()


def test_no_interface_is_left_in_the_network_of_the_machine() -> None:
    assert run("--", "true").returncode == 0
    assert not [name for _, name in socket.if_nameindex() if name.startswith("link")]


HOWTO = Path(__file__).parents[3] / "docs/howto/lab.md"


def sections() -> dict[str, str]:
    if not HOWTO.exists():  # it is not beside the installed package
        return {}
    parts = re.split(r"^## (.*)\n", HOWTO.read_text(), flags=re.M)[1:]
    return {title: text for title, text in zip(parts[::2], parts[1::2], strict=True) if "```sh" in text}


@pytest.mark.slow
@pytest.mark.parametrize("title", sections())
def test_the_commands_of_the_howto_work(title: str, tmp_path: Path) -> None:
    text = sections()[title]
    for name, content in re.findall(r"In `([\w.]+)`:\n\n```\w+\n(.*?)```", text, re.S):
        (tmp_path / name).write_text(content)
    script = "".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    if "clean" in script:
        script = script.replace("clean", "clean --dry-run")  # other tests leave something to clean
    with server_outside() as port:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            # timeout(1) ends all that the script has started.
            ["timeout", f"{TIMEOUT_S:g}", "sh", "-e", "-c", script.replace("8000", str(port))],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Error" not in done.stderr
    if "page.html" in script:
        assert (tmp_path / "page.html").stat().st_size > 0


def test_the_howto_shows_what_run_says() -> None:
    if not HOWTO.exists():
        pytest.skip("the documentation is not beside the installed package")
    shown = "\n".join(re.findall(r"^netem: .*$", HOWTO.read_text(), re.M))
    done = subprocess.run(
        [*RUN[:4], "--", "ping", "-c", "3", "-i", "0.2", "{server}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    # How many are lost depends on the moment.
    assert re.sub(r"[\d.]+", "0", done.stderr.strip()) == re.sub(r"[\d.]+", "0", shown)
