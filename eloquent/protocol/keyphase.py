"""Key updates within a connection, each direction by itself (protocol 6).

The header's key phase bit tells which of two neighbouring keys protects a datagram. The sender
changes keys after so many datagrams or so long, and only once the peer has acknowledged a datagram
under the current key: so the peer is never more than one key behind, and one bit is enough.

The receiver tells the previous key from the next one by the packet number. Packet numbers only
grow across keys, so under the other phase a number below the first one seen under the current key
can only be an old datagram and a number above it only a new one. One AEAD call decides each
datagram, and nothing changes before it has succeeded: a flipped bit costs the attacker's datagram.
"""

from __future__ import annotations

from eloquent.protocol.crypto import Protector

UPDATE_AFTER_DATAGRAMS = 2**24
"""Far below the 2^28 datagrams of this size that AES-GCM's confidentiality bound allows."""

UPDATE_AFTER = 3600.0
"""Seconds under one key (protocol 6)."""

OLD_KEY_PTOS = 3
"""PTOs for which datagrams that the update overtook are still opened (RFC 9001 section 6.5)."""


class SendKeys:
    """The key under which this side sends."""

    __slots__ = ("_confirmed", "_first", "_protector", "_sealed", "_since", "phase")

    def __init__(self, protector: Protector, *, now: float) -> None:
        self.phase = 0
        self._start(protector, now)

    def _start(self, protector: Protector, now: float) -> None:
        self._protector = protector
        self._since = now
        self._sealed = 0
        self._first = 0
        self._confirmed = False

    def seal(self, packet_number: int, aad: bytes, plaintext: bytes) -> bytes:
        """Seal under the current key; packet numbers must grow from call to call."""
        if not self._sealed:
            self._first = packet_number
        self._sealed += 1
        return self._protector.seal(packet_number, aad, plaintext)

    def on_ack(self, largest: int) -> None:
        """The peer has received the packet `largest`, and so this key if the packet is under it."""
        if self._sealed and largest >= self._first:
            self._confirmed = True

    def update_if_due(self, *, now: float) -> bool:
        """Change to the next key if it is time and the peer is known to have the current one."""
        worn = self._sealed >= UPDATE_AFTER_DATAGRAMS or now - self._since >= UPDATE_AFTER
        if not (worn and self._confirmed):
            return False
        self.phase ^= 1
        self._start(self._protector.next(), now)
        return True


class ReceiveKeys:
    """The keys under which the peer may send: current, next and, for a while, previous."""

    __slots__ = ("_current", "_first", "_next", "_phase", "_previous", "_previous_until")

    def __init__(self, protector: Protector) -> None:
        self._current = protector
        self._phase = 0
        # Lowest packet number seen under the current key; unknown and not needed for the first key.
        self._first = -1
        self._next: Protector | None = None
        self._previous: Protector | None = None
        self._previous_until = 0.0

    def open(
        self, phase: int, packet_number: int, aad: bytes, ciphertext: bytes, *, now: float, pto: float
    ) -> bytes | None:
        """The plaintext, or None if the datagram is not authentic or its key is gone.

        `pto` in seconds: the first datagram under a new key keeps the old one for three of them.
        """
        if self._previous is not None and now >= self._previous_until:
            self._previous = None
        if phase == self._phase:
            plaintext = self._current.open(packet_number, aad, ciphertext)
            if packet_number < self._first and plaintext is not None:
                self._first = packet_number
            return plaintext
        if packet_number < self._first:
            old = self._previous
            return None if old is None else old.open(packet_number, aad, ciphertext)
        return self._open_next(packet_number, aad, ciphertext, now + OLD_KEY_PTOS * pto)

    def _open_next(
        self, packet_number: int, aad: bytes, ciphertext: bytes, keep_until: float
    ) -> bytes | None:
        # Kept once derived: a stream of forged phase bits must not cost a derivation each.
        if self._next is None:
            self._next = self._current.next()
        plaintext = self._next.open(packet_number, aad, ciphertext)
        if plaintext is not None:
            self._previous, self._previous_until = self._current, keep_until
            self._current, self._next = self._next, None
            self._phase ^= 1
            self._first = packet_number
        return plaintext
