"""What this machine has of what the laboratory can use: one Check for each thing.

What a backend cannot do without, the backend itself knows (`missing()`); here is what is around it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from netem.errors import LabUnavailable

if TYPE_CHECKING:
    from netem.lab.wire import Backend

_ENOUGH_PROCESSORS = 2
_CONGESTION_CONTROLS = "/proc/sys/net/ipv4/tcp_available_congestion_control"
_WANTED_CONGESTION_CONTROLS = ("cubic", "bbr")


_EXTRA = "'eloquent-stream[lab]'"
_PROGRAMS = ("nsenter", "setpriv", "setsid")
"""Those that run other programs on hosts; of util-linux."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing, in words. `remedy` says how to get it, and is empty where it is there."""

    name: str
    is_there: bool
    found: str
    purpose: str
    remedy: str = ""


def examine() -> list[Check]:
    """Look at everything.

    This moves the process of an ordinary user into namespaces of its own, as a laboratory does.
    """
    return [
        _kernel(),
        _rights(),
        *_backends(),
        *_programs(),
        *_modules(),
        _congestion_controls(),
        _processors(),
        _real_time(),
        *_emulation(),
    ]


def require_laboratory() -> None:
    """Raise LabUnavailable where something is missing that every laboratory needs.

    This moves the process of an ordinary user into namespaces of its own.
    """
    if find_spec("pyroute2") is None:
        raise LabUnavailable(f"the Python package pyroute2 is missing: {_pip(_EXTRA)}")
    for name in _PROGRAMS:
        if shutil.which(name) is None:
            raise LabUnavailable(f"the program {name} is missing: {_apt('util-linux')}")
    _require_rights()


def default_backend() -> Backend:
    """What a laboratory uses when it is not told; raises LabUnavailable, which says what is missing."""
    require_laboratory()
    from netem.lab.backends import choose_backend

    return choose_backend(None, [])


def _require_rights() -> None:
    """Make a namespace: being root is not enough in a container."""
    from pyroute2.netlink.exceptions import NetlinkError

    from netem.lab import teardown
    from netem.lab.namespace import Namespace, namespace_name
    from netem.lab.privilege import become_root

    become_root()
    scratch = Namespace(namespace_name("doctor", 0, "scratch"))
    teardown.add(scratch.delete)
    try:
        Namespace.create(scratch.name)
    except (OSError, NetlinkError) as error:
        raise LabUnavailable(
            f"this process cannot make network namespaces ({error}); a container needs CAP_SYS_ADMIN and "
            "CAP_NET_ADMIN for that, with Docker: --privileged"
        ) from error
    finally:
        scratch.delete()
        teardown.remove(scratch.delete)


def _kernel() -> Check:
    is_linux = platform.system() == "Linux"
    return Check(
        "Linux",
        is_linux,
        f"{platform.system()} {platform.release()}",
        "network namespaces and TUN devices",
        "" if is_linux else "use a virtual machine or a container with Linux",
    )


def _rights() -> Check:
    is_root = os.geteuid() == 0
    try:
        _require_rights()
    except LabUnavailable as error:
        found, remedy = "missing", str(error)
    except ModuleNotFoundError as error:
        found, remedy = f"unknown without {error.name}", _pip(_EXTRA)
    else:
        found, remedy = "as root" if is_root else "in a user namespace", ""
    return Check("namespaces", not remedy, found, "hosts of the laboratory", remedy)


def _backends() -> Iterator[Check]:
    try:
        from netem.lab.kernel import wire as kernel
        from netem.lab.user import wire as user
    except ModuleNotFoundError as error:
        found = f"unknown without {error.name}"
        yield Check("backends", False, found, "links of the laboratory", _pip(_EXTRA))
        return
    purposes: dict[str, tuple[Callable[[], list[str]], str]] = {
        "user": (user.missing, "links by this package: every scenario, and recordings"),
        "kernel": (kernel.missing, "links by tc-netem: to check the others, and high rates"),
    }
    for name, (missing, purpose) in purposes.items():
        lacks = missing()
        found = "missing" if lacks else "can be used"
        yield Check(f"backend {name}", not lacks, found, purpose, "; ".join(lacks))


def _programs() -> Iterator[Check]:
    for package, purpose, names in (
        ("util-linux", "programs on hosts", _PROGRAMS),
        ("iproute2", "a look into namespaces by hand", ("ip", "tc")),
    ):
        for name in names:
            path = shutil.which(name)
            yield Check(name, path is not None, path or "missing", purpose, "" if path else _apt(package))


def _modules() -> Iterator[Check]:
    for name, purpose in (
        ("pyroute2", "everything of the laboratory"),
        ("numpy", "`calibrate`"),
        ("matplotlib", "the pictures of `show`"),
    ):
        is_there = find_spec(name) is not None
        remedy = "" if is_there else _pip(_EXTRA)
        yield Check(name, is_there, "installed" if is_there else "missing", purpose, remedy)


def _congestion_controls() -> Check:
    try:
        available = Path(_CONGESTION_CONTROLS).read_text().split()
    except OSError:
        available = []
    lacks = [name for name in _WANTED_CONGESTION_CONTROLS if name not in available]
    return Check(
        "TCP congestion control",
        not lacks,
        ", ".join(available) or "none",
        "cross traffic, and TCP for comparison",
        " ".join(["modprobe", *(f"tcp_{name}" for name in lacks)]) if lacks else "",
    )


def _processors() -> Check:
    count = len(os.sched_getaffinity(0))
    is_enough = count >= _ENOUGH_PROCESSORS
    return Check(
        "processors",
        is_enough,
        str(count),
        "exact delays while programs compute",
        "" if is_enough else f"give this machine {_ENOUGH_PROCESSORS}; the link shares one with the programs",
    )


def _real_time() -> Check:
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        reason, remedy = f"refused: {error.strerror}", "run as root (in a container: CAP_SYS_NICE)"
    else:
        os.sched_setscheduler(0, policy, priority)
        reason, remedy = "allowed", ""
    return Check("SCHED_FIFO", not remedy, reason, "exact delays on a busy machine", remedy)


def _emulation() -> Iterator[Check]:
    purpose = "tests/kernel: tc-netem where this kernel lacks it"
    qemu = shutil.which(f"qemu-system-{platform.machine()}")
    yield Check("qemu", qemu is not None, qemu or "missing", purpose, "" if qemu else _apt("qemu-system-x86"))
    vng = shutil.which("vng") or shutil.which("vng", path=Path(sys.executable).parent)
    yield Check("virtme-ng", vng is not None, vng or "missing", purpose, "" if vng else _pip("virtme-ng"))
    images = sorted(Path("/boot").glob("vmlinuz-*"))
    found = ", ".join(image.name for image in images) or "missing"
    yield Check("kernel image", bool(images), found, purpose, "" if images else _apt("linux-image-amd64"))


def _apt(package: str) -> str:
    return f"apt-get install {package}"


def _pip(package: str) -> str:
    return f"pip install {package}"
