"""Paths: the amplification limit, NAT rebinding, validation and the way back."""

from collections.abc import Callable
from itertools import count

import pytest

from eloquent.protocol.path import REBINDING_BUDGET, Path, Paths, is_port_change

HOME = ("192.0.2.1", 4000)
REBOUND = ("192.0.2.1", 4999)
ELSEWHERE = ("198.51.100.7", 4000)
THIRD = ("203.0.113.9", 1)
PTO = 0.25


def counting() -> Callable[[int], bytes]:
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def paths(*, is_validated: bool = True) -> Paths:
    return Paths(HOME, is_validated=is_validated, entropy=counting())


def moved(*addresses: tuple[str, int]) -> Paths:
    """After a migration to each address, one second apart."""
    found = paths()
    for second, address in enumerate(addresses):
        found.migrate(address, 100, pto=PTO, now=float(second))
    return found


def answer(found: Paths, address: tuple[str, int]) -> None:
    """The peer answers the challenge that it received at this address."""
    path = found.path_of(address)
    assert path is not None
    found.on_response(path.challenge)


def test_three_times_what_was_received() -> None:
    path = Path(HOME, is_validated=False)
    assert not path.can_send(1)
    path.received = 1200
    # protocol 6: at most 3x the bytes received on a path until it is validated
    assert path.can_send(3600)
    assert not path.can_send(3601)
    path.sent = 3000
    assert path.can_send(600)
    assert not path.can_send(601)
    path.is_validated = True
    assert path.can_send(10**9)


def test_received_bytes_count_for_their_own_path() -> None:
    found = moved(ELSEWHERE)
    found.on_received(ELSEWHERE, 50)
    found.on_received(THIRD, 1000)
    assert found.active.received == 150
    assert found.previous is not None
    assert found.previous.received == 0
    found.on_received(HOME, 70)
    assert found.previous.received == 70


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (HOME, REBOUND, True),
        (HOME, ELSEWHERE, False),
        (("2001:db8::1", 1, 0, 0), ("2001:db8::1", 2, 0, 0), True),
        (("2001:db8::1", 1, 0, 0), ("2001:db8::2", 1, 0, 0), False),
        ("a name", "another", False),
        ((1,), (1,), False),
    ],
)
def test_a_change_of_port_only(old: object, new: object, expected: bool) -> None:
    assert is_port_change(old, new) is expected


def test_a_new_address_starts_with_three_times_its_first_datagram() -> None:
    found = moved(ELSEWHERE)
    assert found.active.address == ELSEWHERE
    assert not found.active.is_validated
    assert found.active.budget == 300


def test_a_new_port_starts_with_a_budget() -> None:
    # protocol 6: a change of port only starts with a budget of 3600 bytes
    assert REBINDING_BUDGET == 3600
    assert moved(REBOUND).active.budget == 3600 + 300


def test_both_paths_are_challenged_and_again_after_a_pto() -> None:
    found = moved(ELSEWHERE)
    due = found.due_challenges(pto=PTO, now=0.0)
    # protocol 7: the new and the old path are challenged
    assert [address for address, _ in due] == [ELSEWHERE, HOME]
    assert len({challenge for _, challenge in due}) == 2
    assert found.due_challenges(pto=PTO, now=0.24) == []
    assert found.next_at() == 0.25
    assert found.due_challenges(pto=PTO, now=0.25) == due


def test_an_answer_from_the_new_path_ends_the_matter() -> None:
    found = moved(ELSEWHERE)
    answer(found, ELSEWHERE)
    assert found.active.is_validated
    assert found.active.address == ELSEWHERE
    assert found.previous is None
    assert not found.is_challenging
    assert found.next_at() is None
    assert found.due_challenges(pto=PTO, now=1.0) == []


@pytest.mark.parametrize("data", [b"", bytes(8), b"\xff" * 8])
def test_another_answer_validates_nothing(data: bytes) -> None:
    found = moved(ELSEWHERE)
    found.on_response(data)
    assert not found.active.is_validated
    # Nor does any answer where nothing was asked.
    quiet = paths(is_validated=False)
    quiet.on_response(data)
    assert not quiet.active.is_validated


def test_an_answer_counts_once() -> None:
    found = moved(ELSEWHERE)
    challenge = found.active.challenge
    found.on_response(challenge)
    found.migrate(THIRD, 100, pto=PTO, now=1.0)
    found.on_response(challenge)
    assert not found.active.is_validated


def test_without_an_answer_the_connection_goes_back() -> None:
    found = moved(ELSEWHERE)
    assert not found.on_timer(pto=PTO, now=0.74)
    # protocol 7: back on failure
    assert found.on_timer(pto=PTO, now=0.75)
    assert found.active.address == HOME
    assert found.active.is_validated
    assert found.previous is None
    assert found.next_at() is None
    assert not found.on_timer(pto=PTO, now=10.0)


def test_an_answer_from_the_old_path_does_not_validate_the_new_one() -> None:
    found = moved(ELSEWHERE)
    answer(found, HOME)
    assert found.active.address == ELSEWHERE
    assert not found.active.is_validated
    assert found.on_timer(pto=PTO, now=0.75)
    assert found.active.address == HOME


def test_a_peer_that_was_only_away_needs_no_proof() -> None:
    found = moved(ELSEWHERE)
    found.migrate(HOME, 100, pto=PTO, now=0.1)
    assert found.active.address == HOME
    assert found.active.can_send(10**6)
    assert found.previous is None
    assert not found.is_challenging


def test_after_two_moves_the_way_back_leads_to_the_last_proven_path() -> None:
    found = moved(ELSEWHERE, THIRD)
    assert found.active.address == THIRD
    assert found.path_of(ELSEWHERE) is None
    assert found.on_timer(pto=PTO, now=1.75)
    assert found.active.address == HOME


def test_after_a_proven_move_the_way_back_leads_there() -> None:
    found = moved(ELSEWHERE)
    answer(found, ELSEWHERE)
    found.migrate(THIRD, 100, pto=PTO, now=1.0)
    assert found.on_timer(pto=PTO, now=1.75)
    assert found.active.address == ELSEWHERE


def test_a_path_without_a_way_back_is_asked_again() -> None:
    found = paths(is_validated=False)
    found.migrate(REBOUND, 100, pto=PTO, now=0.0)
    assert found.previous is None
    first = found.active.challenge
    assert not found.on_timer(pto=PTO, now=0.75)
    assert found.active.address == REBOUND
    assert found.active.challenge not in (b"", first)
    assert found.next_at() == 0.75
    found.on_response(first)  # too late
    assert not found.active.is_validated
    answer(found, REBOUND)
    assert found.active.is_validated
