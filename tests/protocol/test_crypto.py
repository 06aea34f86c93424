"""The key schedule against a second derivation, packet protection, and the replay window."""

import hashlib
import hmac
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.crypto import (
    REPLAY_WINDOW,
    Aead,
    FirstFlightKeys,
    KeyShare,
    Protector,
    ReplayWindow,
    derive_session,
)
from eloquent.protocol.wire import WireError

VECTORS = Path(__file__).parents[1] / "vectors"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "keys.json").read_text())["cases"]

aeads = st.sampled_from(Aead)
packet_numbers = st.integers(0, 2**32 - 1)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: Aead(case["aead"]).name)


def unhex(case: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


# The derivation once more, from the text of the protocol alone: HMAC, SHA-256 and the raw ciphers.


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def expand_by_hand(secret: bytes, info: bytes, size: int) -> bytes:
    return hmac_sha256(secret, info + b"\x01")[:size]


def context_by_hand(label: str, case: dict[str, Any]) -> bytes:
    sealed_ticket = bytes.fromhex(case["sealed_ticket"])
    return label.encode() + bytes([case["version"], case["aead"]]) + hashlib.sha256(sealed_ticket).digest()


def seal_by_hand(case: dict[str, Any], key: bytes, nonce: bytes) -> str:
    aad, plaintext = unhex(case, "aad", "plaintext")
    cipher = AESGCM(key) if case["aead"] == 0 else ChaCha20Poly1305(key)
    return cipher.encrypt(nonce, plaintext, aad).hex()


def seal_numbered_by_hand(case: dict[str, Any], secret: bytes, packet_number: int) -> str:
    key = expand_by_hand(secret, b"eloquent key", 16 if case["aead"] == 0 else 32)
    iv = expand_by_hand(secret, b"eloquent iv", 12)
    # protocol 6: nonce = IV xor packet number
    nonce = (int.from_bytes(iv, "big") ^ packet_number).to_bytes(12, "big")
    return seal_by_hand(case, key, nonce)


@each_case
def test_vectors_follow_from_the_text(case: dict[str, Any]) -> None:
    secret, client_share, server_share, dh = unhex(
        case, "ticket_secret", "client_share", "server_share", "x25519"
    )
    # protocol 6: prk = HKDF-Extract(salt = client share, secret)
    prk = hmac_sha256(client_share, secret)
    # protocol 6: prk1 = HKDF-Extract(salt = both shares, secret || DH)
    prk1 = hmac_sha256(client_share + server_share, secret + dh)
    assert [prk.hex(), prk1.hex()] == [case["prk"], case["prk1"]]
    for name, root in (("c0", prk), ("c1", prk1), ("s1", prk1)):
        expected = case[name]
        traffic = expand_by_hand(root, context_by_hand(f"eloquent {name}", case), 32)
        assert traffic.hex() == expected["secret"]
        key_size = 16 if case["aead"] == 0 else 32
        assert expand_by_hand(traffic, b"eloquent key", key_size).hex() == expected["key"]
        assert expand_by_hand(traffic, b"eloquent iv", 12).hex() == expected["iv"]
        for number, sealed in expected["sealed"].items():
            assert seal_numbered_by_hand(case, traffic, int(number)) == sealed
        following = expand_by_hand(traffic, b"eloquent update", 32)
        assert following.hex() == expected["next_secret"]
        for number, sealed in expected["sealed_after_update"].items():
            assert seal_numbered_by_hand(case, following, int(number)) == sealed


@each_case
def test_refusal_vector_follows_from_the_text(case: dict[str, Any]) -> None:
    secret, client_share = unhex(case, "ticket_secret", "client_share")
    info = context_by_hand("eloquent refused", case)
    key = expand_by_hand(hmac_sha256(client_share, secret), info, 16 if case["aead"] == 0 else 32)
    assert seal_by_hand(case, key, bytes.fromhex(case["refused"]["nonce"])) == case["refused"]["sealed"]


@each_case
def test_the_library_reproduces_the_vectors(case: dict[str, Any]) -> None:
    client, server = (KeyShare(key) for key in unhex(case, "client_private", "server_private"))
    assert [client.public.hex(), server.public.hex()] == [case["client_share"], case["server_share"]]
    dh = client.exchange(server.public)
    assert dh == server.exchange(client.public) == bytes.fromhex(case["x25519"])
    secret, sealed_ticket, aad, plaintext = unhex(case, "ticket_secret", "sealed_ticket", "aad", "plaintext")
    aead = Aead(case["aead"])
    first = FirstFlightKeys(secret, aead, client.public, sealed_ticket)
    c1, s1 = derive_session(secret, dh, client.public, server.public, aead, sealed_ticket)
    for name, protector in (("c0", first.c0), ("c1", c1), ("s1", s1)):
        for number, sealed in case[name]["sealed"].items():
            assert protector.seal(int(number), aad, plaintext).hex() == sealed
        for number, sealed in case[name]["sealed_after_update"].items():
            assert protector.next().seal(int(number), aad, plaintext).hex() == sealed
    nonce, sealed_refusal = unhex(case["refused"], "nonce", "sealed")
    assert first.seal_refusal(nonce, aad, plaintext) == sealed_refusal
    assert first.open_refusal(nonce, aad, sealed_refusal) == plaintext


def test_published_key_vectors_are_current() -> None:
    assert runpy.run_path(str(VECTORS / "generate.py"))["key_vectors"]() == {"cases": CASES}


def test_x25519_agrees_with_rfc_7748() -> None:
    # RFC 7748 section 6.1
    case = CASES[0]
    assert case["client_share"] == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert case["server_share"] == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert case["x25519"] == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


@pytest.mark.parametrize(
    "share", [b"", bytes(31), bytes(33), bytes(32), b"\x01" + bytes(31)], ids=lambda share: share[:1].hex()
)
def test_a_share_that_is_no_key_or_of_small_order_is_refused(share: bytes) -> None:
    with pytest.raises(WireError, match="key share"):
        KeyShare(bytes(range(32))).exchange(share)


@given(st.binary(min_size=32, max_size=32), aeads, packet_numbers, st.binary(max_size=40), st.binary())
def test_what_is_sealed_opens(secret: bytes, aead: Aead, number: int, aad: bytes, plaintext: bytes) -> None:
    sealed = Protector(secret, aead).seal(number, aad, plaintext)
    assert len(sealed) == len(plaintext) + 16
    assert Protector(secret, aead).open(number, aad, sealed) == plaintext


@given(aeads, packet_numbers, st.data())
def test_a_flipped_bit_anywhere_is_noticed(aead: Aead, number: int, data: st.DataObject) -> None:
    protector, aad = Protector(bytes(32), aead), b"the clear header"
    sealed = protector.seal(number, aad, b"some tokens")
    bit = data.draw(st.integers(0, 8 * (len(aad) + len(sealed)) - 1), label="bit")
    damaged = bytearray(aad + sealed)
    damaged[bit // 8] ^= 1 << bit % 8
    assert protector.open(number, bytes(damaged[: len(aad)]), bytes(damaged[len(aad) :])) is None


@given(aeads, packet_numbers, packet_numbers)
def test_a_datagram_opens_under_its_own_number_only(aead: Aead, sent: int, claimed: int) -> None:
    protector = Protector(bytes(32), aead)
    opened = protector.open(claimed, b"", protector.seal(sent, b"", b"some tokens"))
    assert (opened is not None) == (sent == claimed)


@given(aeads, st.binary(max_size=64))
def test_garbage_of_any_length_does_not_open(aead: Aead, garbage: bytes) -> None:
    assert Protector(bytes(32), aead).open(0, b"", garbage) is None
    assert FirstFlightKeys(bytes(32), aead, b"share", b"ticket").open_refusal(bytes(12), b"", garbage) is None


def test_packet_numbers_never_wrap_round_to_a_used_nonce() -> None:
    # protocol 6: close before 2^32
    with pytest.raises(OverflowError):
        Protector(bytes(32), Aead.AES_128_GCM).seal(2**32, b"", b"")


@pytest.mark.parametrize("aead", Aead)
def test_every_key_of_a_connection_differs(aead: Aead) -> None:
    first = FirstFlightKeys(bytes(32), aead, b"c" * 32, b"ticket")
    session = derive_session(bytes(32), bytes(32), b"c" * 32, b"s" * 32, aead, b"ticket")
    keys = [first.c0, *session]
    keys += [key.next() for key in keys]
    sealed = {key.seal(7, b"", b"same number, same text") for key in keys}
    sealed.add(first.seal_refusal(bytes(12), b"", b"same number, same text"))
    assert len(sealed) == 7


BASE = (bytes(32), bytes(32), b"c" * 32, b"s" * 32, Aead.AES_128_GCM, b"ticket")


@pytest.mark.parametrize(
    ("position", "other"),
    [(0, b"x" * 32), (1, b"x" * 32), (2, b"x" * 32), (3, b"x" * 32), (4, Aead.CHACHA20_POLY1305), (5, b"x")],
    ids=["secret", "exchange", "client share", "server share", "AEAD", "ticket"],
)
def test_the_session_keys_depend_on_everything(position: int, other: Any) -> None:
    changed: Any = (*BASE[:position], other, *BASE[position + 1 :])
    for mine, theirs in zip(derive_session(*BASE), derive_session(*changed), strict=True):
        assert theirs.open(0, b"", mine.seal(0, b"", b"tokens")) is None


def test_a_refusal_is_bound_to_the_share_and_the_ticket() -> None:
    def keys(share: bytes, ticket: bytes) -> FirstFlightKeys:
        return FirstFlightKeys(bytes(32), Aead.AES_128_GCM, share, ticket)

    refusal = keys(b"share", b"ticket").seal_refusal(bytes(12), b"", b"\x01")
    assert keys(b"share", b"ticket").open_refusal(bytes(12), b"", refusal) == b"\x01"
    assert keys(b"other", b"ticket").open_refusal(bytes(12), b"", refusal) is None
    assert keys(b"share", b"other").open_refusal(bytes(12), b"", refusal) is None


def test_replay_window_starts_empty() -> None:
    window = ReplayWindow()
    assert window.largest == -1
    assert window.is_new(0)
    assert window.missing() == 0


def test_asking_does_not_move_the_replay_window() -> None:
    # protocol 6: moved only after decryption
    window = ReplayWindow()
    assert window.is_new(5000)
    assert window.largest == -1
    assert window.is_new(0)


def test_replay_window_edge() -> None:
    window = ReplayWindow()
    window.mark(REPLAY_WINDOW)
    assert window.is_new(1)  # the oldest of the 1024
    assert not window.is_new(0)  # too old to tell
    window.mark(1)
    assert not window.is_new(1)
    window.mark(REPLAY_WINDOW + 1)
    assert not window.is_new(1)
    assert window.is_new(2)


def test_a_jump_over_the_whole_number_space_costs_nothing() -> None:
    window = ReplayWindow()
    window.mark(0)
    window.mark(2**32 - 1)
    assert window.largest == 2**32 - 1
    assert window.missing(3) == 0b111
    assert not window.is_new(0)


def test_the_replay_window_does_not_grow_with_the_connection() -> None:
    window = ReplayWindow()
    for number in range(3 * REPLAY_WINDOW):
        window.mark(number)
    assert window._window.bit_length() == REPLAY_WINDOW


def test_missing_counts_from_the_largest_and_not_below_zero() -> None:
    window = ReplayWindow()
    for number in (0, 2, 3, 5):
        window.mark(number)
    assert window.missing() == 0b01001  # bit 0 is 4, bit 3 is 1
    assert window.missing(1) == 0b1
    assert window.missing(0) == 0


nearby = st.lists(st.integers(0, 200) | st.integers(0, 3 * REPLAY_WINDOW), max_size=200)


@given(nearby, st.integers(0, 64))
def test_replay_window_agrees_with_a_set(numbers: list[int], width: int) -> None:
    window, seen = ReplayWindow(), set[int]()
    for number in numbers:
        in_window = number > max(seen, default=-1) - REPLAY_WINDOW
        assert window.is_new(number) == (in_window and number not in seen)
        if window.is_new(number):
            window.mark(number)
            seen.add(number)
    largest = max(seen, default=-1)
    assert window.largest == largest
    before = range(largest - 1, max(-1, largest - 1 - width), -1)
    assert window.missing(width) == sum(1 << i for i, number in enumerate(before) if number not in seen)
