"""The client's side: refusals, new tickets, attempts beside the old connection, the end."""

import pytest

from eloquent.errors import UsageError
from eloquent.protocol.dialer import RETRY_BUSY
from eloquent.protocol.events import (
    Connected,
    ConnectionEnded,
    PathChanged,
    Resumed,
    Stalled,
    StreamEnded,
    StreamInterrupted,
    TicketNeeded,
)
from eloquent.protocol.silence import GIVE_UP
from eloquent.protocol.streams import Stream
from eloquent.protocol.wire import CloseCode, Kind, RefusalCode, ResetCode
from tests.pair import START, Pair

PROMPT = b"\xa2hi"


def connected() -> tuple[Pair, Stream, Stream]:
    """A pair and both sides of its one stream, whose prompt is whole and whose answer is empty."""
    pair = Pair()
    stream = pair.connect()
    pair.client_events.clear()
    pair.server_events.clear()
    return pair, stream, pair.server_stream(stream)


def count(pair: Pair, kind: type) -> int:
    return sum(isinstance(event, kind) for event in pair.client_events)


def refuse_everything(pair: Pair) -> None:
    """Another process serves now, which knows neither tickets nor logs."""
    pair.restart_server()
    pair.up.clear()
    pair.down.clear()


def exchange(pair: Pair, answer: Stream, stream: Stream) -> None:
    """Text still gets from the server to the client."""
    pair.write(answer, b"\xa3abc")
    pair.wait(1.0)
    assert stream.read() == b"\xa3abc"


# Refusals of the first flight


def test_a_refusal_asks_for_one_new_ticket() -> None:
    pair = Pair()
    refuse_everything(pair)
    stream = pair.ask(PROMPT)
    pair.wait(0.2, delivers=False)
    assert len(pair.up) > 1
    # Each datagram of the flight gets a refusal; the application fetches one ticket.
    pair.wait(0.2)
    assert pair.client_events == [TicketNeeded(RefusalCode.EXPIRED)]
    with pytest.raises(UsageError, match="has ended"):
        pair.dialer.open()
    pair.dialer.use_ticket(pair.new_ticket(), now=pair.now)
    pair.wait(0.2)
    assert count(pair, Connected) == 1
    assert pair.server_stream(stream).read() == PROMPT
    assert len(pair.opened()) == 1


def test_a_refusal_after_the_end_is_ignored() -> None:
    pair = Pair()
    refuse_everything(pair)
    pair.ask(PROMPT)
    pair.drain()
    pair.dialer.leave(now=pair.now)
    pair.wait(1.0)
    assert [type(event) for event in pair.client_events] == [ConnectionEnded]


def test_a_forged_refusal_is_dropped() -> None:
    pair = Pair()
    pair.ask(PROMPT)
    pair.drain()
    header = bytes([Kind.REFUSED << 5 | 1 << 2]) + pair.client.protection.connection_id + bytes(4)
    pair.to_client(header + bytes(12 + 17), pair.public(0))
    assert pair.dialer.dropped == 1
    assert pair.dialer.ended is None


def test_a_refusal_comes_too_late_once_the_server_has_replied() -> None:
    pair = Pair()
    pair.ask(PROMPT)
    pair.drain()
    data, source = pair.up[0]
    genuine = pair.listener
    pair.listener = pair.new_listener(worker=1)
    pair.to_server(data, source)
    refusals, pair.down = pair.down, []
    pair.listener = genuine
    pair.wait(0.2)
    pair.to_client(*refusals[0])
    assert count(pair, Connected) == 1
    assert count(pair, TicketNeeded) == 0
    assert pair.dialer.dropped == 1


def test_each_connection_may_try_a_new_socket_once() -> None:
    pair = Pair()
    pair.ask(PROMPT)
    pair.wait(4.0, delivers=False)
    assert len({source for _, source in pair.up}) == 2
    refuse_everything(pair)
    pair.wait(1.0)
    assert count(pair, TicketNeeded) == 1
    pair.dialer.use_ticket(pair.new_ticket(), now=pair.now)
    pair.wait(4.0, delivers=False)
    assert len({source for _, source in pair.up}) == 2
    pair.wait(1.0)
    assert count(pair, Connected) == 1


# Resumption


def test_a_new_network_is_a_resumption_from_a_new_socket() -> None:
    pair, stream, answer = connected()
    before = pair.server
    pair.dialer.network_changed(now=pair.now)
    assert pair.dialer.live_sockets == {0, 1}
    pair.wait(0.2)
    assert pair.dialer.live_sockets == {1}
    assert pair.server is not before
    assert pair.server.group is before.group
    assert [type(event) for event in pair.client_events] == [PathChanged, Resumed]
    assert count(pair, ConnectionEnded) == 0
    exchange(pair, answer, stream)


def test_a_client_that_has_moved_does_not_answer_from_where_it_was() -> None:
    pair = Pair()
    for _ in range(3):
        pair.dialer.network_changed(now=pair.now)
        pair.drain()
    pair.wait(5.0)  # Asserts that the two sides do not keep each other busy.
    assert pair.server.paths.active.address == pair.public(3)
    assert pair.server.paths.active.is_validated
    assert pair.server.paths.previous is None


def test_the_old_path_goes_on_until_the_new_one_answers() -> None:
    pair, stream, answer = connected()
    pair.dialer.network_changed(now=pair.now)
    pair.drain()
    flight, pair.up = pair.up, []
    pair.write(answer, b"\xa3abc")
    pair.drain()
    pair.to_client(*pair.down.pop())
    assert stream.read() == b"\xa3abc"
    assert pair.dialer.live_sockets == {0, 1}
    pair.up += flight
    pair.wait(0.5)
    assert pair.dialer.live_sockets == {1}
    exchange(pair, answer, stream)


def test_an_attempt_ends_when_the_old_path_answers_again() -> None:
    pair, stream, answer = connected()
    pair.write(answer, b"\xa3abc")
    pair.wait(5.0, delivers=False)
    assert pair.dialer.live_sockets == {0, 1}
    old = [entry for entry in pair.down if entry[1] == pair.public(0)]
    pair.up.clear()
    pair.down.clear()
    pair.to_client(*old[-1])
    assert pair.dialer.live_sockets == {0}
    pair.wait(1.0)
    assert stream.read() == b"\xa3abc"
    assert pair.listener.connection_count == 1


def test_a_stall_and_its_end_are_announced_once() -> None:
    pair, stream, answer = connected()
    pair.wait(5.0, delivers=False)
    pair.up.clear()
    pair.down.clear()
    pair.wait(2.0)
    exchange(pair, answer, stream)
    assert count(pair, Stalled) == 1
    assert count(pair, Resumed) == 1


def test_bytes_that_the_old_path_delivered_meanwhile_are_not_asked_again() -> None:
    """The old path acknowledges so much that the client lets it go; then the new path takes over."""
    pair, _, _ = connected()
    data = b"\xc6\x00\x03\x00\x00" + bytes(range(256)) * 768
    stream = pair.dialer.open()
    stream.write(data, now=pair.now)
    pair.drain()
    pair.to_server(*pair.up.pop(0))
    pair.dialer.network_changed(now=pair.now)
    pair.drain()
    attempt = [entry for entry in pair.up if entry[0][0] >> 5 == Kind.INITIAL]
    pair.up = [entry for entry in pair.up if entry[0][0] >> 5 != Kind.INITIAL]
    # Its reply is under way while the old path goes on.
    for entry in attempt:
        pair.to_server(*entry)
    replies = [entry for entry in pair.down if entry[0][0] >> 5 == Kind.REPLY]
    pair.down = [entry for entry in pair.down if entry[0][0] >> 5 != Kind.REPLY]
    assert stream.outgoing.acked == 0
    while stream.outgoing.start == 0:
        moved, pair.up = pair.up, []
        for entry in moved:
            if entry[0][0] >> 5 != Kind.INITIAL:
                pair.to_server(*entry)
        moved, pair.down = pair.down, []
        for entry in moved:
            if entry[0][0] >> 5 == Kind.DATA:
                pair.to_client(*entry)
        pair.wait(0.01, delivers=False)
    assert stream.outgoing.acked < len(data)
    pair.up.clear()
    for entry in replies:
        pair.to_client(*entry)
    assert pair.dialer.live_sockets == {1}
    assert pair.client.delivery.sends[stream.id].acked >= stream.outgoing.start
    stream.finish()
    received = b""
    for _ in range(50):
        pair.wait(0.1)
        for group in pair.listener.groups:
            received += group.streams[stream.id].read()
            pair.listener.touch(group)
    assert received == data
    assert not stream.outgoing.unacked


def test_a_busy_server_is_asked_again() -> None:
    pair, stream, answer = connected()
    ticket = pair.dialer._resumption
    assert ticket is not None
    for _ in range(2):  # As many unconfirmed connections as a ticket may have.
        other = pair.new_dialer(ticket)
        other.ping()
        pair.to_server(*other.datagrams_to_send(now=pair.now)[0])  # type: ignore[arg-type]
    pair.down.clear()
    pair.dialer.network_changed(now=pair.now)
    pair.wait(RETRY_BUSY / 2)
    assert pair.listener.refused == {"busy": 1}
    assert pair.dialer.live_sockets == {0}
    pair.wait(20.0)
    # protocol 7: unconfirmed attempts expire at the server after 10 s
    assert len(pair.dialer.live_sockets) == 1
    assert pair.dialer.live_sockets != {0}
    exchange(pair, answer, stream)
    refused = pair.listener.refused["busy"]
    pair.wait(20.0)
    assert pair.listener.refused["busy"] == refused


def test_a_retry_is_forgotten_with_the_ticket_that_it_was_for() -> None:
    pair, stream, _ = connected()
    pair.listener.refuse_new()
    pair.dialer.network_changed(now=pair.now)
    pair.wait(0.1)
    assert pair.listener.refused == {"shutdown": 1}
    # Before it tries again, the network changes once more, and now the server has lost the log.
    refuse_everything(pair)
    pair.dialer.network_changed(now=pair.now)
    pair.wait(5.0)
    assert count(pair, StreamInterrupted) == 1
    assert count(pair, TicketNeeded) == 1
    pair.dialer.use_ticket(pair.new_ticket(), now=pair.now)
    pair.ask(PROMPT)
    pair.wait(5.0)
    assert count(pair, Connected) == 1
    assert pair.listener.connection_count == 1
    assert pair.dialer.ended is None
    assert stream.incoming.reset_code == ResetCode.UNKNOWN_STREAM


def test_a_retry_is_not_needed_where_the_old_path_answers() -> None:
    pair, stream, answer = connected()
    pair.wait(4.0, delivers=False)
    pair.listener.refuse_new()
    flight = next(entry for entry in pair.up if entry[0][0] >> 5 == Kind.INITIAL)
    pair.up.clear()
    pair.to_server(*flight)
    refusal = next(entry for entry in pair.down if entry[0][0] >> 5 == Kind.REFUSED)
    pair.down.clear()
    pair.to_client(*refusal)
    exchange(pair, answer, stream)
    pair.wait(3.0)
    assert pair.listener.refused == {"shutdown": 1}
    assert pair.dialer.live_sockets == {0}


# A server that has lost its logs


def test_only_what_the_server_never_heard_of_begins_anew() -> None:
    pair, touched, answer = connected()
    exchange(pair, answer, touched)
    refuse_everything(pair)
    untouched = pair.ask(b"\xa5again")
    pair.wait(4.0)
    # protocol 7: opened anew only if nothing of it was ever acknowledged or received
    assert [event for event in pair.client_events if isinstance(event, StreamInterrupted)] == [
        StreamInterrupted(touched, 4)
    ]
    assert [event.stream for event in pair.client_events if isinstance(event, StreamEnded)] == [touched]
    assert not touched.incoming.is_complete
    assert count(pair, TicketNeeded) == 1
    assert count(pair, ConnectionEnded) == 0
    pair.dialer.use_ticket(pair.new_ticket(), now=pair.now)
    pair.wait(1.0)
    assert [stream.id for stream in pair.opened()] == [untouched.id]
    answer = pair.server_stream(untouched)
    assert answer.read() == b"\xa5again"
    exchange(pair, answer, untouched)
    assert pair.ask(PROMPT).id == untouched.id + 1
    pair.wait(0.2)
    assert len(pair.opened()) == 2


def test_ids_go_on_after_many_streams_on_a_server_that_knows_none() -> None:
    pair, first, answer = connected()
    pair.finish(answer)
    for _ in range(150):
        stream = pair.ask(PROMPT)
        pair.wait(0.1)
        pair.finish(pair.server_stream(stream))
        pair.wait(0.1)
        assert stream.incoming.is_complete
        pair.dialer.forget(stream)
    refuse_everything(pair)
    pair.dialer.use_ticket(pair.new_ticket(), now=pair.now)
    stream = pair.ask(PROMPT)
    assert stream.id > 150
    pair.wait(1.0)
    assert stream.incoming.reset_code is None
    exchange(pair, pair.server_stream(stream), stream)
    assert first.incoming.is_complete


def test_a_refusal_ends_the_silence() -> None:
    pair, _, _ = connected()
    refuse_everything(pair)
    pair.wait(GIVE_UP - 5, delivers=False)
    pair.up.clear()
    untouched = pair.ask(PROMPT)
    pair.wait(4.0)
    assert count(pair, TicketNeeded) == 1
    pair.wait(0.5)
    pair.dialer.use_ticket(pair.new_ticket(), now=pair.now)
    pair.wait(1.0, delivers=False)
    pair.up.clear()
    pair.wait(5.0)
    assert count(pair, ConnectionEnded) == 0
    assert pair.server_stream(untouched).read() == PROMPT


def test_a_client_gives_up_after_two_minutes_of_silence_and_may_start_again() -> None:
    pair, stream, _ = connected()
    pair.wait(GIVE_UP + 10, delivers=False)
    # protocol 7: the client gives up after 120 s of silence
    assert [event for event in pair.client_events if isinstance(event, ConnectionEnded)] == [
        pair.dialer.ended
    ]
    assert pair.dialer.ended is not None
    assert pair.dialer.ended.by == "silence"
    assert len(pair.dialer.live_sockets) == 1
    pair.up.clear()
    pair.down.clear()
    pair.dialer.use_ticket(pair.new_ticket(), now=pair.now)
    pair.ask(PROMPT)
    pair.wait(1.0)
    assert count(pair, Connected) == 1
    assert count(pair, StreamInterrupted) == 1
    assert not stream.incoming.is_complete


# Ends


@pytest.mark.parametrize("code", [CloseCode.NONE, CloseCode.SHUTDOWN, CloseCode.SUPERSEDED])
def test_a_close_ends_an_attempt_as_well(code: CloseCode) -> None:
    pair, _, _ = connected()
    pair.dialer.network_changed(now=pair.now)
    pair.drain()
    flight, pair.up = pair.up, []
    pair.server.close(code, now=pair.now)
    pair.listener.touch(pair.server.group)
    pair.drain()
    for entry in pair.down:
        pair.to_client(*entry)
    pair.down.clear()
    assert count(pair, ConnectionEnded) == 1
    assert pair.dialer.ended is not None
    # The attempt's reply comes all the same, and changes nothing.
    for entry in flight:
        pair.to_server(*entry)
    pair.wait(5.0)
    assert count(pair, ConnectionEnded) == 1
    assert count(pair, Resumed) == 0
    assert isinstance(pair.client_events[-1], ConnectionEnded)
    assert pair.dialer.next_timer() is None


def test_leaving_ends_an_attempt_as_well() -> None:
    pair, _, _ = connected()
    pair.wait(4.0, delivers=False)
    assert len(pair.dialer.live_sockets) == 2
    pair.dialer.leave(now=pair.now)
    pair.wait(30.0)
    assert count(pair, ConnectionEnded) == 1
    assert isinstance(pair.client_events[-1], ConnectionEnded)
    assert pair.dialer.next_timer() is None


def test_leaving_waits_for_its_stops() -> None:
    pair, stream, answer = connected()
    stream.stop()
    pair.dialer.leave(now=pair.now)
    assert pair.dialer.ended is None
    pair.wait(0.1)
    assert answer.stop_received
    assert pair.dialer.ended is not None
    assert stream.incoming.reset_code == ResetCode.STOPPED


def test_leaving_waits_three_ptos_at_most() -> None:
    pair, stream, _ = connected()
    stream.stop()
    pto = pair.client.recovery.rtt.pto
    pair.dialer.leave(now=pair.now)
    # protocol 7: a client that leaves waits up to 3 PTO for its STOPs to be answered
    pair.wait(2.9 * pto, delivers=False)
    assert pair.dialer.ended is None
    pair.wait(0.2 * pto, delivers=False)
    assert pair.dialer.ended is not None
    pair.wait(60.0, delivers=False)
    assert pair.dialer.next_timer() is None


def test_leaving_before_the_first_datagram() -> None:
    pair = Pair()
    pair.dialer.leave(now=pair.now)
    pair.wait(1.0)
    assert [type(event) for event in pair.client_events] == [ConnectionEnded]
    assert pair.opened() == []


def test_commands_after_the_end_raise() -> None:
    pair, _, _ = connected()
    pair.dialer.leave(now=pair.now)
    with pytest.raises(UsageError):
        pair.dialer.open()
    with pytest.raises(UsageError):
        pair.dialer.network_changed(now=pair.now)
    pair.dialer.leave(now=pair.now)


def test_two_devices_do_not_fight() -> None:
    pair, stream, _ = connected()
    ticket = pair.dialer._resumption
    assert ticket is not None
    other = Pair()
    other.listener, other.store, other.now = pair.listener, pair.store, pair.now
    other.next_port = 50_000
    other.dialer = pair.new_dialer(ticket)
    other.dialer.ping()
    for _ in range(40):
        for device in (pair, other):
            device.now = max(pair.now, other.now)
            device.drain()
            for entry in device.up:
                device.to_server(*entry)
            device.up.clear()
            mine = set(device.ports.values())
            arrived = [entry for entry in (*pair.down, *other.down) if entry[1][1] in mine]
            pair.down = [entry for entry in pair.down if entry not in arrived]
            other.down = [entry for entry in other.down if entry not in arrived]
            for entry in arrived:
                device.to_client(*entry)
        pair.now += 0.25
        other.now = pair.now
        pair.listener.handle_timer(now=pair.now)
        pair.dialer.handle_timer(now=pair.now)
        other.dialer.handle_timer(now=pair.now)
    ends = [event for event in pair.client_events if isinstance(event, ConnectionEnded)]
    # protocol 7: the older connection gets CLOSE(superseded), and that is that
    assert [end.code for end in ends] == [CloseCode.SUPERSEDED]
    assert other.dialer.ended is None
    assert pair.listener.groups == [pair.listener.groups[0]]
    assert not stream.incoming.has_ended
    assert pair.now > START + 10
