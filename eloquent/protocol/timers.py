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

_MAX_REPLACED = 64
"""Replaced entries that are not worth clearing away; arbitrary."""


class TimerQueue:
    """Connections by their next deadline."""

    __slots__ = ("_heap", "_order", "_waiting")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Connection]] = []
        self._order = count()
        self._waiting = 0
        """Connections that have an entry; all other entries were replaced by closer ones."""

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
            at, _, connection = heap[0]
            if connection.wakes_at == at and now < connection.deadline < math.inf:
                connection.wakes_at = connection.deadline
                heapq.heapreplace(heap, (connection.deadline, next(self._order), connection))
                continue
            heapq.heappop(heap)
            if connection.wakes_at == at:
                self.remove(connection)
                if connection.deadline <= now:
                    due.append(connection)
        return due

    def remove(self, connection: Connection) -> None:
        if connection.wakes_at < math.inf:
            connection.wakes_at = math.inf
            self._waiting -= 1

    def _put(self, connection: Connection) -> None:
        if connection.wakes_at == math.inf:
            self._waiting += 1
        connection.wakes_at = connection.deadline
        heapq.heappush(self._heap, (connection.deadline, next(self._order), connection))
        if len(self._heap) > 2 * self._waiting + _MAX_REPLACED:
            # Each answer leaves a far entry behind with each token, and the connection with it.
            self._heap[:] = [entry for entry in self._heap if entry[2].wakes_at == entry[0]]
            heapq.heapify(self._heap)
