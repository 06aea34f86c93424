"""Silence of the peer: probes, liveness, keep-alive, idle (protocol 4).

All limits on silence run from the oldest ack-eliciting datagram that nothing answered; any
authentic datagram answers all earlier ones. A pause of the model is therefore never taken for an
outage: while nothing is asked, nothing is unanswered.
"""

from __future__ import annotations

BACKOFF = 1.5
ACTIVE_PHASE = 3.0
"""Seconds of silence in which probes come at most `FAST_PROBE` (or one PTO) apart."""
FAST_PROBE = 0.2
PROBING_PHASE = 10.0
"""Seconds of silence after which only PINGs are sent."""
SLOW_PROBE = 0.5

SERVER_PING = 5.0
CLIENT_PING = 2.5

LIVENESS = 0.5
"""Seconds without a word after which a client with an open stream sends a PING."""
LIVENESS_AFTER_ANSWER = 2.5

KEEP_ALIVE = 20.0
KEEP_ALIVE_JITTER = 0.1
IDLE = 300.0
"""Seconds after which a connection without streams is dropped."""

STALL = 1.5
"""Seconds of silence (or 3 PTO, if that is longer) that count as a stall."""
STALL_PTOS = 3

RESUME_AFTER = 3.0
"""Seconds of silence after which a client tries a new socket (protocol 7)."""

GIVE_UP = 120.0
"""Seconds of silence after which the connection ends."""


class Silence:
    """What was heard last, and what has not been answered since."""

    __slots__ = ("_is_client", "_pinged", "asked_at", "heard_at", "probes", "since")

    def __init__(self, *, is_client: bool, now: float) -> None:
        self._is_client = is_client
        self.heard_at = now
        self.asked_at = now
        """When the last ack-eliciting datagram was sent."""
        self.since: float | None = None
        """When the oldest unanswered ack-eliciting datagram was sent."""
        self.probes = 0
        """Probes since anything was heard."""
        self._pinged = False

    def inherit(self, other: Silence) -> None:
        """Go on with the clock and the backoff of the connection that this one resumes."""
        self.since = other.since
        self.probes = other.probes

    def on_asked(self, *, now: float) -> None:
        """An ack-eliciting datagram was sent."""
        self.asked_at = now
        if self.since is None:
            self.since = now

    def on_heard(self, *, now: float) -> None:
        """An authentic datagram came."""
        self.heard_at = now
        self.since = None
        self.probes = 0

    def on_news(self) -> None:
        """The peer sent bytes of a log, not only answers."""
        self._pinged = False

    def on_ping(self) -> None:
        self._pinged = True

    @property
    def was_pinged(self) -> bool:
        """Whether a PING was sent since the peer's last bytes."""
        return self._pinged

    def duration(self, *, now: float) -> float:
        """Seconds of silence; 0 while nothing is unanswered."""
        return 0.0 if self.since is None else max(now - self.since, 0.0)

    def allows_text(self, *, now: float) -> bool:
        """Whether more than PINGs may be sent."""
        return self.since is None or now - self.since < PROBING_PHASE

    def probe_interval(self, pto: float, *, now: float) -> float:
        """Seconds from one probe to the next."""
        if not self.probes:
            return pto
        duration = self.duration(now=now)
        if duration >= PROBING_PHASE:
            return CLIENT_PING if self._is_client else SERVER_PING
        most = max(pto, FAST_PROBE if duration < ACTIVE_PHASE else SLOW_PROBE)
        # The exponent is bounded: 1.5^16 is far beyond every limit above.
        return min(pto * BACKOFF ** min(self.probes, 16), most)

    def liveness_at(self) -> float:
        """When a client with an open stream asks whether the server is alive."""
        wait = LIVENESS_AFTER_ANSWER if self._pinged else LIVENESS
        return self.heard_at + wait

    def stalled_at(self, pto: float) -> float | None:
        return None if self.since is None else self.since + max(STALL_PTOS * pto, STALL)

    def gives_up_at(self) -> float | None:
        return None if self.since is None else self.since + GIVE_UP
