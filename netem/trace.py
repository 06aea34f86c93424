"""Links of recorded rate: the packet-delivery traces of Mahimahi (Netravali et al., USENIX ATC 2015).

Each line of such a file is a whole number of milliseconds since the start, and stands for one
opportunity to deliver 1504 bytes then. Lines are in order of time; several may name the same
millisecond. After the last line the trace starts again: its time is the period.

Everything is as in mm-link(1) and its LinkQueue:

- An opportunity carries several small packets, and a packet may need several opportunities; it is
  delivered at the last of them.
- What is left of an opportunity when nothing waits is lost.
- A packet cannot use an opportunity of the moment at which it comes, only later ones.
- A packet counts 4 bytes more than its size (there, the header of the TUN device), so that 1500
  bytes fill an opportunity exactly.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from eloquent.errors import ConfigurationError

OPPORTUNITY_BYTES = 1504
PACKET_OVERHEAD_BYTES = 4

_MILLISECONDS = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class DeliveryTrace:
    """When packets may leave, in milliseconds; read_trace() makes one from a file.

    `file` is how the file was named, for display.
    """

    opportunities_ms: tuple[int, ...]
    file: str = ""

    def __post_init__(self) -> None:
        times = self.opportunities_ms
        if not times:
            raise ConfigurationError("the trace has no delivery opportunities")
        if times[0] < 0:
            raise ConfigurationError(f"the trace starts at {times[0]} ms; it must not be negative")
        for number, (earlier, later) in enumerate(pairwise(times), 2):
            if later < earlier:
                raise ConfigurationError(
                    f"opportunity {number} of the trace is at {later} ms, after one at {earlier} ms; "
                    "they must be in order of time"
                )
        if times[-1] == 0:
            raise ConfigurationError("the trace ends at 0 ms; it must last longer, as it then repeats")

    def __repr__(self) -> str:
        return f"<trace of {len(self.opportunities_ms)} opportunities in {self.period_s} s {self.file!r}>"

    @property
    def period_s(self) -> float:
        """Seconds after which the trace repeats."""
        return self.opportunities_ms[-1] / 1e3

    @property
    def mean_rate_bps(self) -> float:
        """Bits per second that packets of 1500 bytes get."""
        whole_packet = OPPORTUNITY_BYTES - PACKET_OVERHEAD_BYTES
        return len(self.opportunities_ms) * whole_packet * 8.0 / self.period_s

    def time_of(self, number: int) -> float:
        """When the opportunity with that number (from 0, through all repetitions) is, in seconds."""
        repetition, index = divmod(number, len(self.opportunities_ms))
        return (repetition * self.opportunities_ms[-1] + self.opportunities_ms[index]) / 1e3

    def first_after(self, t: float) -> int:
        """The number of the first opportunity after `t`; one at `t` does not count."""
        times = self.opportunities_ms
        repetition = int(t * 1e3 / times[-1])
        number = repetition * len(times) + bisect_right(times, t * 1e3 - repetition * times[-1])
        # The product and the quotient round; seconds, as time_of() has them, are what counts.
        while number > 0 and self.time_of(number - 1) > t:
            number -= 1
        while self.time_of(number) <= t:
            number += 1
        return number


def read_trace(path: Path) -> DeliveryTrace:
    """Read a packet-delivery trace; raises ConfigurationError with the number of the bad line."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:  # ValueError: not ASCII, or a name that no file can have
        raise ConfigurationError(f"cannot read the trace {str(path)!r}: {error}") from error
    times: list[int] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not _MILLISECONDS.fullmatch(text):
            raise ConfigurationError(
                f"{path}, line {number}: {text!r} is not a whole number of milliseconds, at least 0"
            )
        times.append(int(text))
        if times[-1] < max(times[-2:]):
            raise ConfigurationError(
                f"{path}, line {number}: {times[-1]} ms comes after {times[-2]} ms; "
                "lines must be in order of time"
            )
    try:
        return DeliveryTrace(tuple(times), str(path))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


class TraceLine:
    """The line after a queue, which gives each packet its time of delivery. Calls in order of time.

    Nothing is delivered up to `free_at`, which belongs to what was there before this line.
    """

    __slots__ = (
        "_at",
        "_bytes_left",
        "_number",
        "_queue",
        "_queued_bytes",
        "limit_bytes",
        "limit_s",
        "trace",
    )

    def __init__(self, trace: DeliveryTrace, *, free_at: float) -> None:
        self.trace = trace
        self.limit_s = math.inf
        """The longest time for which a packet may find the line taken; and the bytes before it:"""
        self.limit_bytes = math.inf
        self._at = free_at
        """When the last packet is delivered that was taken."""
        self._number = trace.first_after(free_at) - 1
        """The opportunity of that moment, and what is left of it:"""
        self._bytes_left = 0
        self._queue: deque[tuple[float, int]] = deque()
        self._queued_bytes = 0

    def deliver(self, size: int, now: float) -> float:
        """Take a packet of `size` bytes; return when it is delivered, infinity where the queue is full."""
        if self._at - now > self.limit_s or self._waiting_bytes(now) > self.limit_bytes:
            return math.inf
        if self._at <= now:
            self._advance_to(self.trace.first_after(now))
        lacking = size + PACKET_OVERHEAD_BYTES
        while lacking > self._bytes_left:
            lacking -= self._bytes_left
            self._advance_to(self._number + 1)
        self._bytes_left -= lacking
        self._at = self.trace.time_of(self._number)
        self._queue.append((self._at, size))
        self._queued_bytes += size
        return self._at

    def _advance_to(self, number: int) -> None:
        self._number = number
        self._bytes_left = OPPORTUNITY_BYTES

    def _waiting_bytes(self, now: float) -> int:
        queue = self._queue
        while queue and queue[0][0] <= now:
            self._queued_bytes -= queue.popleft()[1]
        return self._queued_bytes
