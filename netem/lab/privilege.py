"""The right to make network namespaces: root's, or that of root of a user namespace."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from pathlib import Path

from netem.errors import LabUnavailable
from netem.lab.syscall import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, MS_PRIVATE, MS_REC, mount, unshare

_CAPABILITIES = 1 << 12 | 1 << 21  # CAP_NET_ADMIN and CAP_SYS_ADMIN; linux/capability.h
_SIOCSIFFLAGS = 0x8914  # linux/sockios.h
_IFF_UP = 1
_IFREQ = struct.Struct("16sh22x")

_HOW_TO = (
    "run as root (in a container with the capabilities SYS_ADMIN and NET_ADMIN), or allow user "
    "namespaces (sysctl user.max_user_namespaces above 0, and where they exist "
    "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0)"
)


def become_root() -> None:
    """Move this process into namespaces of its own in which it is root; nothing where it may already.

    To files it stays the user that it was. It gets an empty /run, where namespaces get their
    names, and of networks the loopback and what it makes; its children share all that. Raises LabUnavailable
    where the kernel forbids it, and once the process has more than one thread.
    """
    if _may_make_namespaces():
        return
    if os.geteuid() == 0:
        # Nor would a user namespace help: only CAP_SETFCAP lets root be mapped into one.
        raise LabUnavailable(f"root here may not make network namespaces; {_HOW_TO}")
    if len(os.listdir("/proc/self/task")) > 1:
        raise LabUnavailable(
            "an ordinary user's laboratory must begin before the process starts threads; "
            "call netem.become_root() first, or run as root"
        )
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)
    except OSError as error:
        raise LabUnavailable(f"this user cannot make namespaces ({error.strerror}); {_HOW_TO}") from error
    # A group map may only be written where setgroups(2) is given up; user_namespaces(7).
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    try:
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount("netem", "/run", "tmpfs", 0)
    except OSError as error:
        raise LabUnavailable(f"this user cannot mount ({error.strerror}); {_HOW_TO}") from error
    _raise_loopback()


def _may_make_namespaces() -> bool:
    match = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return match is not None and int(match[1], 16) & _CAPABILITIES == _CAPABILITIES


def _raise_loopback() -> None:
    # Not by netlink: an event loop may be running, and pyroute2 would start another.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))
