"""What is far away and mostly moves: liveness, stall, keep-alive, the end (protocol 4).

These deadlines change with each datagram and are hardly ever reached, so they are not computed for
each datagram. Whatever happens now, none of them comes sooner than `LIVENESS` later: the connection
looks again then, and only then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eloquent.protocol.silence import IDLE, KEEP_ALIVE, KEEP_ALIVE_JITTER, LIVENESS, Silence
from eloquent.protocol.streams import LogGroup

BLOCKED_PING_MAX = 2.5
"""Seconds, most between two PINGs of a sender that flow control holds back."""


@dataclass(slots=True)
class Verdict:
    """What a look has found."""

    wants_ping: bool = False
    has_stalled: bool = False
    is_thinking: bool = False
    """The server answers and still there is no text, for the first time in this pause."""
    gives_up: bool = False
    """The peer has been silent for too long."""
    is_idle: bool = False
    """There has been no stream for too long."""


class Vigil:
    """Watches one connection's silence."""

    __slots__ = (
        "_entropy",
        "_group",
        "_is_client",
        "_is_thinking",
        "_keep_alive",
        "_keeps_alive",
        "_silence",
        "is_stalled",
        "looks_at",
    )

    def __init__(
        self,
        silence: Silence,
        group: LogGroup,
        *,
        is_client: bool,
        keeps_alive: bool,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._silence = silence
        self._group = group
        self._is_client = is_client
        self._keeps_alive = keeps_alive
        self._entropy = entropy
        self._keep_alive = self._draw_keep_alive()
        self._is_thinking = False
        self.is_stalled = False
        """Whether nothing was heard for too long; whoever hears something sets it back."""
        self.looks_at = now + LIVENESS

    def look_soon(self, *, now: float) -> None:
        """Something has happened or was asked for, and the next look is more than `LIVENESS` away."""
        self.looks_at = now + LIVENESS

    def on_news(self) -> None:
        """The peer sent bytes of a log, not only answers."""
        self._silence.on_news()
        self._is_thinking = False

    def look(self, pto: float, *, now: float) -> Verdict:
        """Find what is due, and when to look again."""
        verdict = Verdict()
        stalled_at = self._silence.stalled_at(pto)
        if not self.is_stalled and is_due(stalled_at, now):
            self.is_stalled = verdict.has_stalled = True
        verdict.gives_up = is_due(self._silence.gives_up_at(), now)
        verdict.is_idle = is_due(self._idle_at(), now)
        if is_due(self._liveness_at(), now):
            verdict.wants_ping = True
            # The PING before this one was answered, and still there is no text.
            verdict.is_thinking = self._silence.was_pinged and not self._is_thinking
            self._is_thinking |= verdict.is_thinking
            self._silence.on_ping()
        if is_due(self._keep_alive_at(), now):
            verdict.wants_ping = True
            self._keep_alive = self._draw_keep_alive()
        self._plan(None if self.is_stalled else stalled_at, now)
        return verdict

    def _plan(self, stalled_at: float | None, now: float) -> None:
        deadlines = (
            stalled_at,
            self._silence.gives_up_at(),
            self._idle_at(),
            self._liveness_at(),
            self._keep_alive_at(),
        )
        at = min([deadline for deadline in deadlines if deadline is not None], default=now + IDLE)
        # What was due is done once its PING is sent, which the next drain does.
        self.looks_at = at if at > now else now + LIVENESS / 2

    def _liveness_at(self) -> float | None:
        if not self._is_client or self._silence.since is not None:
            return None
        if all(stream.incoming.has_ended for stream in self._group.streams.values()):
            return None
        return self._silence.liveness_at()

    def _keep_alive_at(self) -> float | None:
        if not self._keeps_alive and not self._group.has_open:
            return None
        return max(self._silence.asked_at, self._silence.heard_at) + self._keep_alive

    def _idle_at(self) -> float | None:
        return None if self._group.has_open else self._silence.heard_at + IDLE

    def _draw_keep_alive(self) -> float:
        spread = self._entropy(1)[0] / 127.5 - 1
        return KEEP_ALIVE * (1 + KEEP_ALIVE_JITTER * spread)


class BlockedSender:
    """PINGs of a sender that flow control holds back: a lost limit must not stall it for ever."""

    __slots__ = ("_since", "_wait")

    def __init__(self) -> None:
        self._since: float | None = None
        self._wait = 0.0

    def update(self, is_blocked: bool, pto: float, *, now: float) -> None:
        if not is_blocked:
            self._since = None
        elif self._since is None:
            self._since, self._wait = now, pto

    def next_at(self) -> float | None:
        return None if self._since is None else self._since + self._wait

    def ask_if_due(self, *, now: float) -> bool:
        """Whether a PING is due; the next one comes after twice the time."""
        if not is_due(self.next_at(), now):
            return False
        self._since = now
        self._wait = min(self._wait * 2, BLOCKED_PING_MAX)
        return True


def is_due(deadline: float | None, now: float) -> bool:
    """Whether there is a deadline and it has come."""
    return deadline is not None and deadline <= now
