"""`python -m netem clean`, in a /run of its own: other tests leave something to clean, too."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

TIMEOUT_S = 60.0  # for what must happen; nothing waits that long unless it fails

WAIT = "import time; print('ready', flush=True); time.sleep(1000)"
RUN = [sys.executable, "-m", "netem", "run", "--scenario", "clean", "--", sys.executable, "-c", WAIT]

Prefix = list[str]
"""The beginning of a command line, behind which a command sees the /run of the test."""


@contextmanager
def waiting(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A program that has printed `ready`; killed in the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def prefix() -> Iterator[Prefix]:
    mount = "mount -t tmpfs netem /run && echo ready && exec sleep 1000"
    with waiting(["unshare", "--mount", "--propagation", "private", "sh", "-c", mount]) as holder:
        yield ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--wd=.", "--"]


def output_of(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def clean(prefix: Prefix, *arguments: str) -> list[str]:
    return output_of([*prefix, sys.executable, "-m", "netem", "clean", *arguments])


def names(prefix: Prefix) -> list[str]:
    return output_of([*prefix, "ls", "/run/netns"])


def test_where_nothing_is_left_there_is_nothing_to_remove(prefix: Prefix) -> None:
    assert clean(prefix) == ["nothing to remove"]


def test_what_kill_9_leaves_is_removed_and_what_is_in_use_is_not(prefix: Prefix) -> None:
    with waiting([*prefix, *RUN]) as in_use:
        in_use_names = names(prefix)
        assert len(in_use_names) == 2
        with waiting([*prefix, *RUN]) as killed:
            killed.send_signal(signal.SIGKILL)
            killed.wait(TIMEOUT_S)
        stale_names = sorted(set(names(prefix)) - set(in_use_names))
        assert len(stale_names) == 2
        assert clean(prefix, "--dry-run") == [f"would remove {name}" for name in stale_names]
        assert len(names(prefix)) == 4
        assert clean(prefix) == [f"removed {name}" for name in stale_names]
        assert names(prefix) == in_use_names
        assert clean(prefix) == ["nothing to remove"]
        assert in_use.poll() is None
        in_use.send_signal(signal.SIGTERM)
        assert in_use.wait(TIMEOUT_S) == 128 + signal.SIGTERM
    assert names(prefix) == []


def test_programs_that_have_outlived_their_laboratory_are_ended(prefix: Prefix) -> None:
    # It has given up what ties it to its parent.
    survivor = (
        "import ctypes, signal; ctypes.CDLL(None).prctl(1, 0)\n"  # PR_SET_PDEATHSIG, linux/prctl.h
        f"{WAIT}"
    )
    run = [*prefix, *RUN[:-1], survivor]
    with waiting(run) as killed:
        killed.send_signal(signal.SIGKILL)
        killed.wait(TIMEOUT_S)
        removed = clean(prefix)
        assert len(removed) == 2
        assert removed[0].endswith(".client with 1 running program")
        assert killed.stdout is not None
        assert killed.stdout.read() == ""  # its end: nobody holds the other side of the pipe any more
