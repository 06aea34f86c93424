"""System calls that Python 3.11 lacks. They raise OSError as those of `os` do."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000  # sched.h
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000  # mount.h
MS_REC = 0x4000
MS_PRIVATE = 0x40000
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces; unshare(2)."""
    _check(_libc.unshare(flags))


def setns(path: str | os.PathLike[str], kind: int) -> None:
    """Move the calling thread into the namespace that the file `path` stands for; setns(2)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, kind))
    finally:
        os.close(descriptor)


def mount(source: str, target: str | os.PathLike[str], kind: str | None, flags: int) -> None:
    """Mount; mount(2)."""
    encoded = None if kind is None else kind.encode()
    _check(_libc.mount(source.encode(), os.fsencode(target), encoded, flags, None))


def unmount(target: str | os.PathLike[str]) -> None:
    """Unmount, as soon as nobody uses it; umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
