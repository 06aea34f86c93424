"""All packets that come to an interface, handled by one processor.

veth hands a packet to the processor that happens to send it. Two packets of one cable that leave a
discipline on different processors can then overtake each other, which no link here is to do. Receive
packet steering (Documentation/networking/scaling.rst of Linux) gives them all to one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from netem.lab.namespace import Namespace
from netem.lab.syscall import CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare

_WORD_BITS = 32


def receive_on_one_processor(namespace: Namespace, interfaces: Sequence[str]) -> None:
    """Set it for interfaces of a namespace; raises OSError where the kernel has no steering."""
    namespace.call(_steer, interfaces, _mask(min(os.sched_getaffinity(0))))


def _steer(interfaces: Sequence[str], mask: str) -> None:
    # /sys shows the namespace in which it was mounted: the calling thread gets one of its own.
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("netem", "/sys", "sysfs", 0)
    for interface in interfaces:
        Path(f"/sys/class/net/{interface}/queues/rx-0/rps_cpus").write_text(mask)


def _mask(processor: int) -> str:
    """A set of one processor: hexadecimal words, separated by commas."""
    words, bit = divmod(processor, _WORD_BITS)
    return ",".join([f"{1 << bit:x}", *["0" * (_WORD_BITS // 4)] * words])
