"""One queue of deadlines for all connections of an endpoint.

A connection's deadline moves with each datagram, mostly away. Moving it in the queue each time
would cost more than the datagram, so an entry is only added when the deadline comes closer; an
entry that fires too early is put back at the true time.
"""

from __future__ import annotations

import heapq
import math
from itertools import count

from eloquent.protocol.connection import Connection


class TimerQueue:
    """Connections by their next deadline."""

    __slots__ = ("_heap", "_order", "_scheduled")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Connection]] = []
        self._order = count()
        self._scheduled: dict[Connection, float] = {}

    def schedule(self, connection: Connection) -> None:
        """Make sure that the connection is looked at no later than at its next deadline."""
        at = connection.next_timer()
        if at is not None and at < self._scheduled.get(connection, math.inf):
            self._put(connection, at)

    def _put(self, connection: Connection, at: float) -> None:
        self._scheduled[connection] = at
        heapq.heappush(self._heap, (at, next(self._order), connection))

    def next_at(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def pop_due(self, *, now: float) -> list[Connection]:
        """Connections with a deadline that has passed; each must be scheduled again."""
        due = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, connection = heapq.heappop(heap)
            if self._scheduled.get(connection) != at:
                continue
            del self._scheduled[connection]
            true_at = connection.next_timer()
            if true_at is None:
                continue
            if true_at <= now:
                due.append(connection)
            else:
                self._put(connection, true_at)
        return due

    def remove(self, connection: Connection) -> None:
        self._scheduled.pop(connection, None)
