"""Tickets: the published vectors, round trips, limits, and bytes from anyone."""

import json
import os
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError, TicketError
from eloquent.protocol.crypto import Aead
from eloquent.protocol.ticket import (
    MAX_CLAIMS,
    MAX_HOST,
    MAX_LIFETIME,
    MAX_SEALED,
    MAX_WORKER,
    KeyRing,
    OpenedTicket,
    Ticket,
    TicketIssuer,
    TicketKind,
)
from eloquent.protocol.wire import DATA_OVERHEAD, INITIAL_OVERHEAD, MAX_DATAGRAM

VECTORS = Path(__file__).parents[1] / "vectors"
PUBLISHED: dict[str, Any] = json.loads((VECTORS / "tickets.json").read_text())
each_case = pytest.mark.parametrize("case", PUBLISHED["cases"], ids=["first use", "resumption"])

ADDRESS = ("192.0.2.1", 4433)
# From a seed: xdist wants the same test ids in each of its processes.
RING = KeyRing.generate(Random(0).randbytes)
GROUP = bytes(range(16))


def issuer(keys: KeyRing = RING, **settings: Any) -> TicketIssuer:
    return TicketIssuer(keys, **{"ipv4": ADDRESS, "entropy": os.urandom} | settings)


def listed_entropy(*values: str) -> Callable[[int], bytes]:
    """Hands out these values, in hexadecimal, and fails if another size is asked for."""
    left = [bytes.fromhex(value) for value in values]

    def entropy(size: int) -> bytes:
        value = left.pop(0)
        assert len(value) == size
        return value

    return entropy


@each_case
def test_sealed_vectors_follow_from_the_text(case: dict[str, Any]) -> None:
    sealed = bytes.fromhex(case["sealed"])
    key = dict(PUBLISHED["sealing_keys"])[sealed[:4].hex()]
    plaintext = AESGCM(bytes.fromhex(key)).decrypt(sealed[4:16], sealed[16:], sealed[:4])
    assert msgpack.unpackb(plaintext) == [
        1,
        case["kind"],
        bytes.fromhex(case["id"]),
        bytes.fromhex(case["secret"]),
        case["aead"],
        case["issued_at"],
        case["lifetime_s"],
        case["worker"],
        case["claims"],
        bytes.fromhex(case["group"]),
    ]


@each_case
def test_clients_vectors_follow_from_the_text(case: dict[str, Any]) -> None:
    assert msgpack.unpackb(bytes.fromhex(case["ticket"])) == [
        1,
        bytes.fromhex(case["id"]),
        case["lifetime_s"],
        case["ipv4"],
        case["ipv6"],
        case["aead"],
        bytes.fromhex(case["secret"]),
        bytes.fromhex(case["sealed"]),
    ]


@each_case
def test_the_library_reads_the_vectors(case: dict[str, Any]) -> None:
    ticket = Ticket.decode(case["text"])
    assert ticket == Ticket.from_bytes(bytes.fromhex(case["ticket"]))
    assert ticket.encode() == case["text"]
    assert ticket.ipv4 == tuple(case["ipv4"])
    opened = issuer(KeyRing.parse(PUBLISHED["key_file"])).open_untrusted(ticket.sealed)
    assert opened == OpenedTicket(
        kind=TicketKind(case["kind"]),
        id=ticket.id,
        secret=ticket.secret,
        aead=ticket.aead,
        issued_at=case["issued_at"],
        lifetime_s=ticket.lifetime_s,
        worker=case["worker"],
        claims=case["claims"],
        group=bytes.fromhex(case["group"]),
    )


def test_the_library_writes_the_first_use_vector() -> None:
    case = PUBLISHED["cases"][0]
    nonce = case["sealed"][8:32]
    written = TicketIssuer(
        KeyRing.parse(PUBLISHED["key_file"]),
        worker=case["worker"],
        ipv4=tuple(case["ipv4"]),
        ipv6=tuple(case["ipv6"]),
        lifetime_s=case["lifetime_s"],
        entropy=listed_entropy(case["id"], case["secret"], nonce),
    ).issue(case["claims"], wall_now=case["issued_at"])
    assert written.to_bytes().hex() == case["ticket"]


def test_published_ticket_vectors_are_current() -> None:
    assert runpy.run_path(str(VECTORS / "generate.py"))["ticket_vectors"]() == PUBLISHED


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)
claims_maps = st.dictionaries(st.text(max_size=10), json_values, max_size=3).filter(
    lambda claims: len(msgpack.packb(claims)) <= MAX_CLAIMS
)


@given(
    claims_maps, st.sampled_from(Aead), st.integers(0, MAX_WORKER), st.floats(0, 4e9), st.floats(1e-3, 1e6)
)
def test_what_is_issued_opens(
    claims: dict[str, Any], aead: Aead, worker: int, wall_now: float, lifetime_s: float
) -> None:
    ours = issuer(worker=worker, aead=aead, lifetime_s=lifetime_s)
    ticket = ours.issue(claims, wall_now=wall_now)
    assert Ticket.decode(ticket.encode()) == Ticket.decode(ticket.encode().encode()) == ticket
    # A server that shares nothing but the keys; `issued_at` is exact, not rounded down to look older.
    assert issuer().open_untrusted(ticket.sealed) == OpenedTicket(
        TicketKind.FIRST_USE, ticket.id, ticket.secret, aead, wall_now, lifetime_s, worker, claims, b""
    )


def test_a_resumption_ticket_names_its_group_and_needs_no_address() -> None:
    ours = issuer(ipv4=None)
    ticket = ours.issue_resumption(GROUP, {"sub": "u"}, 420, wall_now=5.0)
    assert Ticket.from_bytes(ticket.to_bytes()) == ticket
    assert (ticket.ipv4, ticket.ipv6, ticket.lifetime_s) == (None, None, 420.0)
    opened = ours.open_untrusted(ticket.sealed)
    assert opened is not None
    assert (opened.kind, opened.group, opened.claims) == (TicketKind.RESUMPTION, GROUP, {"sub": "u"})


def test_ids_secrets_and_nonces_are_never_used_twice() -> None:
    ours = issuer()
    tickets = [ours.issue(wall_now=0.0) for _ in range(500)]
    assert len({ticket.id for ticket in tickets}) == 500
    assert len({ticket.secret for ticket in tickets}) == 500
    assert len({ticket.sealed[4:16] for ticket in tickets}) == 500


def test_the_newest_key_seals_and_an_old_one_still_opens() -> None:
    rotated = RING.rotate(os.urandom)
    before = issuer().issue(wall_now=0.0).sealed
    after = issuer(rotated).issue(wall_now=0.0).sealed
    assert after[:4] == next(iter(rotated))[0] != before[:4]
    assert issuer(rotated).open_untrusted(before) is not None
    assert issuer(rotated).open_untrusted(after) is not None
    assert issuer().open_untrusted(after) is None


def largest_claims() -> dict[str, str]:
    claims = {"sub": "x" * (MAX_CLAIMS - 8)}
    assert len(msgpack.packb(claims)) == MAX_CLAIMS - 1
    return {"sub": claims["sub"] + "x"}


def test_a_first_flight_leaves_600_bytes_for_the_prompt() -> None:
    sealed = issuer(worker=MAX_WORKER).issue(largest_claims(), wall_now=1.75e9).sealed
    assert MAX_DATAGRAM - INITIAL_OVERHEAD - len(sealed) >= 600
    # The same for the largest that a client accepts from an issuer of another make.
    assert MAX_DATAGRAM - INITIAL_OVERHEAD - MAX_SEALED >= 600


def test_the_largest_resumption_ticket_fits_a_datagram() -> None:
    host = "h" * MAX_HOST
    ticket = issuer(ipv4=(host, 65535), ipv6=(host, 65535), worker=MAX_WORKER).issue_resumption(
        GROUP, largest_claims(), MAX_LIFETIME, wall_now=1.75e9
    )
    assert len(ticket.to_bytes()) + 20 <= MAX_DATAGRAM - DATA_OVERHEAD


def test_claims_of_256_bytes_fit_and_of_257_do_not() -> None:
    claims = largest_claims()
    opened = issuer().open_untrusted(issuer().issue(claims, wall_now=0.0).sealed)
    assert opened is not None
    assert opened.claims == claims
    with pytest.raises(TicketError, match=r"257 bytes as MessagePack, at most 256"):
        issuer().issue({"sub": claims["sub"] + "x"}, wall_now=0.0)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (["sub"], "claims are a mapping, not list"),
        ({1: "sub"}, "named by a str, not by int"),
        ({"of": {1: 2}}, "not representable"),
        ({"at": object()}, "not representable"),
        ({"n": 2**64}, "not representable"),
        ({"s": "\ud800"}, "not representable"),
    ],
)
def test_claims_that_the_server_could_not_read(claims: Any, message: str) -> None:
    with pytest.raises(TicketError, match=message):
        issuer().issue(claims, wall_now=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"worker": 65536}, r"within 0\.\.65535, not 65536"),
        ({"worker": "1"}, "within"),
        ({"ipv4": ("", 4433)}, "no usable host: ''"),
        ({"ipv4": ("two words", 4433)}, "no usable host"),
        ({"ipv6": ("h" * 254, 4433)}, "IPv6 address has no usable host"),
        ({"ipv4": ("host", 0)}, r"port of host is not within 1\.\.65535: 0"),
        ({"ipv4": ("host", "4433")}, "port of host"),
        ({"ipv4": "host:4433"}, "not a host and a port"),
        ({"lifetime_s": 0}, "above 0"),
        ({"lifetime_s": float("nan")}, "above 0"),
        ({"lifetime_s": float("inf")}, "at most"),
        ({"lifetime_s": "60"}, "number of seconds, not str"),
        ({"lifetime_s": True}, "number of seconds, not bool"),
        ({"aead": 7}, "unknown cipher: 7"),
    ],
)
def test_settings_that_no_ticket_can_have(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TicketError, match=message):
        issuer(**settings)


def test_an_issuer_without_an_address_issues_no_first_use_tickets() -> None:
    with pytest.raises(TicketError, match="needs an address"):
        issuer(ipv4=None).issue(wall_now=0.0)


def test_a_group_has_16_bytes() -> None:
    with pytest.raises(TicketError, match="log group has 15 bytes instead of 16"):
        issuer().issue_resumption(bytes(15), None, 60.0, wall_now=0.0)


TICKET = issuer().issue({"sub": "u"}, wall_now=1.75e9)
FIELDS = msgpack.unpackb(TICKET.to_bytes())


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, 2, "another format than 1"),
        (0, True, "another format than 1"),
        (0, "1", "another format than 1"),
        (1, bytes(15), "id has 15 bytes instead of 16"),
        (1, "x" * 16, "id is str instead of 16 bytes"),
        (2, -1.0, "lifetime is above 0"),
        (2, None, "lifetime is a number of seconds, not NoneType"),
        (3, ["host"], "IPv4 address is not a host and a port"),
        (4, [b"host", 1], "IPv6 address has no usable host"),
        (4, ["host", 65536], "port of host"),
        (5, 2, "unknown cipher: 2"),
        (5, [], "unknown cipher"),
        (6, bytes(31), "secret has 31 bytes instead of 32"),
        (7, b"", "sealed part"),
        (7, bytes(MAX_SEALED + 1), "sealed part is not 1 to 512 bytes"),
    ],
)
def test_a_ticket_with_a_wrong_field_says_which(position: int, value: Any, message: str) -> None:
    fields = [*FIELDS[:position], value, *FIELDS[position + 1 :]]
    with pytest.raises(TicketError, match=message) as caught:
        Ticket.from_bytes(msgpack.packb(fields))
    assert TICKET.secret.hex() not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not base64url"),
        ("{}", "not base64url"),
        ("a+/b", "not base64url"),
        ("ticket é", "not base64url"),
        (TICKET.encode() + "=" * 3, "not base64url"),
        ("abcde", "was cut"),
        ("AAAA", "not a ticket"),
        (TICKET.encode()[:-4], "not a ticket"),
        (TICKET.encode() + "AAAA", "not a ticket"),
        (17, "a ticket is text, not int"),
        (None, "a ticket is text, not NoneType"),
    ],
)
def test_text_that_is_no_ticket(text: Any, message: str) -> None:
    with pytest.raises(TicketError, match=message):
        Ticket.decode(text)


def test_padding_and_white_space_around_the_text_do_no_harm() -> None:
    text = TICKET.encode()
    assert Ticket.decode(f"\n{text}{'=' * (-len(text) % 4)}\n") == TICKET


def test_a_ticket_with_a_field_too_many_or_too_few() -> None:
    for fields in (FIELDS[:-1], [*FIELDS, 0]):
        with pytest.raises(TicketError, match=f"{len(fields)} fields instead of 8"):
            Ticket.from_bytes(msgpack.packb(fields))


def test_a_ticket_cannot_be_built_wrong_either() -> None:
    with pytest.raises(TicketError, match="secret"):
        replace(TICKET, secret=b"short")


def test_secrets_are_not_shown() -> None:
    opened = issuer().open_untrusted(TICKET.sealed)
    assert opened is not None
    assert "secret" not in repr(TICKET) + repr(opened)
    assert str(TICKET.secret) not in repr(TICKET) + repr(opened)


@given(st.binary(max_size=600) | st.text().map(str.encode))
def test_garbage_is_no_ticket(garbage: bytes) -> None:
    for read in (Ticket.from_bytes, Ticket.decode):
        with pytest.raises(TicketError):
            read(garbage)
    assert issuer().open_untrusted(garbage) is None
    assert issuer().open_untrusted(next(iter(RING))[0] + garbage) is None


@given(st.recursive(json_values, st.lists).map(msgpack.packb))
def test_well_formed_messagepack_is_no_ticket_either(data: bytes) -> None:
    with pytest.raises(TicketError):
        Ticket.from_bytes(data)


@given(st.integers(0, 8 * len(TICKET.sealed) - 1))
def test_a_flipped_bit_anywhere_is_noticed(bit: int) -> None:
    damaged = bytearray(TICKET.sealed)
    damaged[bit // 8] ^= 1 << bit % 8
    assert issuer().open_untrusted(bytes(damaged)) is None


def test_the_key_id_is_authenticated() -> None:
    # One key under two ids: a ticket sealed under the first must not pass as sealed under the second.
    key = bytes(range(32))
    ours = issuer(KeyRing([(b"aaaa", key), (b"bbbb", key)]))
    sealed = ours.issue(wall_now=0.0).sealed
    assert ours.open_untrusted(sealed) is not None
    assert ours.open_untrusted(b"bbbb" + sealed[4:]) is None


def seal(fields: object) -> bytes:
    """What another program with the same key could seal."""
    key_id, key = next(iter(RING))
    return key_id + bytes(12) + AESGCM(key).encrypt(bytes(12), msgpack.packb(fields), key_id)


SEALED_FIELDS = [1, 0, bytes(16), bytes(32), 0, 1.75e9, 60.0, 0, {}, b""]


def test_the_reference_for_wrongly_sealed_fields_opens() -> None:
    assert issuer().open_untrusted(seal(SEALED_FIELDS)) is not None


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 2),
        (1, 2),
        (1, 1),  # a resumption ticket without a group
        (2, bytes(15)),
        (3, "x" * 32),
        (4, 2),
        (5, 1750000000),
        (5, float("nan")),
        (6, 0.0),
        (7, 65536),
        (8, []),
        (9, GROUP),  # a group without resumption
    ],
)
def test_wrongly_sealed_fields_do_not_open(position: int, value: Any) -> None:
    fields = [*SEALED_FIELDS[:position], value, *SEALED_FIELDS[position + 1 :]]
    assert issuer().open_untrusted(seal(fields)) is None


@given(json_values)
def test_nothing_that_is_sealed_can_raise(fields: Any) -> None:
    assert issuer().open_untrusted(seal(fields)) is None


def test_a_key_file_keeps_the_order() -> None:
    ring = RING.rotate(os.urandom).rotate(os.urandom)
    assert KeyRing.parse(ring.format()) == ring
    assert list(KeyRing.parse(ring.format())) == list(ring)
    assert list(ring)[-1] == next(iter(RING))


def test_a_key_file_may_have_comments_and_blank_lines() -> None:
    text = RING.format()
    assert KeyRing.parse(f"# since May\r\n\r\n  {text.strip()}  \r\n# end") == RING


KEY_TEXT = RING.format().strip().partition(":")[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no sealing key found"),
        ("# nothing\n\n", "no sealing key found"),
        (f"# a\n{KEY_TEXT}", "line 2: not a sealing key"),
        (f"xyzw0000:{KEY_TEXT}", "line 1: not a sealing key"),
        (f"0000000:{KEY_TEXT}", "line 1: not a sealing key"),
        (f"00000000:{KEY_TEXT[:-1]}", "line 1: the key is not base64"),
        (f"00000000:{KEY_TEXT[:4]}é{KEY_TEXT[5:]}", "line 1: the key is not base64"),
        (f"00000000:{KEY_TEXT[:40]}", "line 1: the key has 30 bytes and needs 32"),
        (f"00000000:{KEY_TEXT}\n00000000:{KEY_TEXT}", "line 2: a second key with the id 00000000"),
    ],
)
def test_a_bad_key_file_names_the_line_and_shows_no_key(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        KeyRing.parse(text)
    assert KEY_TEXT[:8] not in str(caught.value)


@given(st.text())
def test_any_text_is_keys_or_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        KeyRing.parse(text)


@pytest.mark.parametrize(
    "keys", [[], [(b"aaa", bytes(32))], [(b"aaaa", bytes(16))], [(b"aaaa", bytes(32))] * 2], ids=str
)
def test_a_ring_that_cannot_be(keys: Any) -> None:
    with pytest.raises(ConfigurationError):
        KeyRing(keys)


def test_a_ring_shows_ids_only() -> None:
    key_id, key = next(iter(RING))
    assert repr(RING) == f"KeyRing({key_id.hex()})"
    assert key.hex() not in repr(RING)
