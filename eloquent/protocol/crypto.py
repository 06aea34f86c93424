"""Packet protection: the key schedule, one key's AEAD, and the replay window (protocol 6).

The schedule is HKDF-SHA-256 (RFC 5869). Every secret and key is at most 32 bytes, so that each
Expand is one HMAC, which browsers offer too::

    context(label) = label | version (1 byte) | AEAD (1 byte) | SHA-256(sealed ticket)

    prk     = Extract(salt = client share, ikm = ticket secret)
    c0      = Expand(prk, context("eloquent c0"), 32)        the client's first flight
    refused = Expand(prk, context("eloquent refused"), key)  the stateless refusal

    prk1    = Extract(salt = client share | server share, ikm = ticket secret | X25519)
    c1      = Expand(prk1, context("eloquent c1"), 32)       client to server
    s1      = Expand(prk1, context("eloquent s1"), 32)       server to client

and for c0, c1, s1 and what follows them on a key update::

    key         = Expand(secret, "eloquent key", 16 or 32)
    IV          = Expand(secret, "eloquent iv", 12)
    next secret = Expand(secret, "eloquent update", 32)

The nonce is the IV whose last 4 bytes are XORed with the packet number, big-endian. One sequence
of packet numbers per direction runs across all keys. c0 alone would rest on the ticket's secret;
the exchange makes what follows the first round trip secret even to who learns the ticket later.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from eloquent.protocol.wire import VERSION, WireError

SECRET_SIZE = 32
_IV_SIZE = 12

REPLAY_WINDOW = 1024
"""Packets up to the largest one whose repetition is recognised; older ones are refused unseen."""

_WINDOW_MASK = (1 << REPLAY_WINDOW) - 1


class Aead(IntEnum):
    """The cipher of a connection; the ticket names it."""

    AES_128_GCM = 0
    CHACHA20_POLY1305 = 1

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return 16 if self is Aead.AES_128_GCM else 32


def extract(salt: bytes, key_material: bytes) -> bytes:
    """HKDF-Extract, which is one HMAC (RFC 5869 section 2.2)."""
    return hmac.digest(salt, key_material, "sha256")


def expand(secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand (RFC 5869 section 2.3)."""
    return HKDFExpand(SHA256(), size, info).derive(secret)


def context(label: bytes, aead: Aead, sealed_ticket: bytes) -> bytes:
    """Bind what is derived to the version, the cipher and the ticket."""
    return label + bytes((VERSION, aead)) + hashlib.sha256(sealed_ticket).digest()


def _cipher(aead: Aead, key: bytes) -> AESGCM | ChaCha20Poly1305:
    return AESGCM(key) if aead is Aead.AES_128_GCM else ChaCha20Poly1305(key)


class Protector:
    """One key and IV, for one direction, derived from a traffic secret of 32 bytes.

    A packet number may be sealed once only: the caller owns the sequence. Numbers from 2^32 raise
    OverflowError instead of repeating a nonce.
    """

    __slots__ = ("_aead", "_decrypt", "_encrypt", "_iv_head", "_iv_tail", "_secret")

    def __init__(self, secret: bytes, aead: Aead) -> None:
        cipher = _cipher(aead, expand(secret, b"eloquent key", aead.key_size))
        iv = expand(secret, b"eloquent iv", _IV_SIZE)
        self._secret = secret
        self._aead = aead
        # Bound methods and the split IV are kept: both calls are made for every datagram.
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt
        self._iv_head = iv[:8]
        self._iv_tail = int.from_bytes(iv[8:], "big")

    def seal(self, packet_number: int, aad: bytes, plaintext: bytes) -> bytes:
        """The ciphertext with its tag, 16 bytes longer than the plaintext."""
        nonce = self._iv_head + (self._iv_tail ^ packet_number).to_bytes(4, "big")
        return self._encrypt(nonce, plaintext, aad)

    def open(self, packet_number: int, aad: bytes, ciphertext: bytes) -> bytes | None:
        """The plaintext, or None if anything is not as the peer sealed it."""
        nonce = self._iv_head + (self._iv_tail ^ packet_number).to_bytes(4, "big")
        try:
            return self._decrypt(nonce, ciphertext, aad)
        except InvalidTag:
            return None

    def next(self) -> Protector:
        """The key that follows on a key update."""
        return Protector(expand(self._secret, b"eloquent update", SECRET_SIZE), self._aead)


class KeyShare:
    """One side of an X25519 exchange, from 32 random bytes that are used for nothing else."""

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()

    def exchange(self, peer_public: bytes) -> bytes:
        """The shared secret, 32 bytes.

        Raises WireError where the peer's share is no key or forces an all-zero result, as RFC 7748
        section 6.1 asks.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            raise WireError("the peer's key share is not usable") from None


class FirstFlightKeys:
    """What both sides can derive from the ticket and the client's share alone."""

    __slots__ = ("_aead", "_refusal_info", "_root", "c0")

    def __init__(self, secret: bytes, aead: Aead, client_share: bytes, sealed_ticket: bytes) -> None:
        self._aead = aead
        self._root = extract(client_share, secret)
        self._refusal_info = context(b"eloquent refused", aead, sealed_ticket)
        c0 = expand(self._root, context(b"eloquent c0", aead, sealed_ticket), SECRET_SIZE)
        self.c0 = Protector(c0, aead)

    def seal_refusal(self, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
        """Seal the server's refusal under 12 random bytes: a stateless server counts nothing."""
        return self._refusal_cipher().encrypt(nonce, plaintext, aad)

    def open_refusal(self, nonce: bytes, aad: bytes, ciphertext: bytes) -> bytes | None:
        """The plaintext of a refusal, or None if it is not authentic."""
        try:
            return self._refusal_cipher().decrypt(nonce, ciphertext, aad)
        except InvalidTag:
            return None

    def _refusal_cipher(self) -> AESGCM | ChaCha20Poly1305:
        """Derived when asked for: most first flights are never refused."""
        key = expand(self._root, self._refusal_info, self._aead.key_size)
        return _cipher(self._aead, key)


def derive_session(
    secret: bytes,
    dh: bytes,
    client_share: bytes,
    server_share: bytes,
    aead: Aead,
    sealed_ticket: bytes,
) -> tuple[Protector, Protector]:
    """The first protectors of the session: c1 (client to server) and s1 (server to client)."""
    root = extract(client_share + server_share, secret + dh)
    c1 = expand(root, context(b"eloquent c1", aead, sealed_ticket), SECRET_SIZE)
    s1 = expand(root, context(b"eloquent s1", aead, sealed_ticket), SECRET_SIZE)
    return Protector(c1, aead), Protector(s1, aead)


class ReplayWindow:
    """Which of the last 1024 packet numbers were received.

    Bit i of the window stands for packet `largest - i`. `mark` only what was authentic: a forged
    packet number must not move the window.
    """

    __slots__ = ("_window", "largest")

    def __init__(self) -> None:
        self.largest = -1
        self._window = 0

    def is_new(self, packet_number: int) -> bool:
        """Whether the packet was not received yet; False also where it is too old to tell."""
        age = self.largest - packet_number
        return age < 0 or (age < REPLAY_WINDOW and not self._window >> age & 1)

    def mark(self, packet_number: int) -> None:
        """Record an authentic packet that `is_new`."""
        age = self.largest - packet_number
        if age >= 0:
            self._window |= 1 << age
            return
        self.largest = packet_number
        # A jump may be as wide as 2^32; shifting by it would allocate half a gigabyte.
        self._window = (self._window << -age | 1) & _WINDOW_MASK if -age < REPLAY_WINDOW else 1

    def missing(self, width: int = 64) -> int:
        """The packets not received among the `width` before the largest: bit i is largest - 1 - i."""
        asked = (2 << max(0, min(width, self.largest))) - 2
        return (self._window & asked ^ asked) >> 1
