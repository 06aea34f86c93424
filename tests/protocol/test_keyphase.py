"""Key updates: when the sender may, and what the receiver opens meanwhile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol import keyphase
from eloquent.protocol.crypto import Aead, Protector
from eloquent.protocol.keyphase import UPDATE_AFTER, UPDATE_AFTER_DATAGRAMS, ReceiveKeys, SendKeys

PTO = 0.1
AAD = b"header"


def protector() -> Protector:
    return Protector(bytes(32), Aead.AES_128_GCM)


def update(keys: SendKeys, *, now: float, acked: int) -> None:
    """Make the sender change keys by age."""
    keys.on_ack(acked)
    assert keys.update_if_due(now=now)


def sealed_in_phases(numbers_by_phase: list[list[int]]) -> dict[int, tuple[int, bytes]]:
    """Packet number to (phase bit, ciphertext) of a sender that updates between the lists."""
    keys, datagrams = SendKeys(protector(), now=0.0), {}
    for index, numbers in enumerate(numbers_by_phase):
        if index:
            update(keys, now=index * UPDATE_AFTER, acked=numbers[0] - 1)
        for number in numbers:
            datagrams[number] = (keys.phase, keys.seal(number, AAD, b"%d" % number))
    return datagrams


def test_the_first_phase_is_zero_and_an_update_flips_it() -> None:
    datagrams = sealed_in_phases([[0], [1], [2]])
    assert [phase for phase, _ in datagrams.values()] == [0, 1, 0]


def test_no_update_before_an_hour() -> None:
    keys = SendKeys(protector(), now=10.0)
    keys.seal(0, AAD, b"")
    keys.on_ack(0)
    # protocol 6: rekey after 2^24 datagrams or 1 h
    assert not keys.update_if_due(now=10.0 + 3599.9)
    assert keys.update_if_due(now=10.0 + 3600.0)
    assert keys.phase == 1


def test_update_after_many_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    assert UPDATE_AFTER_DATAGRAMS == 2**24
    monkeypatch.setattr(keyphase, "UPDATE_AFTER_DATAGRAMS", 3)  # 2^24 would take 20 s
    keys = SendKeys(protector(), now=0.0)
    for number in (4, 5):
        keys.seal(number, AAD, b"")
    keys.on_ack(5)
    assert not keys.update_if_due(now=0.0)
    keys.seal(6, AAD, b"")
    assert keys.update_if_due(now=0.0)
    assert not keys.update_if_due(now=0.0)


def test_no_update_without_an_ack_under_the_current_key() -> None:
    keys = SendKeys(protector(), now=0.0)
    assert not keys.update_if_due(now=UPDATE_AFTER)
    keys.seal(7, AAD, b"")
    # Packets of an earlier key (here: of the first flight) confirm nothing.
    keys.on_ack(6)
    assert not keys.update_if_due(now=UPDATE_AFTER)
    keys.on_ack(7)
    assert keys.update_if_due(now=UPDATE_AFTER)
    # protocol 6: again only after an acknowledgment under the current key
    keys.seal(8, AAD, b"")
    keys.on_ack(7)
    assert not keys.update_if_due(now=3 * UPDATE_AFTER)
    keys.on_ack(8)
    assert keys.update_if_due(now=3 * UPDATE_AFTER)


def test_an_ack_before_anything_was_sealed_confirms_nothing() -> None:
    keys = SendKeys(protector(), now=0.0)
    keys.on_ack(100)
    keys.seal(101, AAD, b"")
    assert not keys.update_if_due(now=UPDATE_AFTER)


def opened(keys: ReceiveKeys, datagrams: dict[int, tuple[int, bytes]], number: int, now: float) -> bool:
    phase, sealed = datagrams[number]
    plaintext = keys.open(phase, number, AAD, sealed, now=now, pto=PTO)
    assert plaintext in (None, b"%d" % number)
    return plaintext is not None


def test_an_overtaken_datagram_opens_for_three_ptos() -> None:
    datagrams = sealed_in_phases([[0, 1, 2], [3, 4]])
    keys = ReceiveKeys(protector())
    assert opened(keys, datagrams, 0, now=1.0)
    assert opened(keys, datagrams, 3, now=2.0)
    # protocol 6: the old key stays for 3 PTO from the first authentic datagram under the new one
    assert opened(keys, datagrams, 4, now=2.2)
    assert opened(keys, datagrams, 1, now=2.29)
    assert not opened(keys, datagrams, 2, now=2.31)


def test_the_new_phase_may_arrive_in_any_order() -> None:
    datagrams = sealed_in_phases([[0, 1], [2, 3, 4]])
    keys = ReceiveKeys(protector())
    assert all(opened(keys, datagrams, number, now=1.0) for number in (4, 1, 2, 0, 3))


def test_a_second_update_uses_the_first_phase_bit_with_another_key() -> None:
    datagrams = sealed_in_phases([[0, 1], [2, 3], [4, 5]])
    keys = ReceiveKeys(protector())
    assert all(opened(keys, datagrams, number, now=1.0) for number in (0, 2, 4))
    assert opened(keys, datagrams, 3, now=1.1)  # one key back
    assert not opened(keys, datagrams, 1, now=1.1)  # two keys back: gone
    assert opened(keys, datagrams, 5, now=1.1)


def test_a_second_update_does_not_wait_until_the_old_key_is_gone() -> None:
    datagrams = sealed_in_phases([[0], [1], [2]])
    keys = ReceiveKeys(protector())
    assert all(opened(keys, datagrams, number, now=1.0) for number in (0, 1, 2))


@pytest.mark.parametrize("forged_number", [0, 1, 3, 1000])
def test_a_forged_phase_bit_changes_nothing(forged_number: int) -> None:
    datagrams = sealed_in_phases([[0, 1], [2, 3], [4]])
    keys = ReceiveKeys(protector())
    assert opened(keys, datagrams, 0, now=0.0)
    assert opened(keys, datagrams, 2, now=0.0)
    for phase, sealed in (*datagrams.values(), (0, bytes(40)), (0, b"")):
        assert keys.open(phase ^ 1, forged_number, AAD, sealed, now=0.0, pto=PTO) is None
    # Neither the current, nor the previous, nor the next key has moved.
    assert all(opened(keys, datagrams, number, now=0.1) for number in (3, 1, 4))


@given(st.permutations(range(12)), st.integers(1, 11))
def test_around_one_update_every_order_is_opened(order: list[int], first_new: int) -> None:
    datagrams = sealed_in_phases([list(range(first_new)), list(range(first_new, 12))])
    keys = ReceiveKeys(protector())
    assert all(opened(keys, datagrams, number, now=5.0) for number in order)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2**32 - 1), st.binary(max_size=40)), max_size=20))
def test_forgeries_never_disturb_the_real_stream(forgeries: list[tuple[int, int, bytes]]) -> None:
    datagrams = sealed_in_phases([[0, 1], [2, 3], [4, 5]])
    keys = ReceiveKeys(protector())
    for number in datagrams:
        for phase, forged_number, garbage in forgeries:
            assert keys.open(phase, forged_number, AAD, garbage, now=0.0, pto=PTO) is None
        assert opened(keys, datagrams, number, now=0.0)
