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

    __slots__ = ("_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Connection]] = []
        self._order = count()

    def schedule(self, connection: Connection) -> None:
        """Make sure that the connection is looked at no later than at its next deadline."""
        deadline = connection.next_timer()
        connection.deadline = math.inf if deadline is None else deadline
        if connection.deadline < connection.wakes_at:
            self._put(connection)

    def next_at(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def pop_due(self, *, now: float) -> list[Connection]:
        """Connections with a deadline that has passed; each must be scheduled again."""
        due = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, connection = heapq.heappop(heap)
            if connection.wakes_at != at:
                continue
            connection.wakes_at = math.inf
            if connection.deadline <= now:
                due.append(connection)
            elif connection.deadline < math.inf:
                self._put(connection)
        return due

    def remove(self, connection: Connection) -> None:
        connection.wakes_at = math.inf

    def _put(self, connection: Connection) -> None:
        connection.wakes_at = connection.deadline
        heapq.heappush(self._heap, (connection.deadline, next(self._order), connection))
