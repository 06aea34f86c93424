"""The server's side of one socket: owners of groups, what is kept and for how long, the end."""

import pytest

from eloquent.protocol.admission import Limits
from eloquent.protocol.events import (
    Connected,
    ConnectionEnded,
    StopRequested,
    StreamAbandoned,
    StreamEnded,
    StreamOpened,
    TicketNeeded,
)
from eloquent.protocol.silence import GIVE_UP, IDLE
from eloquent.protocol.streams import Stream
from eloquent.protocol.wire import CloseCode, Kind, RefusalCode, ResetCode
from tests.pair import Pair

PROMPT = b"\xa2hi"


def connected(**limits: int) -> tuple[Pair, Stream, Stream]:
    pair = Pair(limits=Limits(**limits))
    stream = pair.connect()
    return pair, stream, pair.server_stream(stream)


def count(pair: Pair, kind: type) -> int:
    return sum(isinstance(event, kind) for event in pair.server_events)


def is_first_flight(entry: tuple[bytes, tuple[str, int]]) -> bool:
    return entry[0][0] >> 5 == Kind.INITIAL


def test_a_connection_from_its_first_datagram_to_nothing() -> None:
    pair, stream, answer = connected()
    assert pair.listener.connection_count == 1
    assert pair.listener.groups == [answer.group]
    assert pair.store.kept_groups == 1
    pair.write(answer, b"\xa3abc")
    assert not pair.listener.has_unacked or answer.outgoing.unacked
    pair.finish(answer)
    pair.wait(0.5)
    assert not pair.listener.has_unacked
    assert stream.incoming.is_complete
    # protocol 4: without streams both sides drop the connection after 5 min
    pair.wait(IDLE + 5)
    assert pair.listener.connection_count == 0
    assert pair.store.kept_groups == 1
    # protocol 7: the log stays 5 minutes
    pair.wait(310.0)
    assert pair.store.kept_groups == 0
    assert pair.listener.next_timer() is None
    assert pair.dialer.next_timer() is None


def test_events_come_in_order_and_once() -> None:
    pair, _, answer = connected()
    pair.finish(answer)
    pair.wait(1.0)
    pair.dialer.leave(now=pair.now)
    pair.wait(1.0)
    kinds = [type(event) for event in pair.server_events]
    assert kinds.index(StreamOpened) < kinds.index(StreamEnded) < kinds.index(ConnectionEnded)
    assert [kinds.count(kind) for kind in (StreamOpened, StreamEnded, Connected, ConnectionEnded)] == [1] * 4


def test_a_client_that_leaves_does_not_cancel() -> None:
    pair, _, answer = connected()
    pair.dialer.leave(now=pair.now)
    pair.wait(5.0)
    # protocol 7: disconnect is not cancel, nor is CLOSE
    assert not answer.outgoing.has_ended
    assert count(pair, StreamAbandoned) == count(pair, StopRequested) == 0
    pair.wait(GIVE_UP + 5)
    assert answer.outgoing.reset_code == ResetCode.ABORTED
    assert count(pair, StreamAbandoned) == 1


def test_a_client_that_falls_silent_is_given_two_minutes() -> None:
    pair, _, answer = connected()
    pair.write(answer, b"\xa3abc")
    pair.wait(GIVE_UP - 5, delivers=False)
    assert count(pair, StreamAbandoned) == 0
    pair.wait(15, delivers=False)
    assert count(pair, StreamAbandoned) == 1
    assert [event.by for event in pair.server_events if isinstance(event, ConnectionEnded)] == ["silence"]


def test_a_first_flight_that_nobody_confirms_is_let_go() -> None:
    pair = Pair()
    pair.ask(PROMPT)
    pair.drain()
    pair.to_server(*pair.up.pop())
    pair.up.clear()
    pair.wait(GIVE_UP + 40, delivers=False)
    assert pair.listener.connection_count == 0
    assert pair.listener._unconfirmed == {}
    pair.wait(320.0, delivers=False)
    assert pair.store.kept_groups == 0
    assert pair.listener.next_timer() is None


def test_an_attempt_that_comes_to_nothing_is_not_announced() -> None:
    pair, _, _ = connected()
    pair.dialer.network_changed(now=pair.now)
    pair.drain()
    flight = next(entry for entry in pair.up if is_first_flight(entry))
    pair.up.clear()
    pair.dialer.leave(now=pair.now)
    pair.wait(1.0)
    assert count(pair, ConnectionEnded) == 1
    # Nobody owns the group now; the late flight of the client that has left changes nothing.
    pair.to_server(*flight)
    pair.wait(20.0)
    assert pair.listener.connection_count == 0
    assert count(pair, ConnectionEnded) == 1
    assert count(pair, Connected) == 1


def test_a_group_that_expires_while_its_client_comes_back() -> None:
    pair, stream, answer = connected()
    pair.finish(answer)
    pair.server.drop(now=pair.now)  # Only the server has forgotten the connection.
    pair.listener.touch(answer.group)
    pair.wait(290.0, delivers=False)
    pair.up.clear()
    pair.down.clear()
    assert pair.store.kept_groups == 1
    ticket = pair.dialer._resumption
    assert ticket is not None
    pair.dialer = pair.new_dialer(ticket)
    pair.dialer.ping()
    pair.drain()
    pair.to_server(*pair.up.pop())
    reply = pair.down[0]
    pair.wait(8.0, delivers=False)
    pair.store.expire(now=pair.now + 10)
    assert pair.store.kept_groups == 0
    pair.to_client(*reply)
    pair.wait(1.0)
    # It is served, so it is kept, and can be resumed again.
    assert pair.listener.groups == [answer.group]
    assert pair.store.kept_groups == 1
    pair.dialer.network_changed(now=pair.now)
    pair.wait(1.0)
    assert pair.listener.refused == {}
    assert count(pair, Connected) == 3
    assert not stream.incoming.has_ended


def test_an_older_attempt_never_takes_over() -> None:
    pair, _, answer = connected()
    flights = []
    attempts = []
    for _ in range(2):
        pair.dialer.network_changed(now=pair.now)
        pair.drain()
        flights.append(next(entry for entry in reversed(pair.up) if is_first_flight(entry)))
        attempts.append(pair.dialer._attempt)
        pair.up.clear()
        pair.to_server(*flights[-1])
        pair.now += 0.05
    old_reply = next(entry for entry in pair.down if entry[1] == flights[0][1])
    pair.deliver()
    owner = pair.server
    assert pair.client is attempts[1]
    # The first attempt's client gets its reply now and shows `c1`, too late.
    assert attempts[0] is not None
    pair.dialer.connection = attempts[0]
    pair.to_client(*old_reply)
    pair.wait(1.0)
    assert pair.server is owner
    ended = attempts[0].ended
    assert ended is not None
    assert (ended.by, ended.code) == ("remote", CloseCode.SUPERSEDED)
    assert pair.listener.groups == [answer.group]


def test_a_lost_close_is_said_again() -> None:
    pair, _, _ = connected()
    pair.listener.close(now=pair.now)
    pair.drain()
    assert len(pair.down) == 1
    pair.down.clear()
    pair.wait(0.6)  # The client's sign of life.
    assert pair.dialer.ended == ConnectionEnded("remote", CloseCode.SHUTDOWN, "the server stops")
    pair.wait(10.0)
    assert pair.listener.connection_count == 0


def test_a_server_that_stops_refuses_what_is_new() -> None:
    pair, _, _ = connected()
    pair.listener.close(now=pair.now)
    other = pair.new_dialer(pair.new_ticket())
    other.open()
    other.ping()
    pair.drain()
    pair.down.clear()
    pair.to_server(*other.datagrams_to_send(now=pair.now)[0])  # type: ignore[arg-type]
    other.receive_datagram(pair.down[0][0], (0, None), now=pair.now)
    assert other.next_event() == TicketNeeded(RefusalCode.SHUTDOWN)


@pytest.mark.parametrize("limits", [{"connections": 1}, {"handshakes": 0}, {"kept_bytes": 0}])
def test_limits_of_the_server(limits: dict[str, int]) -> None:
    pair = Pair(limits=Limits(**limits))
    for _ in range(2):
        dialer = pair.new_dialer(pair.new_ticket())
        dialer.ping()
        pair.to_server(*dialer.datagrams_to_send(now=pair.now)[0])  # type: ignore[arg-type]
    assert pair.listener.refused["busy"] == (1 if "connections" in limits else 2)


def test_a_long_conversation_keeps_only_what_its_group_keeps() -> None:
    pair, _, answer = connected()
    pair.finish(answer)
    pair.wait(0.1)
    for _ in range(1500):
        stream = pair.ask(PROMPT)
        pair.deliver()
        answer = pair.server_stream(stream)
        pair.write(answer, b"\xa3abc")
        pair.finish(answer)
        pair.wait(0.06)
        assert stream.incoming.is_complete
        pair.dialer.forget(stream)
    server, client = pair.server.delivery, pair.client.delivery
    assert len(pair.server_group.streams) <= 400
    assert len(server.sends) <= 2 * 400 + 65
    assert len(client.sends) <= 70
    assert not server.active
    assert not client.active


def test_a_finished_log_goes_after_its_retention_while_the_connection_stays() -> None:
    pair, first, answer = connected()
    pair.finish(answer)
    pair.ask(PROMPT)
    pair.wait(310.0)
    assert pair.dialer.ended is None
    assert list(pair.server_group.streams) == [1]
    assert first.incoming.is_complete


def test_early_and_late_timers_and_a_clock_that_goes_back() -> None:
    pair, stream, answer = connected()
    now = pair.now
    for at in (now - 100.0, now - 0.1, now, now):
        pair.listener.handle_timer(now=at)
        pair.dialer.handle_timer(now=at)
        assert pair.listener.datagrams_to_send(now=at) == []
        assert pair.dialer.datagrams_to_send(now=at) == []
    pair.now = now - 50.0
    pair.write(answer, b"\xa3abc")
    pair.drain()
    pair.now = now
    pair.wait(0.2)
    assert stream.read() == b"\xa3abc"
