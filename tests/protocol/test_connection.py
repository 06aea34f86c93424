"""One connection between both sides: streams at their edges, flow control, ends, options."""

import pytest

from eloquent.errors import StreamStopped
from eloquent.protocol.compose import MAX_BURST
from eloquent.protocol.connection import Settings
from eloquent.protocol.delivery import CONNECTION_WINDOW
from eloquent.protocol.events import (
    Connected,
    StopRequested,
    StreamEnded,
    StreamOpened,
    StreamReadable,
    StreamWritable,
    Thinking,
)
from eloquent.protocol.receive import STREAM_WINDOW
from eloquent.protocol.send import RETRANSMISSION_ONLY
from eloquent.protocol.streams import Stream
from eloquent.protocol.wire import MAX_DATAGRAM, Kind, Ping, ResetCode
from tests.pair import Pair

PROMPT = b"\xa2hi"


def connected(**settings: object) -> tuple[Pair, Stream, Stream]:
    pair = Pair(settings=Settings(**settings))  # type: ignore[arg-type]
    stream = pair.connect()
    return pair, stream, pair.server_stream(stream)


def of_kind(events: list[object], kind: type) -> list[object]:
    return [event for event in events if isinstance(event, kind)]


def is_settled(pair: Pair) -> bool:
    """Nothing is in flight and nobody has anything to say."""
    return not any(
        side.recovery.bytes_in_flight
        or side.delivery.controls
        or any(send.acked < send.log.stop for send in side.delivery.active)
        for side in (pair.client, pair.server)
    )


def read_all(pair: Pair, stream: Stream, seconds: float = 10.0) -> bytes:
    """What the server's application reads of a prompt until it ends."""
    received = b""
    for _ in range(int(seconds / 0.05)):
        found = pair.server_group.streams.get(stream.id)
        if found is not None:
            received += found.read()
            pair.listener.touch(found.group)
            if found.incoming.has_ended:
                break
        pair.wait(0.05)
    return received


# The edges of a log


@pytest.mark.parametrize("size", [0, 1, 15, 16, 1100, 1171, 5000, STREAM_WINDOW - 1, STREAM_WINDOW])
def test_a_log_of_any_size_arrives_without_being_read(size: int) -> None:
    pair = Pair()
    data = bytes(size)
    stream = pair.ask(data)
    # protocol 2: FIN is exempt from flow control
    pair.wait(5.0)
    (opened,) = pair.opened()
    assert opened.incoming.is_complete
    assert opened.read() == data
    pair.write(opened, data)
    pair.finish(opened)
    pair.wait(5.0)
    assert stream.incoming.is_complete
    assert stream.read() == data
    pair.wait(0.2)
    assert is_settled(pair)
    assert not stream.is_open


def test_a_log_beyond_its_limit_waits_for_a_reader() -> None:
    pair = Pair()
    data = bytes(STREAM_WINDOW + 1)
    stream = pair.ask(data)
    pair.wait(30.0)
    (opened,) = pair.opened()
    assert opened.incoming.offset == STREAM_WINDOW
    sent = pair.client.counters.datagrams_sent
    pair.wait(60.0)
    # protocol 3: a blocked sender asks with PINGs whose interval doubles up to 2.5 s
    assert pair.client.counters.datagrams_sent - sent < 2 * 60 / 2.5
    assert read_all(pair, stream) == data
    pair.wait(0.5)
    assert opened.incoming.is_complete


def test_two_empty_logs_are_a_stream() -> None:
    pair = Pair()
    stream = pair.dialer.open()
    stream.finish()
    pair.wait(0.2)
    (opened,) = pair.opened()
    assert opened.incoming.is_complete
    pair.finish(opened)
    pair.wait(0.2)
    assert stream.incoming.is_complete
    assert is_settled(pair)


def test_a_stream_without_a_word_is_no_stream_yet() -> None:
    pair = Pair()
    stream = pair.dialer.open()
    pair.wait(1.0)
    assert pair.opened() == []
    stream.write(b"\xa1a", now=pair.now)
    pair.wait(0.2)
    assert len(pair.opened()) == 1


@pytest.mark.parametrize("written", [b"", b"\xa3abc"])
def test_a_prompt_that_is_given_up_before_anything_of_it_was_sent(written: bytes) -> None:
    pair = Pair()
    stream = pair.dialer.open()
    stream.write(written, now=pair.now)
    stream.reset(300)
    pair.wait(0.5)
    # The server hears of it: else the client would wait for an answer for ever.
    (opened,) = pair.opened()
    assert opened.incoming.has_ended
    assert opened.incoming.reset_code == 300
    assert of_kind(pair.server_events, StreamEnded) == [StreamEnded(opened)]
    opened.reset(ResetCode.ABORTED)
    pair.listener.touch(opened.group)
    pair.wait(0.5)
    assert not stream.is_open
    assert is_settled(pair)


def test_a_failed_answer_brings_its_text_first() -> None:
    pair, stream, answer = connected()
    pair.write(answer, b"\xa3abc")
    answer.reset(ResetCode.FAILED, drop_unsent=False)
    pair.listener.touch(answer.group)
    pair.drain()
    pair.down.clear()
    pair.wait(1.0)
    # protocol 2: after a failure the missing bytes are still repeated
    assert stream.read() == b"\xa3abc"
    assert stream.incoming.reset_code == ResetCode.FAILED
    assert not stream.incoming.is_complete
    assert is_settled(pair)


# STOP


def test_a_stop_ends_the_answer_and_is_answered() -> None:
    pair, stream, answer = connected()
    pair.write(answer, b"\xa3abc")
    pair.wait(0.2)
    stream.stop()
    pair.wait(0.2)
    assert of_kind(pair.server_events, StopRequested) == [StopRequested(answer)]
    assert stream.incoming.reset_code == ResetCode.STOPPED
    assert is_settled(pair)
    with pytest.raises(StreamStopped):
        pair.write(answer, b"\xa1a")


def test_a_stop_that_is_lost_is_repeated() -> None:
    pair, stream, answer = connected()
    stream.stop()
    pair.drain()
    pair.up.clear()
    pair.wait(1.0)
    assert answer.stop_received
    assert stream.incoming.reset_code == ResetCode.STOPPED


def test_a_stop_that_crosses_the_end_never_completes() -> None:
    pair, stream, answer = connected()
    pair.write(answer, b"\xa3abc")
    pair.finish(answer)
    pair.drain()
    stream.stop()
    pair.wait(1.0)
    # protocol 2: stopped answers never report complete
    assert stream.incoming.has_ended
    assert not stream.incoming.is_complete
    assert of_kind(pair.server_events, StopRequested) == []
    assert len(of_kind(pair.client_events, StreamEnded)) == 1
    assert is_settled(pair)


def test_a_stop_that_crosses_a_reset() -> None:
    pair, stream, answer = connected()
    pair.write(answer, b"\xa3abc")
    answer.reset(ResetCode.ABORTED)
    pair.listener.touch(answer.group)
    pair.drain()
    stream.stop()
    pair.wait(1.0)
    assert stream.incoming.has_ended
    assert not stream.incoming.is_complete
    assert len(of_kind(pair.client_events, StreamEnded)) == 1
    assert is_settled(pair)


def test_a_stop_before_the_prompt_has_arrived() -> None:
    pair, _, _ = connected()
    stream = pair.ask(PROMPT)
    pair.drain()
    prompt, pair.up = pair.up, []
    stream.stop()
    pair.wait(0.002)
    assert stream.incoming.reset_code == ResetCode.STOPPED
    for entry in prompt:
        pair.to_server(*entry)
    pair.wait(1.0)
    # Nobody needs to answer it.
    assert len(pair.opened()) == 1
    assert pair.server_stream(stream).incoming.has_ended
    assert is_settled(pair)
    assert not stream.is_open


def test_prompts_that_nobody_will_read_take_no_credit() -> None:
    pair, _, _ = connected()
    for _ in range(8):
        stream = pair.ask(bytes(200_000))
        stream.stop()
        pair.wait(3.0)
        assert not stream.is_open
    whole = pair.ask(bytes(200_000))
    pair.wait(3.0)
    assert pair.server_stream(whole).incoming.is_complete


# Flow control of the connection


@pytest.mark.parametrize("policy", [Settings().policy, RETRANSMISSION_ONLY])
def test_ends_that_wait_for_credit_wait_quietly(policy: object) -> None:
    pair = Pair(settings=Settings(policy=policy))  # type: ignore[arg-type]
    streams = [pair.ask(bytes(250_000)) for _ in range(6)]
    pair.wait(20.0)
    received = sum(stream.incoming.offset for stream in pair.server_group.streams.values())
    assert received == CONNECTION_WINDOW
    sent = pair.client.counters.datagrams_sent
    pair.wait(60.0)  # Asserts that no timer stays due.
    assert pair.client.counters.datagrams_sent - sent < 2 * 60 / 2.5
    for stream in streams:
        assert len(read_all(pair, stream)) == 250_000
    pair.wait(1.0)
    assert is_settled(pair)


def test_an_empty_log_ends_while_the_connection_is_blocked() -> None:
    pair = Pair()
    for _ in range(5):
        pair.ask(bytes(250_000))
    pair.wait(20.0)
    empty = pair.ask(b"")
    pair.wait(1.0)
    # protocol 2: FIN is exempt from flow control
    assert pair.server_stream(empty).incoming.is_complete


def test_a_writer_is_told_when_enough_was_acknowledged() -> None:
    pair, stream, answer = connected()
    pair.write(answer, bytes(50_000))
    answer.low_water = 1000
    pair.wait(5.0)
    assert of_kind(pair.server_events, StreamWritable) == [StreamWritable(answer)]
    assert len(stream.read()) == 50_000


# Many streams


def test_a_hundred_streams_at_once() -> None:
    pair = Pair()
    streams = [pair.ask(b"\xa3%03d" % number) for number in range(100)]
    pair.wait(0.5)
    answers = [pair.server_stream(stream) for stream in streams]
    assert [answer.read() for answer in answers] == [b"\xa3%03d" % number for number in range(100)]
    for turn in range(20):
        for number, answer in enumerate(answers):
            pair.write(answer, b"\xa6%03d:%02d" % (number, turn))
        pair.drain()
        if turn % 4 == 1:
            pair.down.clear()
        pair.wait(0.025)
    for answer in answers:
        pair.finish(answer)
    pair.wait(2.0)
    for number, stream in enumerate(streams):
        assert stream.incoming.is_complete
        assert stream.read() == b"".join(b"\xa6%03d:%02d" % (number, turn) for turn in range(20))
    assert is_settled(pair)


# Options


@pytest.mark.parametrize("padding", [0, 1, 64, 1200])
def test_padding(padding: int) -> None:
    pair, stream, answer = connected(padding=padding)
    sizes = set()
    for turn in range(30):
        pair.write(answer, b"\xa3abc" * (turn % 5 + 1))
        pair.drain()
        text = pair.server.counters.text_datagrams
        sizes |= {len(data) for data, _ in pair.down} if text else set()
        pair.wait(0.05)
    pair.finish(answer)
    pair.wait(0.5)
    assert stream.incoming.is_complete
    assert max(sizes) <= MAX_DATAGRAM
    if padding == 1200:
        assert sizes == {MAX_DATAGRAM}
    elif padding:
        assert all((size - 29) % padding == 0 for size in sizes)


def test_no_coalescing() -> None:
    pair, stream, answer = connected(coalescing=0.0)
    before = pair.server.counters.text_datagrams
    for _ in range(10):
        pair.write(answer, b"\xa3abc")
        pair.wait(0.012)
    assert pair.server.counters.text_datagrams - before == 10
    pair.finish(answer)
    pair.wait(0.5)
    assert stream.read() == b"\xa3abc" * 10


def test_retransmission_only() -> None:
    pair, stream, answer = connected(policy=RETRANSMISSION_ONLY)
    for turn in range(40):
        pair.write(answer, b"\xa3%03d" % turn)
        pair.drain()
        if turn % 5 == 2:
            pair.down.clear()
        pair.wait(0.025)
    pair.finish(answer)
    pair.wait(3.0)
    assert stream.incoming.is_complete
    assert stream.read() == b"".join(b"\xa3%03d" % turn for turn in range(40))
    assert is_settled(pair)


# The contract


def test_the_same_entropy_inputs_and_times_give_the_same_bytes() -> None:
    recorded = []
    for _ in range(2):
        pair, _, answer = connected()
        sent: list[bytes] = []
        for _ in range(20):
            pair.write(answer, b"\xa3abc")
            pair.drain()
            sent += [data for data, _ in (*pair.up, *pair.down)]
            pair.wait(0.03)
        recorded.append(sent)
    # The exchange of keys is random; sizes and headers are not, nor is anything before it.
    assert [(data[:13], len(data)) for data in recorded[0]] == [
        (data[:13], len(data)) for data in recorded[1]
    ]
    assert recorded[0] == recorded[1]


def test_next_timer_is_pure() -> None:
    pair, _, answer = connected()
    pair.write(answer, b"\xa3abc")
    pair.drain()
    assert len({pair.server.next_timer() for _ in range(3)}) == 1
    assert len({pair.dialer.next_timer() for _ in range(3)}) == 1
    assert pair.listener.datagrams_to_send(now=pair.now) == []


def test_one_drain_gives_a_bounded_burst() -> None:
    pair = Pair()
    pair.ask(bytes(200_000))
    assert len(pair.dialer.datagrams_to_send(now=pair.now)) <= MAX_BURST


def test_the_first_flight_is_1200_bytes_until_the_reply() -> None:
    pair = Pair()
    pair.ask(bytes(5000))
    pair.drain()
    # protocol 6: every client datagram is exactly 1200 bytes until the first reply
    assert len(pair.up) > 3
    assert {(len(data), data[0] >> 5) for data, _ in pair.up} == {(MAX_DATAGRAM, int(Kind.INITIAL))}
    pair.wait(0.2)
    assert of_kind(pair.client_events, Connected) == [Connected()]
    pair.to_client(pair.sealed(Ping(), connection=pair.server), pair.public(0))
    assert {data[0] >> 5 for data, _ in pair.up} <= {int(Kind.DATA)}


def test_a_silent_model_is_thinking_not_stalled() -> None:
    pair, stream, answer = connected()
    pair.wait(20.0)
    # protocol 8: PINGs are answered, the model is silent
    assert of_kind(pair.client_events, Thinking) == [Thinking()]
    pair.write(answer, b"\xa3abc")
    pair.wait(20.0)
    assert len(of_kind(pair.client_events, Thinking)) == 2
    assert of_kind(pair.client_events, StreamReadable) == [StreamReadable(stream)]
    assert of_kind(pair.server_events, StreamOpened) == [StreamOpened(answer)]
