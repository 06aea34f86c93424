"""The log that goes out."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import UsageError
from eloquent.protocol.log import TRIM_STEP, Log


def log_of(data: bytes, *, sent: int = 0, acked: int = 0) -> Log:
    log = Log()
    log.append(data)
    log.sent = sent
    log.on_acked(acked)
    return log


def first_64_bits(data: bytes) -> int:
    return int(hashlib.sha256(data).hexdigest()[:16], 16)


def test_offsets_count_bytes() -> None:
    log = Log()
    log.append(b"abc")
    log.append(b"de")
    assert (log.start, log.end) == (0, 5)
    assert log.slice(2, 4) == b"cd"


def test_fin_carries_the_length_and_the_digest() -> None:
    log = log_of(b"abcde")
    log.finish()
    # protocol 2: the length and the first 64 bits of the log's SHA-256
    assert (log.length, log.digest) == (5, first_64_bits(b"abcde"))
    assert log.has_ended
    assert log.reset_code is None


def test_an_empty_log_has_an_end_too() -> None:
    log = Log()
    log.finish()
    assert (log.length, log.digest) == (0, first_64_bits(b""))
    assert not log.is_acked
    log.on_acked(1)
    assert log.is_acked


def test_the_end_is_one_virtual_byte() -> None:
    log = log_of(b"abc")
    log.finish()
    log.on_acked(3)
    assert not log.is_acked
    # protocol 2: acknowledged as length + 1
    log.on_acked(4)
    assert log.is_acked
    assert log.unacked == 0


def test_acknowledgments_never_go_back() -> None:
    log = log_of(b"abcdef", acked=4)
    log.on_acked(2)
    assert log.acked == 4
    assert log.unacked == 2


@pytest.mark.parametrize("end", [Log.finish, lambda log: log.reset(2, drop_unsent=False)])
def test_nothing_follows_the_end(end: object) -> None:
    log = log_of(b"abc")
    assert callable(end)
    end(log)
    with pytest.raises(UsageError):
        log.append(b"d")


def test_a_reset_ends_at_the_highest_byte_sent() -> None:
    log = log_of(b"abcdef", sent=4)
    log.reset(1, drop_unsent=True)
    # protocol 2: RESET ends the log at length (at most the highest byte sent)
    assert (log.length, log.end, log.reset_code) == (4, 4, 1)
    assert log.slice(0, 6) == b"abcd"


def test_a_failed_answer_keeps_what_was_written() -> None:
    log = log_of(b"abcdef", sent=4)
    log.reset(2, drop_unsent=False)
    assert (log.length, log.reset_code) == (6, 2)
    assert log.slice(0, 6) == b"abcdef"


def test_the_first_end_counts() -> None:
    finished = log_of(b"abc")
    finished.finish()
    finished.reset(1, drop_unsent=True)
    assert (finished.length, finished.reset_code) == (3, None)
    stopped = log_of(b"abc")
    stopped.reset(1, drop_unsent=False)
    stopped.finish()
    assert (stopped.length, stopped.reset_code, stopped.digest) == (3, 1, 0)


def test_only_acknowledged_bytes_are_let_go() -> None:
    data = bytes(range(256)) * 1024
    log = log_of(data, acked=TRIM_STEP - 1)
    log.trim(log.acked)
    assert log.start == 0
    log.on_acked(TRIM_STEP + 7)
    log.trim(log.acked)
    assert log.start == TRIM_STEP + 7
    assert log.slice(TRIM_STEP + 7, TRIM_STEP + 300) == data[TRIM_STEP + 7 : TRIM_STEP + 300]


@given(st.lists(st.tuples(st.integers(0, 3 * TRIM_STEP), st.integers(0, 4 * TRIM_STEP)), max_size=5))
def test_the_digest_does_not_depend_on_what_was_let_go(steps: list[tuple[int, int]]) -> None:
    log, whole = Log(), b""
    for number, (size, acked) in enumerate(steps):
        data = bytes([number]) * size
        whole += data
        log.append(data)
        log.on_acked(min(acked, log.end))
        log.trim(log.acked)
        assert log.start <= log.acked
        assert log.slice(log.start, log.end) == whole[log.start :]
    log.finish()
    log.trim(log.acked)
    assert log.digest == first_64_bits(whole)


def test_what_was_acknowledged_goes_after_the_end_too() -> None:
    log = log_of(bytes(2 * TRIM_STEP))
    log.finish()
    log.on_acked(2 * TRIM_STEP + 1)
    log.trim(log.acked)
    assert log.start == log.end == 2 * TRIM_STEP
    assert log.is_acked
