"""Where finished and running logs wait for a resumption."""

from __future__ import annotations

from eloquent.protocol.streams import LogGroup

RETENTION = 300.0
"""Seconds that a log stays after its end (protocol 7)."""


class MemoryStore:
    """Keeps log groups in this process: they do not outlive it."""

    def __init__(self, *, retention: float = RETENTION) -> None:
        self.retention = retention
        self._groups: dict[bytes, LogGroup] = {}
        self._detached: dict[LogGroup, float] = {}
        self._kept_bytes = 0

    @property
    def kept_groups(self) -> int:
        return len(self._groups)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all logs, as of the last call of `expire`."""
        return self._kept_bytes

    def add(self, group: LogGroup) -> None:
        self._groups[group.id] = group

    def get(self, group_id: bytes) -> LogGroup | None:
        return self._groups.get(group_id)

    def detach(self, group: LogGroup, *, now: float) -> None:
        """No connection serves this group any more."""
        self._detached[group] = now

    def retain(self, group: LogGroup) -> None:
        """A connection serves this group (again)."""
        self._detached.pop(group, None)

    def running(self, *, detached_before: float) -> list[LogGroup]:
        """Groups without a client for that long whose answers are still being made."""
        return [
            group
            for group, since in self._detached.items()
            if since <= detached_before
            and any(not stream.outgoing.has_ended for stream in group.streams.values())
        ]

    def expire(self, *, now: float) -> None:
        """Let go of groups that nobody came back for."""
        for group, since in list(self._detached.items()):
            if now - since >= self.retention:
                del self._detached[group]
                self._groups.pop(group.id, None)
        self._kept_bytes = sum(
            stream.outgoing.end - stream.outgoing.start
            for group in self._groups.values()
            for stream in group.streams.values()
        )
