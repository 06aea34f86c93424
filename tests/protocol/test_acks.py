"""When to acknowledge, and what the acknowledgment says."""

from eloquent.protocol.acks import AckTracker
from eloquent.protocol.wire import (
    MAX_DATAGRAM,
    MAX_INTEGER,
    MAX_PACKET_NUMBER,
    REPLY_OVERHEAD,
    Ack,
    Welcome,
    decode_frames_untrusted,
    encode_frame,
    encode_frames,
)


def tracker(*numbers: int, now: float = 0.0) -> AckTracker:
    """A tracker that has received these packets and acknowledged them."""
    acks = AckTracker()
    for number in numbers:
        hear(acks, number, now=now)
    acks.take_frame([], None, now=now)
    return acks


def hear(
    acks: AckTracker, number: int, *, is_eliciting: bool = True, at_once: bool = False, now: float
) -> float | None:
    acks.on_received(number, is_eliciting=is_eliciting, at_once=at_once, now=now)
    return acks.due_at


def ack_frame(acks: AckTracker, *, now: float, limit: int | None = None) -> Ack:
    entries = [[stream, 10 * stream] for stream in acks.take_touched()]
    (frame,) = decode_frames_untrusted(encode_frames([acks.take_frame(entries, limit, now=now)]))
    assert isinstance(frame, Ack)
    return frame


def test_nothing_is_owed_at_first() -> None:
    acks = AckTracker()
    assert not acks.is_owed
    acks.ask(now=1.0)  # there is nothing to acknowledge yet
    assert not acks.is_owed


def test_the_first_datagram_is_acknowledged_at_once() -> None:
    # protocol 4: at once on the first datagram
    assert hear(AckTracker(), 0, now=1.0) == 1.0
    assert hear(AckTracker(), 7, now=1.0) == 1.0


def test_else_after_52_ms() -> None:
    acks = tracker(0)
    # protocol 4: else 52 ms or every 4th datagram
    assert hear(acks, 1, now=1.0) == 1.052
    assert hear(acks, 2, now=1.02) == 1.052
    assert hear(acks, 3, now=1.03) == 1.052


def test_else_every_fourth_datagram() -> None:
    acks = tracker(0)
    assert [hear(acks, number, now=1.0) for number in (1, 2, 3, 4)] == [1.052, 1.052, 1.052, 1.0]
    acks.take_frame([], None, now=1.0)
    assert [hear(acks, number, now=2.0) for number in (5, 6, 7, 8)] == [2.052, 2.052, 2.052, 2.0]


def test_a_gap_is_acknowledged_at_once() -> None:
    # protocol 4: at once on ... a gap
    assert hear(tracker(0), 2, now=1.0) == 1.0


def test_what_fills_a_gap_is_acknowledged_at_once() -> None:
    acks = tracker(0, 2)
    assert hear(acks, 1, now=1.0) == 1.0


def test_ends_path_changes_and_ack_now_are_acknowledged_at_once() -> None:
    acks = tracker(0)
    # protocol 4: FIN, a path change or ack now
    assert hear(acks, 1, at_once=True, now=1.0) == 1.0


def test_acknowledgments_are_not_acknowledged() -> None:
    acks = tracker(0)
    assert hear(acks, 1, is_eliciting=False, now=1.0) is None
    assert hear(acks, 5, is_eliciting=False, at_once=True, now=1.0) is None
    # They count neither as a gap nor towards the fourth.
    assert [hear(acks, number, now=2.0) for number in (6, 7, 8)] == [2.052, 2.052, 2.052]


def test_asking_makes_it_due_at_once() -> None:
    acks = tracker(0)
    hear(acks, 1, now=1.0)
    acks.ask(now=1.01)
    assert acks.due_at == 1.01


def test_nothing_is_owed_after_the_frame() -> None:
    acks = tracker(0)
    assert not acks.is_owed
    hear(acks, 1, now=1.0)
    assert acks.is_owed
    ack_frame(acks, now=1.0)
    assert not acks.is_owed


def test_the_frame_says_what_is_missing_and_how_long_it_waited() -> None:
    acks = tracker(0, 1, 4, 6)
    hear(acks, 3, now=0.02)
    ack = ack_frame(acks, now=0.03, limit=77)
    assert (ack.largest, ack.connection_limit) == (6, 77)
    # Bit i is packet largest - 1 - i: 5 and 2 are missing.
    assert ack.missing == 0b001001
    # The delay is that of the largest, which came at 0.
    assert ack.delay_us == 30_000


def test_the_delay_stays_within_its_field() -> None:
    acks = tracker(0, now=5.0)
    assert ack_frame(acks, now=4.0).delay_us == 0
    assert ack_frame(acks, now=1e9).delay_us == MAX_PACKET_NUMBER


def test_packets_beyond_the_bitmap_are_not_told() -> None:
    acks = tracker(0, 100)
    assert ack_frame(acks, now=0.0).missing == 2**64 - 1
    # Packets before the first one do not exist.
    assert ack_frame(tracker(3), now=0.0).missing == 0b111


def test_streams_are_named_once_in_the_order_in_which_they_were_heard() -> None:
    acks = tracker(0)
    for stream in (5, 2, 5, 9):
        acks.touched[stream] = None
    assert [stream for stream, _, _ in ack_frame(acks, now=0.0).streams] == [5, 2, 9]
    assert acks.take_touched() == []


def test_an_ack_that_cannot_name_all_streams_is_followed_by_another_at_once() -> None:
    acks = tracker(0)
    acks.touched.update(dict.fromkeys(range(90)))
    named: list[int] = []
    for _ in range(3):
        named += [stream for stream, _, _ in ack_frame(acks, now=1.0).streams]
        if len(named) < 90:
            assert acks.due_at == 1.0
    assert named == list(range(90))
    assert not acks.is_owed


def test_the_longest_ack_fits_into_every_datagram() -> None:
    acks = AckTracker()
    for number in range(MAX_PACKET_NUMBER - 128, MAX_PACKET_NUMBER, 2):
        hear(acks, number, now=0.0)
    acks.touched.update(dict.fromkeys(range(1000)))
    entries = [[MAX_INTEGER] * 3 for _ in acks.take_touched()]
    welcome = encode_frame(Welcome(MAX_INTEGER, MAX_INTEGER))
    ack = acks.take_frame(entries, MAX_INTEGER, now=1e9)
    assert len(encode_frames([welcome, ack])) <= MAX_DATAGRAM - REPLY_OVERHEAD
