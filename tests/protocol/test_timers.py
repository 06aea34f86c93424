"""One queue of deadlines for all connections."""

import os

from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.connection import Connection, Settings
from eloquent.protocol.crypto import KeyShare
from eloquent.protocol.handshake import ClientProtection
from eloquent.protocol.streams import LogGroup
from eloquent.protocol.ticket import KeyRing, TicketIssuer
from eloquent.protocol.timers import TimerQueue

ADDRESS = ("192.0.2.1", 4433)
ISSUER = TicketIssuer(KeyRing.generate(os.urandom), ipv4=ADDRESS, entropy=os.urandom)
TICKET = ISSUER.issue(wall_now=0.0)
SHARE = KeyShare(bytes(range(32)))

LATEST = 0.4
"""Seconds; later than this a connection has deadlines of its own."""


def connection(at: float) -> Connection:
    """A real connection with an acknowledgment that is due at this time."""
    made = Connection(
        ClientProtection(TICKET, SHARE, bytes(8)),
        LogGroup(b"", is_client=True),
        ADDRESS,
        is_client=True,
        settings=Settings(),
        entropy=bytes,
        now=0.0,
    )
    made.acks.due_at = at
    assert made.next_timer() == at
    return made


def queue_of(*connections: Connection) -> TimerQueue:
    queue = TimerQueue()
    for each in connections:
        queue.schedule(each)
    return queue


def move(queue: TimerQueue, found: Connection, at: float) -> None:
    found.acks.due_at = at
    queue.schedule(found)


def test_an_empty_queue() -> None:
    assert TimerQueue().next_at() is None
    assert TimerQueue().pop_due(now=1.0) == []


def test_connections_come_when_they_are_due_the_earliest_first() -> None:
    first, second, third = connection(0.1), connection(0.2), connection(0.3)
    queue = queue_of(third, first, second)
    assert queue.next_at() == 0.1
    assert queue.pop_due(now=0.09) == []
    assert queue.pop_due(now=0.2) == [first, second]
    assert queue.next_at() == 0.3


def test_a_deadline_that_comes_closer_counts_at_once() -> None:
    found = connection(0.3)
    queue = queue_of(found)
    move(queue, found, 0.1)
    assert queue.next_at() == 0.1
    assert queue.pop_due(now=0.1) == [found]
    assert queue.pop_due(now=0.3) == []


def test_a_deadline_that_has_moved_away_is_not_due() -> None:
    found = connection(0.1)
    queue = queue_of(found)
    move(queue, found, 0.3)
    assert queue.pop_due(now=0.2) == []
    assert queue.next_at() == 0.3
    assert queue.pop_due(now=0.3) == [found]


def test_a_removed_connection_never_comes() -> None:
    found = connection(0.1)
    queue = queue_of(found)
    queue.remove(found)
    assert queue.pop_due(now=0.2) == []
    move(queue, found, 0.3)
    assert queue.pop_due(now=0.3) == [found]


def test_deadlines_that_jump_back_and_forth_leave_nothing_behind() -> None:
    found, other = connection(LATEST), connection(LATEST)
    queue = queue_of(found, other)
    for step in range(1, 2000):
        now = step * LATEST / 2001
        move(queue, found, now)
        assert queue.pop_due(now=now) == [found]
        move(queue, found, LATEST)
    assert len(queue._heap) < 100
    assert set(queue.pop_due(now=LATEST)) == {found, other}


moments = st.floats(0.0, LATEST)


@given(
    st.lists(st.tuples(st.sampled_from(["move", "remove", "pop"]), st.integers(0, 2), moments), max_size=40)
)
def test_exactly_what_is_due_comes(steps: list[tuple[str, int, float]]) -> None:
    connections = [connection(LATEST) for _ in range(3)]
    queue, now = queue_of(*connections), 0.0
    deadlines = dict.fromkeys(connections, LATEST)
    for what, index, moment in steps:
        found = connections[index]
        if what == "move":
            deadlines[found] = moment
            move(queue, found, moment)
        elif what == "remove":
            deadlines.pop(found, None)
            queue.remove(found)
        else:
            now = max(now, moment)
            due = queue.pop_due(now=now)
            assert sorted(map(id, due)) == sorted(id(each) for each, at in deadlines.items() if at <= now)
            for each in due:
                deadlines[each] = LATEST + 0.01
                move(queue, each, LATEST + 0.01)
        earliest = min(deadlines.values(), default=None)
        next_at = queue.next_at()
        assert earliest is None or (next_at is not None and next_at <= earliest)
