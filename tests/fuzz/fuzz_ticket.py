# Whatever the bytes, a ticket is read or refused with TicketError, and a server opens it or says
# None: also what was sealed under its own key by another program.

import contextlib
import sys

import atheris

with atheris.instrument_imports():
    from eloquent.errors import ConfigurationError, TicketError
    from eloquent.protocol.ticket import KeyRing, Ticket, TicketIssuer

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_ID, KEY, NONCE = bytes(4), bytes(32), bytes(12)
CIPHER = AESGCM(KEY)
ISSUER = TicketIssuer(KeyRing([(KEY_ID, KEY)]), ipv4=("192.0.2.1", 4433), entropy=bytes)
# The corpus holds what ISSUER's key sealed, so that is no forgery; nothing there is under this key.
STRANGER = TicketIssuer(KeyRing([(KEY_ID, bytes(31) + b"k")]), ipv4=("192.0.2.1", 4433), entropy=bytes)


def test_one_input(data: bytes) -> None:
    for read in (Ticket.from_bytes, Ticket.decode):
        with contextlib.suppress(TicketError):
            ticket = read(data)
            assert Ticket.from_bytes(ticket.to_bytes()) == ticket
            assert Ticket.decode(ticket.encode()) == ticket
    with contextlib.suppress(ConfigurationError):
        KeyRing.parse(data.decode("utf-8", "replace"))
    assert STRANGER.open_untrusted(data) is None
    ISSUER.open_untrusted(data)
    ISSUER.open_untrusted(KEY_ID + NONCE + CIPHER.encrypt(NONCE, data, KEY_ID))


atheris.Setup(sys.argv, test_one_input)
atheris.Fuzz()
