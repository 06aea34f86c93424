"""Tickets: who may talk to a server, decided before the first datagram (protocol 6).

The application's HTTPS endpoint, where its users already log in, issues a ticket. The client gets
it as a MessagePack array, in JSON as unpadded base64url text::

    [1, id (16), lifetime in s, IPv4 address or nil, IPv6 address or nil, AEAD, secret (32), sealed]

with an address as [host, port]. `sealed` is the same for the server, which shares nothing with the
issuer but the sealing keys::

    key id (4) | nonce (12) | AES-256-GCM(array), with the key id as associated data

    [1, kind, id (16), secret (32), AEAD, issued at, lifetime in s, worker, claims, group]

`issued at` is in seconds since 1970, a float so that a ticket never looks older than the server
that has just issued it. `kind` is 0 for first use, 1 for resumption; `group` is the 16 bytes that
name a log group, empty for first use. Only servers read wall time; the client's lifetime is
relative.

A nonce is 96 random bits: a sealing key is good for 2^32 tickets (NIST SP 800-38D section 8.3).
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eloquent.errors import ConfigurationError, TicketError
from eloquent.protocol.crypto import SECRET_SIZE, Aead

FORMAT = 1
ID_SIZE = 16
GROUP_SIZE = 16
KEY_ID_SIZE = 4
SEALING_KEY_SIZE = 32
_NONCE_SIZE = 12
_TAG_SIZE = 16

MAX_CLAIMS = 256
"""Bytes of MessagePack: who the user is, not a profile; it travels in each first datagram."""

MAX_SEALED = 512
"""Bytes; leaves room for a prompt of 600 bytes in a first datagram of 1200."""

MAX_HOST = 253
"""Characters of a host name (RFC 1035 section 2.3.4)."""

MAX_WORKER = 2**16 - 1

MAX_LIFETIME = 30 * 86400.0
"""Seconds, arbitrary: servers remember used tickets for their lifetime, so it must end."""

Address = tuple[str, int]
"""Host name or IP address, and port."""

Entropy = Callable[[int], bytes]
"""Returns so many random bytes, fit for keys."""

_HOST = re.compile(rf"[!-~]{{1,{MAX_HOST}}}")
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]+={0,2}")


class KeyRing:
    """The keys that seal tickets: the newest, first one seals, all of them open.

    An old key has to stay until the last ticket under it has expired.
    """

    def __init__(self, keys: Sequence[tuple[bytes, bytes]]) -> None:
        if not keys:
            raise ConfigurationError("a key ring needs at least one key")
        for key_id, key in keys:
            if len(key_id) != KEY_ID_SIZE or len(key) != SEALING_KEY_SIZE:
                raise ConfigurationError(
                    f"a sealing key is {KEY_ID_SIZE} bytes of id and {SEALING_KEY_SIZE} of key, "
                    f"not {len(key_id)} and {len(key)}"
                )
        self._keys = dict(keys)
        if len(self._keys) != len(keys):
            raise ConfigurationError("two sealing keys have the same id")

    @classmethod
    def generate(cls, entropy: Entropy) -> KeyRing:
        """A ring of one new key."""
        return cls([(entropy(KEY_ID_SIZE), entropy(SEALING_KEY_SIZE))])

    def rotate(self, entropy: Entropy) -> KeyRing:
        """This ring with a new key in front of it.

        Where issuer and servers are different machines, the servers must have the new ring first.
        """
        return KeyRing([(entropy(KEY_ID_SIZE), entropy(SEALING_KEY_SIZE)), *self])

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Read what `format` writes; blank lines and lines that start with # are skipped."""
        keys: dict[bytes, bytes] = {}
        for number, line in enumerate(text.splitlines(), 1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            key_id, key = _parse_key(entry, number)
            if key_id in keys:
                raise ConfigurationError(f"line {number}: a second key with the id {key_id.hex()}")
            keys[key_id] = key
        if not keys:
            raise ConfigurationError("no sealing key found: every line is blank or a comment")
        return cls(list(keys.items()))

    def format(self) -> str:
        """One line per key, newest first: the id as 8 hexadecimal digits, a colon, the key as base64."""
        return "".join(f"{key_id.hex()}:{base64.b64encode(key).decode()}\n" for key_id, key in self)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of id and key, newest first."""
        return iter(self._keys.items())

    def __len__(self) -> int:
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, KeyRing) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by value, never a dictionary's key

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(key_id.hex() for key_id, _ in self)})"


def _parse_key(entry: str, number: int) -> tuple[bytes, bytes]:
    """One line of a key file; the errors say where, and never show what may be a key."""
    id_text, colon, key_text = entry.partition(":")
    if not colon or not re.fullmatch(r"[0-9a-fA-F]{8}", id_text):
        raise ConfigurationError(
            f"line {number}: not a sealing key (8 hexadecimal digits, a colon, 32 bytes as base64)"
        )
    try:
        key = base64.b64decode(key_text, validate=True)
    except ValueError:
        raise ConfigurationError(f"line {number}: the key is not base64") from None
    if len(key) != SEALING_KEY_SIZE:
        raise ConfigurationError(f"line {number}: the key has {len(key)} bytes and needs {SEALING_KEY_SIZE}")
    return bytes.fromhex(id_text), key


class TicketKind(IntEnum):
    """What a ticket lets its holder do."""

    FIRST_USE = 0
    """Open one connection, once."""
    RESUMPTION = 1
    """Go on with the streams of one log group, any number of times."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket as the client holds it. Whoever has it can use it: send it over HTTPS only.

    Raises TicketError where a field cannot be right. A resumption ticket may lack both addresses:
    the client knows the server.
    """

    id: bytes
    lifetime_s: float
    ipv4: Address | None
    ipv6: Address | None
    aead: Aead
    secret: bytes = field(repr=False)
    sealed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _bytes("id", self.id, ID_SIZE)
        _lifetime(self.lifetime_s)
        _address("IPv4", self.ipv4)
        _address("IPv6", self.ipv6)
        _aead(self.aead)
        _bytes("secret", self.secret, SECRET_SIZE)
        _sealed(self.sealed)

    def to_bytes(self) -> bytes:
        """The binary form, as in a TICKET frame."""
        fields = (self.id, self.lifetime_s, self.ipv4, self.ipv6, self.aead, self.secret, self.sealed)
        return msgpack.packb((FORMAT, *fields))

    @classmethod
    def from_bytes(cls, data: bytes) -> Ticket:
        """Read the binary form; raises TicketError for anything that is no ticket."""
        fields = _unpack(data)
        if not fields:
            raise TicketError("these bytes are not a ticket")
        if type(fields[0]) is not int or fields[0] != FORMAT:
            raise TicketError(f"the ticket has another format than {FORMAT}, the only one known")
        if len(fields) != 8:
            raise TicketError(f"the ticket has {len(fields)} fields instead of 8")
        _, ticket_id, lifetime_s, ipv4, ipv6, aead, secret, sealed = fields
        return cls(
            id=_bytes("id", ticket_id, ID_SIZE),
            lifetime_s=_lifetime(lifetime_s),
            ipv4=_address("IPv4", ipv4),
            ipv6=_address("IPv6", ipv6),
            aead=_aead(aead),
            secret=_bytes("secret", secret, SECRET_SIZE),
            sealed=_sealed(sealed),
        )

    def encode(self) -> str:
        """The text form, for JSON: unpadded base64url (RFC 4648 section 5)."""
        return base64.urlsafe_b64encode(self.to_bytes()).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str | bytes) -> Ticket:
        """Read the text form; raises TicketError for anything that is no ticket."""
        if not isinstance(text, (str, bytes)):
            raise TicketError(f"a ticket is text, not {type(text).__name__}")
        data = (text.encode("utf-8", "replace") if isinstance(text, str) else text).strip()
        if not _BASE64URL.fullmatch(data):
            raise TicketError("this is not a ticket: it is not base64url text")
        data = data.rstrip(b"=")
        if len(data) % 4 == 1:
            raise TicketError(f"the ticket's text was cut: {len(data)} characters are no base64url")
        return cls.from_bytes(base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4)))


@dataclass(frozen=True, slots=True)
class OpenedTicket:
    """A ticket as the server reads it.

    Authentic, as the issuer had the key; whether it names this worker, has expired or was used is
    for the caller to check. `issued_at` is wall time in seconds.
    """

    kind: TicketKind
    id: bytes
    secret: bytes = field(repr=False)
    aead: Aead
    issued_at: float
    lifetime_s: float
    worker: int
    claims: dict[str, object]
    group: bytes


class TicketIssuer:
    """Issues the tickets of one worker, and opens those of every issuer with the same keys.

    `ipv4` and `ipv6` are where the clients reach this worker. `entropy` must be fit for keys.
    """

    def __init__(
        self,
        keys: KeyRing,
        *,
        worker: int = 0,
        ipv4: Address | None = None,
        ipv6: Address | None = None,
        lifetime_s: float = 60.0,
        aead: Aead = Aead.AES_128_GCM,
        entropy: Entropy,
    ) -> None:
        self._worker = _worker(worker)
        self._ipv4 = _address("IPv4", ipv4)
        self._ipv6 = _address("IPv6", ipv6)
        self._lifetime_s = _lifetime(lifetime_s)
        self._aead = _aead(aead)
        self._entropy = entropy
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys}
        self._newest = next(iter(self._ciphers))

    def issue(self, claims: Mapping[str, object] | None = None, *, wall_now: float) -> Ticket:
        """A ticket for one connection. The handler gets `claims`, at most 256 bytes as MessagePack.

        Raises TicketError where the claims do not fit or this issuer knows no address.
        """
        if self._ipv4 is None and self._ipv6 is None:
            raise TicketError("the issuer needs an address that clients reach the server at")
        return self._issue(TicketKind.FIRST_USE, b"", claims, self._lifetime_s, wall_now)

    def issue_resumption(
        self,
        group: bytes,
        claims: Mapping[str, object] | None,
        lifetime_s: float,
        *,
        wall_now: float,
    ) -> Ticket:
        """A ticket for the streams of one log group (16 bytes), good until `lifetime_s` from now."""
        _bytes("log group", group, GROUP_SIZE)
        return self._issue(TicketKind.RESUMPTION, group, claims, _lifetime(lifetime_s), wall_now)

    def _issue(
        self,
        kind: TicketKind,
        group: bytes,
        claims: Mapping[str, object] | None,
        lifetime_s: float,
        wall_now: float,
    ) -> Ticket:
        ticket_id, secret = self._entropy(ID_SIZE), self._entropy(SECRET_SIZE)
        plaintext = msgpack.packb(
            [
                FORMAT,
                kind,
                ticket_id,
                secret,
                self._aead,
                float(wall_now),
                lifetime_s,
                self._worker,
                _checked_claims(claims),
                group,
            ]
        )
        nonce = self._entropy(_NONCE_SIZE)
        ciphertext = self._ciphers[self._newest].encrypt(nonce, plaintext, self._newest)
        return Ticket(
            id=ticket_id,
            lifetime_s=lifetime_s,
            ipv4=self._ipv4,
            ipv6=self._ipv6,
            aead=self._aead,
            secret=secret,
            sealed=self._newest + nonce + ciphertext,
        )

    def open_untrusted(self, sealed: bytes) -> OpenedTicket | None:
        """What was sealed, or None for everything that was not sealed under one of the keys."""
        key_id, nonce = sealed[:KEY_ID_SIZE], sealed[KEY_ID_SIZE : KEY_ID_SIZE + _NONCE_SIZE]
        cipher = self._ciphers.get(key_id)
        if cipher is None or len(sealed) < KEY_ID_SIZE + _NONCE_SIZE + _TAG_SIZE:
            return None
        try:
            plaintext = cipher.decrypt(nonce, sealed[KEY_ID_SIZE + _NONCE_SIZE :], key_id)
            return _opened(plaintext)
        except (InvalidTag, TicketError):
            return None


def _opened(plaintext: bytes) -> OpenedTicket:
    """Read what a holder of the key has sealed: perhaps another version, so all is checked."""
    fields = _unpack(plaintext)
    if fields is None or len(fields) != 10 or fields[0] != FORMAT:
        raise TicketError("the ticket was sealed in another format")
    _, kind_number, ticket_id, secret, aead, issued_at, lifetime_s, worker, claims, group = fields
    kind = _kind(kind_number)
    if type(issued_at) is not float or not math.isfinite(issued_at):
        raise TicketError("the ticket's time of issue is not a finite float")
    if type(claims) is not dict:
        raise TicketError("the ticket's claims are not a map")
    return OpenedTicket(
        kind=kind,
        id=_bytes("id", ticket_id, ID_SIZE),
        secret=_bytes("secret", secret, SECRET_SIZE),
        aead=_aead(aead),
        issued_at=issued_at,
        lifetime_s=_lifetime(lifetime_s),
        worker=_worker(worker),
        claims=claims,
        group=_bytes("log group", group, GROUP_SIZE if kind is TicketKind.RESUMPTION else 0),
    )


def _unpack(data: bytes) -> list[object] | None:
    """The array that the data is, or None."""
    try:
        fields = msgpack.unpackb(data)
    except Exception:
        # msgpack's own errors, text that is not UTF-8, ValueError for lengths and map keys.
        return None
    return fields if type(fields) is list else None


def _checked_claims(claims: Mapping[str, object] | None) -> dict[str, object]:
    """The claims as the server will read them; raises TicketError for what it could not."""
    if claims is None:
        return {}
    if not isinstance(claims, Mapping):
        raise TicketError(f"claims are a mapping, not {type(claims).__name__}")
    for key in claims:
        if not isinstance(key, str):
            raise TicketError(f"a claim is named by a str, not by {type(key).__name__}")
    try:
        packed = msgpack.packb(dict(claims))
        read: dict[str, object] = msgpack.unpackb(packed)
    except Exception as error:
        raise TicketError(f"the claims are not representable in MessagePack: {error}") from None
    if len(packed) > MAX_CLAIMS:
        raise TicketError(f"the claims take {len(packed)} bytes as MessagePack, at most {MAX_CLAIMS} fit")
    return read


def _bytes(name: str, value: object, size: int) -> bytes:
    if type(value) is not bytes:
        raise TicketError(f"the ticket's {name} is {type(value).__name__} instead of {size} bytes")
    if len(value) != size:
        raise TicketError(f"the ticket's {name} has {len(value)} bytes instead of {size}")
    return value


def _sealed(value: object) -> bytes:
    if type(value) is not bytes or not 0 < len(value) <= MAX_SEALED:
        raise TicketError(f"the ticket's sealed part is not 1 to {MAX_SEALED} bytes")
    return value


def _lifetime(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TicketError(f"a ticket's lifetime is a number of seconds, not {type(value).__name__}")
    if not 0 < value <= MAX_LIFETIME:
        raise TicketError(f"a ticket's lifetime is above 0 and at most {MAX_LIFETIME} s, not {value!r:.40}")
    return float(value)


def _address(family: str, value: object) -> Address | None:
    """An address, which may be a list as MessagePack has no tuples."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TicketError(f"the {family} address is not a host and a port")
    host, port = value
    if type(host) is not str or not _HOST.fullmatch(host):
        raise TicketError(f"the {family} address has no usable host: {host!r:.80}")
    if type(port) is not int or not 0 < port < 65536:
        raise TicketError(f"the port of {host} is not within 1..65535: {port!r:.40}")
    return host, port


def _aead(value: object) -> Aead:
    try:
        return Aead(value)  # type: ignore[arg-type]
    except ValueError:
        raise TicketError(f"the ticket names an unknown cipher: {value!r:.40}") from None


def _kind(value: object) -> TicketKind:
    try:
        return TicketKind(value)  # type: ignore[arg-type]
    except ValueError:
        raise TicketError(f"the ticket is of an unknown kind: {value!r:.40}") from None


def _worker(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_WORKER:
        raise TicketError(f"a worker's id is an integer within 0..{MAX_WORKER}, not {value!r:.40}")
    return value
