"""Paths: validation, NAT rebinding, the amplification limit (protocol 6 and 7, RFC 9000 section 8).

A server sends at most three times the bytes that it received on a path until the path is
validated: by the first datagram under `c1`, which only a holder of the server's share can make, or
by a PATH_RESPONSE.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeAlias

Address: TypeAlias = Hashable
"""Opaque to the core. Addresses that are tuples (host, port, ...) can tell a change of port only."""

AMPLIFICATION_FACTOR = 3
REBINDING_BUDGET = 3600
"""Bytes that a path may send at first when only the port has changed."""

VALIDATION_PTOS = 3
"""PTOs after which an unanswered challenge means failure."""


class Path:
    """One peer address and what was exchanged with it."""

    __slots__ = (
        "address",
        "bonus",
        "challenge",
        "challenge_at",
        "fails_at",
        "is_validated",
        "received",
        "sent",
    )

    def __init__(self, address: Address, *, is_validated: bool, bonus: int = 0) -> None:
        self.address = address
        self.is_validated = is_validated
        self.received = 0
        self.sent = 0
        self.bonus = bonus
        self.challenge = b""
        self.challenge_at: float | None = None
        """When the challenge is due (again)."""
        self.fails_at: float | None = None

    @property
    def budget(self) -> int:
        """Bytes that may still be sent before validation."""
        return AMPLIFICATION_FACTOR * self.received + self.bonus - self.sent

    def can_send(self, size: int) -> bool:
        return self.is_validated or size <= self.budget

    def start_challenge(self, data: bytes, *, fails_at: float, now: float) -> None:
        self.challenge = data
        self.challenge_at = now
        self.fails_at = fails_at

    def on_response(self, data: bytes) -> bool:
        """A PATH_RESPONSE came; True when it answers this path's challenge."""
        if not self.challenge or data != self.challenge:
            return False
        self.end_challenge()
        self.is_validated = True
        return True

    def end_challenge(self) -> None:
        self.challenge = b""
        self.challenge_at = self.fails_at = None


def is_port_change(old: Address, new: Address) -> bool:
    """Whether two addresses are the same host with another port."""
    return isinstance(old, tuple) and isinstance(new, tuple) and len(old) >= 2 and old[0] == new[0]


class Paths:
    """The path in use, and the one before it while the new one is not validated."""

    __slots__ = ("_entropy", "active", "previous", "responses")

    def __init__(self, address: Address, *, is_validated: bool, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self.active = Path(address, is_validated=is_validated)
        self.previous: Path | None = None
        self.responses: dict[Address, bytes] = {}
        """The newest challenge from each address, to be answered there; a flood gets one answer."""

    def on_received(self, address: Address, size: int) -> None:
        for path in (self.active, self.previous):
            if path is not None and path.address == address:
                path.received += size

    def migrate(self, address: Address, size: int, *, pto: float, now: float) -> None:
        """Follow the peer to another address; the new path and the old one are challenged."""
        old = self.active
        known = self.previous
        if known is not None and known.address == address:
            # It was only away: a validated path needs no proof.
            known.end_challenge()
            self.active, self.previous = known, None
            return
        # A host that has proved nothing could be anybody: each further port would be worth a bonus.
        bonus = REBINDING_BUDGET if old.is_validated and is_port_change(old.address, address) else 0
        self.active = Path(address, is_validated=False, bonus=bonus)
        self.active.received = size
        self.previous = old if old.is_validated else known
        for path in (self.active, self.previous):
            if path is not None:
                path.start_challenge(self._entropy(8), fails_at=now + VALIDATION_PTOS * pto, now=now)

    def on_response(self, data: bytes) -> None:
        if self.active.on_response(data):
            if self.previous is not None:
                self.previous.end_challenge()
            self.previous = None
        elif self.previous is not None:
            self.previous.on_response(data)

    def due_challenges(self, *, pto: float, now: float) -> list[tuple[Address, bytes]]:
        """Challenges to send now; each comes again after a PTO."""
        due = []
        for path in (self.active, self.previous):
            if path is not None and path.challenge_at is not None and path.challenge_at <= now:
                path.challenge_at = now + pto
                due.append((path.address, path.challenge))
        return due

    def on_timer(self, *, pto: float, now: float) -> bool:
        """Go back where validation has failed (RFC 9000 section 9.3.2); True when it did."""
        active, previous = self.active, self.previous
        if previous is not None and previous.fails_at is not None and previous.fails_at <= now:
            previous.end_challenge()
        if active.fails_at is None or active.fails_at > now:
            return False
        if previous is None:
            # There is no other path: keep asking, within the amplification limit.
            active.start_challenge(self._entropy(8), fails_at=now + VALIDATION_PTOS * pto, now=now)
            return False
        active.end_challenge()
        self.active, self.previous = previous, None
        return True

    @property
    def is_challenging(self) -> bool:
        """Whether any validation is going on."""
        return self.previous is not None or self.active.challenge_at is not None

    def next_at(self) -> float | None:
        if not self.is_challenging:
            return None
        times = [
            at
            for path in (self.active, self.previous)
            if path is not None
            for at in (path.challenge_at, path.fails_at)
            if at is not None
        ]
        return min(times, default=None)

    def path_of(self, address: Address) -> Path | None:
        for path in (self.active, self.previous):
            if path is not None and path.address == address:
                return path
        return None
