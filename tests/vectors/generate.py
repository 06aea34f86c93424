"""Writes the published test vectors beside this file: python tests/vectors/generate.py

Bytes are in hexadecimal. The inputs are fixed, so that another implementation, and this one later,
must reach the same outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from eloquent.protocol.crypto import (
    Aead,
    FirstFlightKeys,
    KeyShare,
    Protector,
    context,
    expand,
    extract,
)
from eloquent.protocol.ticket import KeyRing, Ticket, TicketIssuer
from eloquent.protocol.wire import VERSION

FOLDER = Path(__file__).parent

# The private keys of RFC 7748 section 6.1, so that shares and result are known from elsewhere too.
CLIENT_PRIVATE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
SERVER_PRIVATE = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")

SECRET = bytes(range(32))
SEALED_TICKET = hashlib.sha512(b"a sealed ticket").digest() * 3
AAD = bytes.fromhex("4401020304050607080000002a")
PLAINTEXT = b"each datagram renders alone"
PACKET_NUMBERS = (0, 1, 42, 2**32 - 1)


def fixed_entropy() -> Callable[[int], bytes]:
    """Not random at all: call n returns bytes of the value n, from 1 on."""
    calls = 0

    def entropy(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return bytes([calls]) * size

    return entropy


def _protector(secret: bytes, aead: Aead) -> dict[str, object]:
    protector = Protector(secret, aead)
    return {
        "secret": secret.hex(),
        "key": expand(secret, b"eloquent key", aead.key_size).hex(),
        "iv": expand(secret, b"eloquent iv", 12).hex(),
        "next_secret": expand(secret, b"eloquent update", 32).hex(),
        "sealed": {str(pn): protector.seal(pn, AAD, PLAINTEXT).hex() for pn in PACKET_NUMBERS},
        "sealed_after_update": {"43": protector.next().seal(43, AAD, PLAINTEXT).hex()},
    }


def _key_case(aead: Aead) -> dict[str, object]:
    client, server = KeyShare(CLIENT_PRIVATE), KeyShare(SERVER_PRIVATE)
    dh = client.exchange(server.public)
    prk = extract(client.public, SECRET)
    prk1 = extract(client.public + server.public, SECRET + dh)

    def secret(root: bytes, label: bytes) -> bytes:
        return expand(root, context(label, aead, SEALED_TICKET), 32)

    first = FirstFlightKeys(SECRET, aead, client.public, SEALED_TICKET)
    nonce = bytes(range(12))
    return {
        "version": VERSION,
        "aead": int(aead),
        "ticket_secret": SECRET.hex(),
        "sealed_ticket": SEALED_TICKET.hex(),
        "client_private": CLIENT_PRIVATE.hex(),
        "client_share": client.public.hex(),
        "server_private": SERVER_PRIVATE.hex(),
        "server_share": server.public.hex(),
        "x25519": dh.hex(),
        "aad": AAD.hex(),
        "plaintext": PLAINTEXT.hex(),
        "prk": prk.hex(),
        "prk1": prk1.hex(),
        "c0": _protector(secret(prk, b"eloquent c0"), aead),
        "c1": _protector(secret(prk1, b"eloquent c1"), aead),
        "s1": _protector(secret(prk1, b"eloquent s1"), aead),
        "refused": {"nonce": nonce.hex(), "sealed": first.seal_refusal(nonce, AAD, PLAINTEXT).hex()},
    }


def key_vectors() -> dict[str, object]:
    """The key schedule and packet protection, for each cipher."""
    return {"cases": [_key_case(aead) for aead in Aead]}


def _ticket_case(ticket: Ticket, inputs: dict[str, object]) -> dict[str, object]:
    return {
        **inputs,
        "id": ticket.id.hex(),
        "secret": ticket.secret.hex(),
        "sealed": ticket.sealed.hex(),
        "ticket": ticket.to_bytes().hex(),
        "text": ticket.encode(),
    }


def ticket_vectors() -> dict[str, object]:
    """A first-use and a resumption ticket; the new key seals, and the old one must still open."""
    entropy = fixed_entropy()
    old = KeyRing.generate(entropy)
    new = old.rotate(entropy)
    ipv4, ipv6 = ("192.0.2.1", 4433), ("2001:db8::1", 4433)
    claims: dict[str, object] = {"sub": "user-17", "plan": ["text", 3]}
    group = b"a group of 16 by"
    first_use = TicketIssuer(new, worker=513, ipv4=ipv4, ipv6=ipv6, entropy=entropy)
    resumption = TicketIssuer(old, ipv4=ipv4, aead=Aead.CHACHA20_POLY1305, entropy=entropy)
    return {
        "key_file": new.format(),
        "sealing_keys": [[key_id.hex(), key.hex()] for key_id, key in new],
        "cases": [
            _ticket_case(
                first_use.issue(claims, wall_now=1_750_000_000.25),
                {
                    "kind": 0,
                    "aead": 0,
                    "issued_at": 1_750_000_000.25,
                    "lifetime_s": 60.0,
                    "worker": 513,
                    "claims": claims,
                    "group": "",
                    "ipv4": list(ipv4),
                    "ipv6": list(ipv6),
                },
            ),
            _ticket_case(
                resumption.issue_resumption(group, {}, 420.0, wall_now=1_750_000_060.5),
                {
                    "kind": 1,
                    "aead": 1,
                    "issued_at": 1_750_000_060.5,
                    "lifetime_s": 420.0,
                    "worker": 0,
                    "claims": {},
                    "group": group.hex(),
                    "ipv4": list(ipv4),
                    "ipv6": None,
                },
            ),
        ],
    }


def main() -> None:
    # Found beside this file when it is run; the tests read this file without its folder.
    from record import datagram_vectors

    everything = {"keys": key_vectors(), "tickets": ticket_vectors(), "datagrams": datagram_vectors()}
    for name, vectors in everything.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(vectors, indent=2) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
