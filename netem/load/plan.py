"""What a run under load does, and the words between its processes."""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection

TOKEN = " word"
"""Every token: five characters, about what a token of English text has."""

READ = "read"
STOP = "stop"
"""What a process is told, besides the moment at which the tokens begin: a float."""


@dataclass(frozen=True, slots=True)
class Load:
    """Streams that begin together, evenly spread over the time between two tokens."""

    streams: int
    rate: float
    """Tokens per second of each stream."""
    streams_per_connection: int = 1
    datagram_size: int = 93
    """Bytes of each datagram of the plain sender: those of the protocol's, to send the same."""
    ack_size: int = 45
    """Bytes that the plain sender gets back where the protocol has an acknowledgment."""

    @property
    def connections(self) -> int:
        return -(-self.streams // self.streams_per_connection)

    def streams_of(self, connection: int) -> range:
        first = connection * self.streams_per_connection
        return range(first, min(first + self.streams_per_connection, self.streams))

    def due_at(self, stream: int, token: int, start: float) -> float:
        """When a stream has a token; `start` and the result by `time.monotonic`, alike in all processes."""
        return start + (token + stream / self.streams) / self.rate


@dataclass(frozen=True, slots=True)
class Reading:
    """What a process has done since its start."""

    cpu_s: float
    wall_s: float
    tokens: int = 0
    datagrams: int = 0
    datagram_bytes: int = 0
    acks: int = 0
    ack_bytes: int = 0
    delays_s: array[float] = field(default_factory=lambda: array("d"))
    """From when each token was due to when it could be rendered; only since the reading before."""


def pin(core: int) -> None:
    """Keep this process on one core, where the system can do that and has more than one."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[core]})


async def tokens(load: Load, stream: int, start: float) -> AsyncIterator[str]:
    """A stream's tokens, each when it is due; those that are late come without a wait."""
    for token in count():
        await asyncio.sleep(max(load.due_at(stream, token, start) - time.monotonic(), 0.0))
        yield TOKEN


class Orders:
    """What the parent says to a process with an event loop: when to start, when to read the meter."""

    def __init__(self, pipe: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._pipe = pipe
        self.start: asyncio.Future[float] = loop.create_future()
        self.stop = asyncio.Event()
        self.tokens = 0
        """Tokens so far; whoever makes one counts it here."""
        loop.add_reader(pipe.fileno(), self._on_order)

    def _on_order(self) -> None:
        order = self._pipe.recv()
        if order == READ:
            self._pipe.send(Reading(time.process_time(), time.monotonic(), tokens=self.tokens))
        elif order == STOP:
            self.stop.set()
        else:
            self.start.set_result(order)
