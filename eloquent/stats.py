"""What a client has measured: of an answer, and of the connections that brought it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from eloquent.protocol.connection import Connection


@dataclass(slots=True)
class ReplyStats:
    """Times of one answer, in seconds, as the application got it."""

    asked_at: float
    """When the prompt was handed over (`time.monotonic`)."""
    token_times: list[float] = field(default_factory=list)
    """When each piece of text was handed over, after `asked_at`."""
    stalled_s: float = 0.0
    """Of the answer's time: in which nothing was heard for so long that `Stalled` was announced."""

    @property
    def ttft_s(self) -> float | None:
        """Time to first token; None before it has come."""
        return self.token_times[0] if self.token_times else None

    @property
    def itl_s(self) -> list[float]:
        """Inter-token latencies: from each piece of text to the next. Tokens in one datagram have 0."""
        times = self.token_times
        return [later - earlier for earlier, later in pairwise(times)]

    @property
    def stall_ratio(self) -> float:
        """Part of the time from the prompt to the newest token in which the network was stalled."""
        return min(self.stalled_s / self.token_times[-1], 1.0) if self.token_times else 0.0


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """What the client's side of a conversation has seen so far, over all of its connections."""

    rtt_s: float | None
    """Smoothed round-trip time; None before there is a sample."""
    datagrams_sent: int
    datagrams_received: int
    bytes_sent: int
    """UDP payload, padding included."""
    bytes_received: int
    lost_up: int
    """Datagrams of ours that were declared lost."""
    lost_down: int
    """Datagrams of the server that have not come: gaps in its packet numbers."""

    @property
    def loss_down(self) -> float:
        """Part of the server's datagrams that did not come."""
        return self.lost_down / (self.lost_down + self.datagrams_received) if self.lost_down else 0.0


class Totals:
    """Adds up the counters of the connections that follow one another."""

    __slots__ = ("_current", "_past")

    def __init__(self) -> None:
        self._current: Connection | None = None
        self._past = ConnectionStats(None, 0, 0, 0, 0, 0, 0)

    def follow(self, connection: Connection) -> None:
        """Count this connection from here on, and the one before it as finished."""
        if connection is not self._current:
            self._past = self.snapshot()
            self._current = connection

    def snapshot(self) -> ConnectionStats:
        """The sums so far."""
        connection, past = self._current, self._past
        if connection is None:
            return past
        counters, rtt = connection.counters, connection.recovery.rtt
        missing = connection.acks.window.largest + 1 - counters.datagrams_received
        return ConnectionStats(
            rtt_s=rtt.smoothed if rtt.has_sample else past.rtt_s,
            datagrams_sent=past.datagrams_sent + counters.datagrams_sent,
            datagrams_received=past.datagrams_received + counters.datagrams_received,
            bytes_sent=past.bytes_sent + counters.bytes_sent,
            bytes_received=past.bytes_received + counters.bytes_received,
            lost_up=past.lost_up + counters.lost,
            lost_down=past.lost_down + max(missing, 0),
        )
