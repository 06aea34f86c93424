"""Which first flights a server takes: expiry, single use, limits."""

from dataclasses import replace

import pytest

from eloquent.protocol.admission import Admission, Limits
from eloquent.protocol.crypto import Aead
from eloquent.protocol.ticket import OpenedTicket, TicketKind
from eloquent.protocol.wire import RefusalCode

WALL = 1_700_000_000.0
"""Wall time at monotonic time 0."""

WORKER = 7
LIMITS = Limits(connections=10, handshakes=5, kept_bytes=1000)


def ticket(issued: float = 10.0, *, lifetime_s: float = 60.0, **fields: object) -> OpenedTicket:
    """A first-use ticket issued at this monotonic time."""
    found = OpenedTicket(
        kind=TicketKind.FIRST_USE,
        id=bytes(16),
        secret=bytes(32),
        aead=Aead.AES_128_GCM,
        issued_at=WALL + issued,
        lifetime_s=lifetime_s,
        worker=WORKER,
        claims={},
        group=bytes(16),
    )
    return replace(found, **fields)  # type: ignore[arg-type]


def resumption(issued: float = 10.0, **fields: object) -> OpenedTicket:
    return ticket(issued, lifetime_s=86_400.0, kind=TicketKind.RESUMPTION, **fields)


def admission(*, clock_skew: float = 0.0, started: float = 0.0) -> Admission:
    return Admission(
        LIMITS, worker=WORKER, clock_skew=clock_skew, wall_now=lambda now: WALL + now, now=started
    )


def refusal(
    door: Admission,
    opened: OpenedTicket,
    *,
    connections: int = 0,
    handshakes: int = 0,
    attempts: int = 0,
    kept_bytes: int = 0,
    now: float = 20.0,
) -> RefusalCode | None:
    return door.refusal(
        opened,
        connections=connections,
        handshakes=handshakes,
        attempts=attempts,
        kept_bytes=kept_bytes,
        now=now,
    )


def test_a_fresh_ticket_is_taken() -> None:
    assert refusal(admission(), ticket()) is None


def test_a_ticket_that_names_another_worker() -> None:
    # protocol 6: a worker takes only tickets that name it
    assert refusal(admission(), ticket(worker=8)) is RefusalCode.FOREIGN
    # protocol 7: a resumption works wherever the logs are
    assert refusal(admission(), resumption(worker=8)) is None


def test_a_ticket_expires() -> None:
    assert refusal(admission(), ticket(10.0), now=70.0) is None
    # protocol 6: a relative lifetime for first use (60 s)
    assert refusal(admission(), ticket(10.0), now=70.1) is RefusalCode.EXPIRED
    assert refusal(admission(), resumption(10.0), now=86_411.0) is RefusalCode.EXPIRED


def test_a_ticket_works_once() -> None:
    door = admission()
    door.record(ticket(), now=20.0)
    assert refusal(door, ticket()) is RefusalCode.USED
    assert refusal(door, ticket(id=bytes([1] * 16))) is None


def test_asking_is_not_using() -> None:
    door = admission()
    assert refusal(door, ticket()) is None
    assert refusal(door, ticket()) is None
    assert door.remembered == 0


def test_a_used_ticket_is_remembered_until_it_has_surely_expired() -> None:
    door = admission()
    door.record(ticket(10.0), now=20.0)
    # protocol 6: remembers their ids until expiry + 5 s
    door.forget_expired(now=74.9)
    assert door.remembered == 1
    assert refusal(door, ticket(10.0), now=70.0) is RefusalCode.USED
    door.forget_expired(now=75.0)
    assert door.remembered == 0
    assert refusal(door, ticket(10.0), now=75.0) is RefusalCode.EXPIRED


def test_tickets_from_before_the_start_are_refused() -> None:
    door = admission(started=15.0)
    # protocol 6: and refuses those issued before its own start (a restart forgets ids)
    assert refusal(door, ticket(14.9)) is RefusalCode.EXPIRED
    assert refusal(door, ticket(15.0)) is None
    # protocol 6: plus clock_skew, a setting for issuers on other machines
    skewed = admission(started=15.0, clock_skew=2.0)
    assert refusal(skewed, ticket(16.9)) is RefusalCode.EXPIRED
    assert refusal(skewed, ticket(17.0)) is None


def test_a_resumption_ticket_works_again_and_outlives_a_restart() -> None:
    door = admission(started=15.0)
    door.record(resumption(), now=16.0)
    # protocol 7: it can be used again until the logs expire and outlives restarts
    assert refusal(door, resumption()) is None
    assert door.remembered == 0


def test_two_unvalidated_attempts_per_resumption_ticket() -> None:
    # protocol 7: at most two unvalidated connections per ticket
    assert refusal(admission(), resumption(), attempts=1) is None
    assert refusal(admission(), resumption(), attempts=2) is RefusalCode.BUSY


@pytest.mark.parametrize("opened", [ticket(), resumption()], ids=["first use", "resumption"])
@pytest.mark.parametrize("limit", ["connections", "handshakes", "kept_bytes"])
def test_limits_of_the_server(opened: OpenedTicket, limit: str) -> None:
    most = getattr(LIMITS, limit)
    # protocol 5: every limit is per connection and per server, with a clear error
    assert refusal(admission(), opened, **{limit: most - 1}) is None
    assert refusal(admission(), opened, **{limit: most}) is RefusalCode.BUSY


def test_a_server_that_shuts_down_says_so() -> None:
    door = admission()
    door.is_closed = True
    assert refusal(door, ticket()) is RefusalCode.SHUTDOWN
    # What is wrong with the ticket is told first: another server would refuse it too.
    assert refusal(door, ticket(), now=100.0) is RefusalCode.EXPIRED
