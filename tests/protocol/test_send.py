"""The window and what rides in the next datagram, against a model of what the peer holds."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from eloquent.protocol.log import Log
from eloquent.protocol.receive import STREAM_WINDOW
from eloquent.protocol.send import Carried, Packer, SendStream
from eloquent.protocol.wire import (
    Reset,
    Tokens,
    WireError,
    decode_frames_untrusted,
    encode_frame,
    encode_frames,
)

PLENTY = 10**9
SMALL_CHANGE = 64
"""Bytes of room that may be too little for what goes first and still do for something shorter."""


def stream_of(
    data: bytes = b"", *, stream_id: int = 0, sent: int = 0, acked: int = 0, has_ended: bool = False
) -> SendStream:
    log = Log()
    log.append(data)
    if has_ended:
        log.finish()
    send = SendStream(stream_id, log)
    if sent:
        send.on_sent(0, sent, now=1.0)
    if acked:
        send.on_offset_untrusted(acked, None)
    return send


def packed_size(carried: Iterable[Carried]) -> int:
    """Bytes of the frames, really encoded, without the array around them."""
    return sum(len(encode_frames([frame])) - 1 for send, *span in carried for frame in send.frames(*span))


def offsets(carried: Iterable[Carried], owner: SendStream) -> set[int]:
    return {offset for send, start, stop in carried if send is owner for offset in range(start, stop)}


def spans(carried: list[Carried] | None) -> list[tuple[int, int, int]]:
    assert carried is not None
    return [(send.id, start, stop) for send, start, stop in carried]


def partial(
    *streams: SendStream,
    room: int,
    credit: int = PLENTY,
    from_oldest: bool = False,
    reach: bool = True,
    with_new: bool = True,
) -> list[tuple[int, int, int]]:
    packer = Packer(streams, room, credit)
    return spans(packer.partial(from_oldest=from_oldest, reach=reach, with_new=with_new))


@dataclass
class Flow:
    """A stream, its datagrams under way, and which bytes the peer holds."""

    send: SendStream
    in_flight: list[tuple[int, int]] = field(default_factory=list)
    held: set[int] = field(default_factory=set)

    @property
    def contiguous(self) -> int:
        offset = self.send.start
        while offset in self.held:
            offset += 1
        return offset

    def transmit(self, start: int, stop: int, *, now: float) -> None:
        self.send.on_sent(start, stop, now=now)
        self.in_flight.append((start, stop))

    def arrive(self, index: int) -> None:
        start, stop = self.in_flight.pop(index)
        self.held |= set(range(start, stop))
        self.send.on_range_acked(start, stop)

    def lose(self, index: int, *, is_spurious: bool) -> None:
        start, stop = self.in_flight.pop(index)
        if is_spurious:
            self.held |= set(range(start, stop))
        self.send.on_range_lost(start, stop, self.in_flight)

    def check(self) -> None:
        send = self.send
        lost = {offset for span in send.lost for offset in range(*span)}
        delivered = {offset for span in send.delivered for offset in range(*span)}
        under_way = {offset for span in self.in_flight for offset in range(*span)}
        assert send.start <= send.acked <= send.sent <= send.log.end + 1
        window = set(range(send.acked, send.sent))
        # protocol 1: bytes whose every carrier was declared lost go again; none is ever forgotten
        assert window == (window & under_way) | lost | delivered
        assert not lost & delivered
        assert not lost & under_way
        assert delivered <= self.held
        assert set(range(send.start, send.acked)) <= self.held


@st.composite
def flows(draw: st.DrawFn, stream_id: int = 0) -> Flow:
    """Any stream that sending, acknowledgments and losses can lead to."""
    start = draw(st.sampled_from([0, 0, 100]))
    log = Log()
    log.append(bytes(start))
    log.sent = start
    flow = Flow(SendStream(stream_id, log, start=start))
    send = flow.send
    for step in range(draw(st.integers(0, 14))):
        action = draw(st.sampled_from(["write", "send", "send", "arrive", "lose", "offset", "end"]))
        if action == "write" and not log.has_ended:
            log.append(bytes(index % 251 for index in range(draw(st.integers(1, 400)))))
        elif action == "send" and send.sendable_end > send.acked:
            low = draw(st.integers(send.acked, send.sendable_end - 1))
            high = draw(st.integers(low + 1, send.sendable_end))
            # Nothing is sent for the first time with a gap before it.
            flow.transmit(min(low, send.sent), high, now=float(step))
        elif action in ("arrive", "lose") and flow.in_flight:
            index = draw(st.integers(0, len(flow.in_flight) - 1))
            if action == "arrive":
                flow.arrive(index)
            else:
                flow.lose(index, is_spurious=draw(st.booleans()))
        elif action == "offset":
            send.on_offset_untrusted(flow.contiguous, draw(st.none() | st.integers(0, 2 * STREAM_WINDOW)))
        elif action == "end" and draw(st.booleans()):
            if draw(st.booleans()):
                log.finish()
            else:
                log.reset(2, drop_unsent=draw(st.booleans()))
        flow.check()
    return flow


@st.composite
def several(draw: st.DrawFn) -> list[SendStream]:
    return [
        draw(flows(stream_id)).send for stream_id in draw(st.sampled_from([[0], [0], [3, 200], [0, 1, 2]]))
    ]


rooms = st.integers(0, 700)
credits_ = st.sampled_from([0, 1, 50, PLENTY])


@given(flows(), st.integers(40, 200), st.data())
def test_no_byte_is_ever_forgotten(flow: Flow, room: int, data: st.DataObject) -> None:
    """From any state, a link that loses half of everything ends with the peer holding it all."""
    send = flow.send
    send.log.finish()
    for now in range(400):
        carried = Packer([send], room, PLENTY).partial(
            from_oldest=not flow.in_flight, reach=True, with_new=True
        )
        for _, start, stop in carried:
            flow.transmit(start, stop, now=float(now))
        while len(flow.in_flight) > 4:
            is_lost = now < 40 and data.draw(st.booleans())
            flow.lose(0, is_spurious=False) if is_lost else flow.arrive(0)
        flow.check()
        if not carried:
            break
        while not send.lost and send.sent == send.sendable_end and flow.in_flight:
            flow.arrive(0)
    while flow.in_flight:
        flow.arrive(0)
    flow.check()
    assert send.is_done
    assert send.log.is_acked


@given(several(), rooms, credits_, st.booleans(), st.booleans(), st.booleans())
def test_a_choice_fits_and_never_repeats_itself(
    streams: list[SendStream], room: int, credit: int, from_oldest: bool, reach: bool, with_new: bool
) -> None:
    carried = Packer(streams, room, credit).partial(from_oldest=from_oldest, reach=reach, with_new=with_new)
    note(repr(spans(carried)))
    assert packed_size(carried) <= room
    for send in streams:
        mine = sorted(span for owner, *span in carried if owner is send)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(mine))
        assert all(send.acked <= start < stop <= send.sendable_end for start, stop in mine)
        # What goes for the first time begins where the last one ended.
        new = {offset for offset in offsets(carried, send) if offset >= send.sent}
        assert new == set(range(send.sent, send.sent + len(new)))
        assert with_new or not new
    fresh = sum(max(min(stop, send.log.end) - max(start, send.sent), 0) for send, start, stop in carried)
    assert fresh <= credit


@given(several(), rooms)
def test_the_whole_window_is_taken_where_it_fits(streams: list[SendStream], room: int) -> None:
    whole = Packer(streams, room, PLENTY).whole_window()
    everything = [(send, send.acked, send.sendable_end) for send in streams if send.sendable_end > send.acked]
    if whole is None:
        # The room is reckoned with the longest headers: three bytes are not always needed.
        assert packed_size(everything) + 10 * len(everything) > room
    else:
        # protocol 1: the window from its oldest unacknowledged byte up to the newest token
        assert whole == everything
        assert packed_size(whole) <= room


def test_a_window_beyond_the_credit_is_not_whole() -> None:
    send = stream_of(bytes(100), sent=40)
    assert Packer([send], 1000, 59).whole_window() is None
    assert spans(Packer([send], 1000, 60).whole_window()) == [(0, 0, 100)]


def test_the_end_needs_no_credit() -> None:
    send = stream_of(bytes(40), sent=40, has_ended=True)
    # protocol 2: FIN and RESET are exempt from flow control
    assert spans(Packer([send], 1000, 0).whole_window()) == [(0, 0, 41)]
    assert partial(send, room=12 + 20, credit=0, reach=False) == [(0, 40, 41)]


@given(several(), rooms, st.booleans())
def test_lost_bytes_go_first(streams: list[SendStream], room: int, reach: bool) -> None:
    carried = Packer(streams, room, PLENTY).partial(from_oldest=False, reach=reach, with_new=True)
    lost = {(send.id, offset) for send in streams for span in send.lost for offset in range(*span)}
    chosen = {(send.id, offset) for send in streams for offset in offsets(carried, send)}
    # protocol 1: bytes whose every carrier was declared lost go again first
    if lost - chosen:
        assert len(chosen - lost) < SMALL_CHANGE


@given(several(), rooms)
def test_unsent_bytes_go_before_redundancy(streams: list[SendStream], room: int) -> None:
    carried = Packer(streams, room, PLENTY).partial(from_oldest=False, reach=True, with_new=True)
    unsent = {(send.id, offset) for send in streams for offset in range(send.sent, send.sendable_end)}
    lost = {(send.id, offset) for send in streams for span in send.lost for offset in range(*span)}
    chosen = {(send.id, offset) for send in streams for offset in offsets(carried, send)}
    # protocol 1: a datagram carries unsent bytes first, as many as fit
    if unsent - chosen:
        assert len(chosen - unsent - lost) < SMALL_CHANGE


@given(*3 * [st.integers(0, 2000)], st.integers(SMALL_CHANGE, 1200), st.booleans())
def test_the_reach_goes_back_without_a_gap_and_wastes_no_room(
    acked: int, redundant: int, new: int, room: int, has_ended: bool
) -> None:
    sent = acked + redundant
    send = stream_of(bytes(sent + new), sent=sent, acked=acked, has_ended=has_ended)
    carried = Packer([send], room, PLENTY).partial(from_oldest=False, reach=True, with_new=True)
    if not carried:
        assert send.sendable_end == send.acked
        return
    ((_, start, stop),) = carried
    # protocol 1: into the room that is left it reaches back towards the oldest unacknowledged byte
    if start > acked:
        assert room - packed_size(carried) <= 12
        assert start <= sent
    if stop < send.sendable_end:
        # Room that was kept for an end that then did not fit is worth a few old bytes.
        assert sent - start <= (12 if has_ended else 0)
        assert room - packed_size(carried) <= (24 if has_ended else 12)


@given(several(), st.integers(SMALL_CHANGE, 700))
def test_a_probe_starts_at_the_oldest_byte(streams: list[SendStream], room: int) -> None:
    carried = Packer(streams, room, PLENTY).partial(from_oldest=True, reach=True, with_new=True)
    waiting = [send for send in streams if send.sent > send.acked]
    if waiting:
        longest = min(waiting, key=lambda send: send.carried_at)
        # protocol 4: the probe starts at the oldest unacknowledged byte
        assert longest.acked in offsets(carried, longest)


@given(several(), rooms)
def test_frames_say_what_the_log_says(streams: list[SendStream], room: int) -> None:
    carried = Packer(streams, room, PLENTY).partial(from_oldest=False, reach=True, with_new=True)
    for send, start, stop in carried:
        log = send.log
        frames = decode_frames_untrusted(encode_frames(send.frames(start, stop)))
        is_end = log.length is not None and stop == log.length + 1
        last = log.length if is_end else stop
        data = log.slice(start, last or 0)
        tokens = [frame for frame in frames if isinstance(frame, Tokens)]
        resets = [frame for frame in frames if isinstance(frame, Reset)]
        assert len(frames) == len(tokens) + len(resets)
        assert b"".join(frame.data for frame in tokens) == data
        assert all((frame.stream, frame.base) == (send.id, start) for frame in tokens)
        if is_end and log.reset_code is None:
            assert [(frame.length, frame.digest) for frame in tokens] == [(log.length, log.digest)]
        else:
            assert all(frame.length is None for frame in tokens)
        expected = [Reset(send.id, log.length or 0, log.reset_code or 0)] if log.reset_code and is_end else []
        assert resets == expected


def test_a_chat_datagram_renders_alone() -> None:
    send = stream_of(bytes(120), sent=100, acked=60)
    assert spans(Packer([send], 1150, PLENTY).whole_window()) == [(0, 60, 120)]


def test_a_large_window_is_sent_in_part() -> None:
    send = stream_of(bytes(3000), sent=2900)
    assert partial(send, room=1000) == [(0, 2009, 3000)]
    assert partial(send, room=1000, reach=False) == [(0, 2900, 3000)]


def test_more_unsent_than_fits_leaves_no_redundancy() -> None:
    send = stream_of(bytes(3000), sent=1000)
    assert partial(send, room=1000) == [(0, 1000, 1991)]


def test_a_lost_range_comes_before_new_bytes() -> None:
    send = stream_of(bytes(1000), sent=600)
    send.on_range_lost(100, 300, [])
    assert partial(send, room=250) == [(0, 100, 300), (0, 600, 634)]
    assert partial(send, room=100) == [(0, 100, 193)]


def test_a_probe_carries_lost_bytes_once() -> None:
    send = stream_of(bytes(600), sent=600)
    send.on_range_lost(100, 300, [])
    assert partial(send, room=1000, from_oldest=True) == [(0, 0, 600)]
    assert partial(send, room=207, from_oldest=True) == [(0, 0, 200)]


def test_reaching_back_stops_at_what_is_carried_already() -> None:
    send = stream_of(bytes(700), sent=600)
    send.on_range_lost(100, 300, [])
    assert partial(send, room=1000) == [(0, 100, 300), (0, 300, 700)]


def test_a_token_does_not_wait_behind_an_upload() -> None:
    upload, token = stream_of(bytes(5000)), stream_of(b"token", stream_id=1)
    assert partial(upload, token, room=200, reach=False)[0] == (1, 0, 5)


def test_a_stream_that_waited_longest_is_probed_first() -> None:
    first, second = stream_of(bytes(500), sent=500), stream_of(bytes(500), stream_id=1)
    second.on_sent(0, 500, now=0.5)
    assert partial(first, second, room=200, from_oldest=True)[0][:2] == (1, 0)
    second.on_sent(0, 10, now=2.0)
    assert partial(first, second, room=200, from_oldest=True)[0][:2] == (0, 0)


def test_copies_of_later_bytes_do_not_postpone_the_probe() -> None:
    send = stream_of(bytes(100), sent=50)
    assert send.carried_at == 1.0
    send.on_sent(20, 100, now=3.0)
    # protocol 4: from the last datagram that carried the oldest unacknowledged byte
    assert send.carried_at == 1.0
    send.on_sent(0, 10, now=4.0)
    assert send.carried_at == 4.0


def test_sending_says_how_many_bytes_were_never_sent() -> None:
    send = stream_of(bytes(100), has_ended=True)
    assert send.on_sent(0, 60, now=0.0) == 60
    assert send.on_sent(20, 80, now=0.0) == 20
    assert send.on_sent(0, 101, now=0.0) == 20  # the end is no byte
    assert send.log.sent == 101


def test_flow_control_holds_bytes_back_and_with_them_the_end() -> None:
    send = stream_of(bytes(STREAM_WINDOW + 10), has_ended=True)
    # protocol 3: initially 256 KiB beyond where it starts
    assert send.sendable_end == STREAM_WINDOW
    send.on_offset_untrusted(0, STREAM_WINDOW + 9)
    assert send.sendable_end == STREAM_WINDOW + 9
    send.on_offset_untrusted(0, STREAM_WINDOW + 10)
    assert send.sendable_end == STREAM_WINDOW + 11


def test_a_limit_is_never_taken_back() -> None:
    send = stream_of(bytes(10))
    send.on_offset_untrusted(0, 5)
    assert send.limit == STREAM_WINDOW


def test_an_acknowledgment_of_bytes_never_sent_is_a_violation() -> None:
    send = stream_of(bytes(100), sent=50)
    with pytest.raises(WireError):
        send.on_offset_untrusted(51, None)
    send.on_offset_untrusted(50, None)
    assert send.acked == 50


def test_after_a_resumption_the_peer_may_hold_more_than_was_said() -> None:
    log = Log()
    log.append(bytes(100))
    SendStream(0, log).on_sent(0, 80, now=0.0)
    send = SendStream(0, log, start=30)
    assert (send.sent, send.limit) == (30, 30 + STREAM_WINDOW)
    send.on_offset_untrusted(80, None)
    assert (send.acked, send.sent) == (80, 80)
    with pytest.raises(WireError):
        send.on_offset_untrusted(81, None)


def test_acknowledged_packets_close_the_window_across_a_hole() -> None:
    send = stream_of(bytes(100), sent=100)
    send.on_range_acked(50, 70)
    assert send.acked == 0
    send.on_range_acked(0, 50)
    assert send.acked == 70
    assert send.log.acked == 70


def test_only_what_nothing_carries_any_more_is_lost() -> None:
    send = stream_of(bytes(100), sent=100)
    send.on_range_acked(40, 50)
    send.on_range_lost(10, 90, [(0, 20), (80, 100)])
    assert list(send.lost) == [(20, 40), (50, 80)]
    send.on_range_acked(30, 60)  # it was only late
    assert list(send.lost) == [(20, 30), (60, 80)]
    send.on_sent(25, 70, now=2.0)
    assert list(send.lost) == [(20, 25), (70, 80)]
    send.on_offset_untrusted(75, None)
    assert list(send.lost) == [(75, 80)]


def test_the_end_is_sent_again_like_data() -> None:
    send = stream_of(b"abc", sent=4, has_ended=True)
    send.on_range_acked(0, 3)
    send.on_range_lost(3, 4, [])
    assert partial(send, room=100, reach=False) == [(0, 3, 4)]
    assert send.frames(3, 4) == [encode_frame(Tokens(0, 3, b"", 3, send.log.digest))]
    # protocol 2: acknowledged as length + 1
    send.on_offset_untrusted(4, None)
    assert send.is_done
