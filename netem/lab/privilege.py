"""The right to make network namespaces: root's, or that of root of a user namespace."""

from __future__ import annotations

import os
from pathlib import Path

from netem.errors import LabUnavailable
from netem.lab.syscall import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, MS_PRIVATE, MS_REC, mount, unshare

_HOW_TO = (
    "run as root, or allow user namespaces (sysctl user.max_user_namespaces above 0, and where they "
    "exist kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0)"
)


def become_root() -> None:
    """Move this process into namespaces of its own in which it is root; nothing where it is already.

    To files it stays the user that it was. It gets an empty /run, where namespaces get their
    names, and no network but what it makes; its children share all that. Raises LabUnavailable
    where the kernel forbids it, and once the process has more than one thread.
    """
    if os.geteuid() == 0:
        return
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
