"""Network namespaces: made, entered, named and removed.

A namespace has a name under /run/netns, where `ip netns` finds it::

    netem.LABEL.PID.START.SERIAL.HOST

PID and START (of /proc/PID/stat) are those of the process that made it, so that a namespace whose
maker was killed can be told from one in use, also when the PID has been given out again.

The kernel keeps the namespace per thread. What must happen inside, such as opening a socket, is
done in a thread of its own that ends afterwards; the socket stays inside.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from pyroute2 import IPRoute

from netem.lab.syscall import CLONE_NEWNET, MS_BIND, mount, setns, unmount, unshare

DIRECTORY = Path("/run/netns")

_STAT_START = 19  # position of `starttime` behind the command's closing parenthesis; proc(5)
_EXIT_LIMIT_S = 2.0
"""How long killed processes may take to go; arbitrary, a few ms are usual."""

_NAME = re.compile(
    r"netem\.(?P<label>[\w-]+)\.(?P<pid>\d+)\.(?P<start>\d+)\.(?P<serial>\d+)\.(?P<host>[\w-]+)"
)
_NOT_IN_NAMES = re.compile(r"[^\w-]+", re.ASCII)
_MAX_LABEL = 60
"""Characters; a whole name must fit into the 255 of a file name."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace with a name. Raises OSError or NetlinkError where the kernel refuses."""

    name: str

    @classmethod
    def create(cls, name: str) -> Namespace:
        """Make a namespace whose loopback interface is up."""
        DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        namespace = cls(name)
        os.close(os.open(namespace.path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))
        try:
            _in_new_thread(_unshare_to, namespace.path)
            with namespace.netlink() as netlink:
                netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")
        except BaseException:
            namespace.delete()
            raise
        return namespace

    @property
    def path(self) -> Path:
        """The file whose opening gives the namespace."""
        return DIRECTORY / self.name

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a thread inside, and return or raise what it does; blocks until then."""

        def enter_and_call() -> T:
            setns(self.path, CLONE_NEWNET)
            return function(*args, **kwargs)

        return _in_new_thread(enter_and_call)

    @contextlib.contextmanager
    def netlink(self) -> Iterator[IPRoute]:
        """A netlink socket inside, for the calling thread, which must run no event loop."""
        # Not opened by call(): pyroute2 keeps an event loop for each thread, and another thread
        # than the one that made it cannot close it.
        with _inside(self.path):
            netlink = IPRoute()
        try:
            yield netlink
        finally:
            netlink.close()

    def set_sysctl(self, key: str, value: int) -> None:
        """Set what /proc/sys/`key` names, such as net/ipv4/ip_forward."""
        self.call(Path("/proc/sys", key).write_text, str(value))

    def command(self, command: Sequence[str]) -> list[str]:
        """`command`, to be run inside as a child that is killed when the calling thread ends."""
        return ["nsenter", f"--net={self.path}", "setpriv", "--pdeathsig", "KILL", "--", *command]

    def processes(self) -> list[int]:
        """The processes inside, other than the calling one."""
        here = os.stat(self.path)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):  # it has just ended
                    if os.path.samestat(os.stat(entry / "ns/net"), here):
                        found.append(int(entry.name))
        return found

    def delete(self) -> None:
        """Kill the processes inside and remove the namespace; does nothing where it is gone."""
        with contextlib.suppress(FileNotFoundError):
            self._kill_processes()
            with contextlib.suppress(OSError):  # its maker was killed before it had mounted it
                unmount(self.path)
            self.path.unlink()

    def _kill_processes(self) -> None:
        deadline = time.monotonic() + _EXIT_LIMIT_S
        while (inside := self.processes()) and time.monotonic() < deadline:
            for pid in inside:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)

    @property
    def is_stale(self) -> bool:
        """Whether the process that made it is gone."""
        match = _NAME.fullmatch(self.name)
        return match is not None and _start_of(int(match["pid"])) != match["start"]


def namespace_name(label: str, serial: int, host: str) -> str:
    """The name of a namespace of this process; other characters than word ones become `_`."""
    label = _NOT_IN_NAMES.sub("_", label)[:_MAX_LABEL] or "lab"
    return f"netem.{label}.{os.getpid()}.{_start_of(os.getpid())}.{serial}.{host}"


def namespaces() -> list[Namespace]:
    """The laboratory's namespaces on this machine, whoever made them."""
    if not DIRECTORY.is_dir():
        return []
    return [Namespace(path.name) for path in sorted(DIRECTORY.iterdir()) if _NAME.fullmatch(path.name)]


def _start_of(pid: int) -> str | None:
    """Clock ticks from boot to the start of a process; None where it is gone or has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[_STAT_START]


def _unshare_to(path: Path) -> None:
    unshare(CLONE_NEWNET)
    mount("/proc/thread-self/ns/net", path, None, MS_BIND)


@contextlib.contextmanager
def _inside(path: Path) -> Iterator[None]:
    """The calling thread is in another namespace."""
    with open("/proc/thread-self/ns/net") as outside:
        setns(path, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(f"/proc/self/fd/{outside.fileno()}", CLONE_NEWNET)


def _in_new_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function(*args, **kwargs))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="netem-namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
