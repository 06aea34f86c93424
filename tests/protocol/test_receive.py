"""The log that comes in: any order, any duplication, hostile ends and limits."""

import hashlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.protocol.receive import MAX_HELD_PIECES, STREAM_WINDOW, IncomingLog
from eloquent.protocol.wire import ResetCode, WireError


def digest_of(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def received(*parts: tuple[int, bytes]) -> IncomingLog:
    log = IncomingLog()
    for base, data in parts:
        log.on_tokens_untrusted(base, data)
    return log


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]]]:
    """A log and ranges that together cover it, cut, overlapping, repeated and in any order."""
    log = draw(st.binary(max_size=60))
    cuts = sorted(draw(st.sets(st.integers(0, len(log)), max_size=12)) | {0, len(log)})
    ranges = [(start, stop) for start, stop in itertools.pairwise(cuts)]
    extra = st.tuples(st.integers(0, len(log)), st.integers(0, len(log)))
    ranges += [(min(pair), max(pair)) for pair in draw(st.lists(extra, max_size=8))]
    return log, draw(st.permutations(ranges))


@given(deliveries(), st.integers(0, 30), st.sets(st.integers(0, 30)))
def test_any_cut_any_order_any_repetition_delivers_the_log(
    delivery: tuple[bytes, list[tuple[int, int]]], fin_position: int, reads: set[int]
) -> None:
    data, ranges = delivery
    log, taken, here = IncomingLog(), b"", set[int]()
    for position, (start, stop) in enumerate(ranges):
        if position == fin_position:
            log.on_fin_untrusted(len(data), digest_of(data))
        before = log.offset
        moved = log.on_tokens_untrusted(start, data[start:stop])
        here |= set(range(start, stop))
        contiguous = next(offset for offset in range(len(data) + 1) if offset not in here)
        # protocol 1: the receiver applies what lies beyond the bytes it has; idempotent and order-free
        assert log.offset == contiguous
        assert moved == (contiguous > before)
        if position in reads:
            taken += log.read()
            assert taken == data[:contiguous]
    log.on_fin_untrusted(len(data), digest_of(data))
    log.check_end()
    assert taken + log.read() == data
    assert log.consumed == len(data)
    assert log.is_complete
    # protocol 2: FIN is one virtual byte, acknowledged as length + 1
    assert log.acked == len(data) + 1


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * STREAM_WINDOW), st.binary(max_size=40), st.integers(0, 3)), max_size=40
    )
)
def test_hostile_ranges_and_ends_give_wire_errors_or_a_sane_log(steps: list[tuple[int, bytes, int]]) -> None:
    log = IncomingLog()
    for base, data, what in steps:
        try:
            if what == 0:
                log.on_fin_untrusted(base, len(data))
            elif what == 1:
                log.on_reset_untrusted(base, 7, is_unwanted=len(data) % 2 == 0)
            else:
                log.on_tokens_untrusted(base, data)
        except WireError:
            pass
        log.check_end()
        assert log.offset <= max(log.highest, log.length or 0) <= STREAM_WINDOW
        assert log.length is None or log.offset <= log.length
        log.read()
        assert log.consumed == log.offset


def test_a_wrong_digest_is_never_complete() -> None:
    log = received((0, b"abc"))
    log.on_fin_untrusted(3, digest_of(b"abx"))
    log.check_end()
    # protocol 2: complete is reported only when the digest matches
    assert not log.is_complete
    assert log.reset_code == ResetCode.MALFORMED
    assert log.has_ended


def test_a_log_with_a_hole_has_not_ended() -> None:
    log = received((0, b"ab"), (3, b"d"))
    log.on_fin_untrusted(4, digest_of(b"abcd"))
    log.check_end()
    assert not log.has_ended
    assert log.acked == 2
    assert not log.is_complete


def test_bytes_beyond_the_limit_are_a_violation() -> None:
    log = received((STREAM_WINDOW - 1, b"x"))
    with pytest.raises(WireError, match="limit"):
        log.on_tokens_untrusted(STREAM_WINDOW - 1, b"xy")
    assert log.highest == STREAM_WINDOW


def test_an_end_beyond_the_limit_is_a_violation() -> None:
    with pytest.raises(WireError, match="limit"):
        IncomingLog().on_fin_untrusted(STREAM_WINDOW + 1, 0)
    with pytest.raises(WireError, match="limit"):
        IncomingLog().on_reset_untrusted(2**62 - 1, 1, is_unwanted=True)


def test_the_end_may_lie_at_the_limit() -> None:
    log = IncomingLog()
    log.on_fin_untrusted(STREAM_WINDOW, 0)
    assert log.length == STREAM_WINDOW


def test_two_ends_contradict_each_other() -> None:
    log = received((0, b"abcd"))
    with pytest.raises(WireError, match="ends"):
        log.on_fin_untrusted(3, 0)  # below what was received
    log.on_fin_untrusted(6, 1)
    with pytest.raises(WireError, match="ends"):
        log.on_fin_untrusted(7, 1)
    with pytest.raises(WireError, match="digests"):
        log.on_fin_untrusted(6, 2)
    with pytest.raises(WireError, match="beyond the end"):
        log.on_tokens_untrusted(4, b"efg")


def test_a_reset_waits_for_the_bytes_before_it() -> None:
    log = received((0, b"ab"))
    log.on_reset_untrusted(4, ResetCode.FAILED, is_unwanted=False)
    # protocol 2: after a failure or an abort the missing bytes are still repeated
    assert not log.has_ended
    log.on_tokens_untrusted(2, b"cd")
    assert log.has_ended
    log.check_end()
    assert log.acked == 5
    # protocol 2: stopped, aborted and failed answers never report complete
    assert not log.is_complete
    assert log.reset_code == ResetCode.FAILED


def test_whoever_sent_stop_acknowledges_a_reset_at_once() -> None:
    log = received((0, b"ab"), (6, b"gh"))
    log.on_reset_untrusted(9, ResetCode.STOPPED, is_unwanted=True)
    # protocol 2: whoever sent STOP acknowledges at once
    assert log.has_ended
    assert log.acked == 10
    assert log.read() == b"ab"
    # What will never come has used the sender's credit and must give it back.
    assert log.consumed == 9
    assert not log.on_tokens_untrusted(2, b"cdefghi")
    assert log.read() == b""


def test_fin_and_reset_do_not_overrule_each_other() -> None:
    finished = received((0, b"ab"))
    finished.on_fin_untrusted(3, digest_of(b"abc"))
    finished.on_reset_untrusted(2, 1, is_unwanted=False)
    finished.on_tokens_untrusted(2, b"c")
    finished.check_end()
    assert finished.is_complete
    stopped = received((0, b"ab"))
    stopped.on_reset_untrusted(3, 1, is_unwanted=False)
    stopped.on_fin_untrusted(3, digest_of(b"abc"))
    stopped.on_tokens_untrusted(2, b"c")
    stopped.check_end()
    assert not stopped.is_complete


def test_after_a_cut_nothing_more_is_taken() -> None:
    log = received((0, b"ab"), (5, b"fg"))
    log.cut(ResetCode.UNKNOWN_STREAM)
    assert log.has_ended
    assert (log.length, log.reset_code) == (2, ResetCode.UNKNOWN_STREAM)
    # A peer that goes on all the same is no reason to end the connection.
    assert not log.on_tokens_untrusted(2, b"cdefg")
    log.on_fin_untrusted(7, 0)
    log.on_reset_untrusted(7, 1, is_unwanted=False)
    assert (log.length, log.read()) == (2, b"ab")


def test_a_complete_log_is_not_cut() -> None:
    log = received((0, b"ab"))
    log.on_fin_untrusted(2, digest_of(b"ab"))
    log.check_end()
    log.cut(ResetCode.UNKNOWN_STREAM)
    assert log.is_complete
    assert log.reset_code is None


def test_the_limit_is_raised_when_half_of_the_window_is_used() -> None:
    log = IncomingLog()
    assert log.limit == STREAM_WINDOW
    log.on_tokens_untrusted(0, bytes(STREAM_WINDOW // 2))
    # What the application has not taken makes no room: a slow reader pushes back.
    assert not log.raise_limit()
    log.read()
    assert log.raise_limit()
    assert log.limit == STREAM_WINDOW // 2 + STREAM_WINDOW
    assert not log.raise_limit()


def test_a_resumption_starts_the_window_anew() -> None:
    log = received((0, bytes(1000)))
    log.restart_limit()
    # protocol 3: 256 KiB beyond where it resumes
    assert log.limit == 1000 + STREAM_WINDOW
    log.offset = 0
    log.restart_limit()
    assert log.limit == 1000 + STREAM_WINDOW  # a limit is never taken back


def test_too_many_pieces_beyond_a_hole_are_an_attack() -> None:
    log = IncomingLog()
    for piece in range(MAX_HELD_PIECES):
        log.on_tokens_untrusted(1 + 2 * piece, b"x")
    with pytest.raises(WireError, match="pieces"):
        log.on_tokens_untrusted(1 + 2 * MAX_HELD_PIECES, b"x")


def test_a_long_log_in_random_order() -> None:
    order = random.Random(7)
    data = order.randbytes(100_000)
    pieces = [(start, min(start + order.randint(1, 900), len(data))) for start in range(0, len(data), 450)]
    pieces += [(start, min(start + 451, len(data))) for start in range(0, len(data), 450)]
    order.shuffle(pieces)
    log = received(*[(start, data[start:stop]) for start, stop in pieces])
    log.on_fin_untrusted(len(data), digest_of(data))
    log.check_end()
    assert log.read() == data
    assert log.is_complete
