"""TUN devices: network interfaces whose packets are read and written through a descriptor."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_CLONE = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFREQ = struct.Struct("16sH22x")


def missing() -> list[str]:
    """What this machine lacks for TUN devices, and how to get it."""
    try:
        os.close(os.open(_CLONE, os.O_RDWR))
    except FileNotFoundError:
        return [f"{_CLONE} is missing; run `modprobe tun`, or start the container with --device={_CLONE}"]
    except OSError as error:
        return [f"{_CLONE} cannot be opened ({error.strerror}); it needs mode 0666 and the driver tun"]
    return []


def open_tun(interface: str) -> int:
    """Make a device in the calling thread's network namespace, and return its descriptor.

    Each read and write is one IP packet; they never block. The device goes with the descriptor.
    Raises OSError.
    """
    descriptor = os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(interface.encode(), _IFF_TUN | _IFF_NO_PI))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
