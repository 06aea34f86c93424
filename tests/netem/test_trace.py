import math
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from netem import Change, Fate, Impairment, Link, Scenario
from netem.trace import DeliveryTrace, TraceLine, read_trace


def written(folder: Path, text: str) -> Path:
    path = folder / "some.down"
    path.write_text(text)
    return path


def test_a_file_has_a_line_for_each_opportunity(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "0\n3\n3\r\n 10 \n"))
    assert trace.opportunities_ms == (0, 3, 3, 10)
    assert trace.file == str(tmp_path / "some.down")
    assert trace.period_s == 0.01
    assert trace.mean_rate_bps == pytest.approx(4 * 1500 * 8 / 0.01)


def test_one_packet_each_millisecond_is_12_mbit_per_second() -> None:
    assert DeliveryTrace((1,)).mean_rate_bps == 12e6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "some.down: the trace has no delivery opportunities"),
        ("1\n5\n4\n", "line 3: 4 ms comes after 5 ms"),
        ("-1\n", "line 1: '-1' is not a whole number"),
        ("1\n2.5\n", "line 2: '2.5' is not a whole number"),
        ("1\n\n2\n", "line 2: '' is not a whole number"),
        ("1\nten\n", "line 2: 'ten' is not a whole number"),
        ("9" * 5000, "line 1: '9999"),
        ("0\n0\n", "some.down: the trace ends at 0 ms"),
        ("1\n\u0663\n", "cannot read the trace"),
    ],
    ids=["empty", "unsorted", "negative", "fraction", "blank", "word", "huge", "no-time", "other-digits"],
)
def test_a_file_that_is_no_trace_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_trace(written(tmp_path, text))


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the trace .*nowhere"):
        read_trace(tmp_path / "nowhere")


@pytest.mark.parametrize("times", [(), (-1, 5), (5, 4), (0,)], ids=["none", "negative", "unsorted", "zero"])
def test_a_trace_that_cannot_be_is_refused(times: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="trace"):
        DeliveryTrace(times)


traces = st.lists(st.integers(0, 30), min_size=1, max_size=10).map(sorted).filter(lambda times: times[-1] > 0)


@given(times=traces, t=st.floats(0.0, 1e5))
def test_the_first_opportunity_after_a_time_is_the_first(times: list[int], t: float) -> None:
    trace = DeliveryTrace(tuple(times))
    number = trace.first_after(t)
    assert trace.time_of(number) > t
    assert number == 0 or trace.time_of(number - 1) <= t


def delivered_by_milliseconds(times: list[int], packets: list[tuple[int, int]]) -> list[int]:
    """The rules of mm-link one millisecond at a time; packets are (millisecond, bytes on the TUN)."""
    waiting: deque[list[int]] = deque()  # bytes still to deliver, and the packet's index
    coming = deque(enumerate(packets))
    delivered = [0] * len(packets)
    now = 0
    while waiting or coming:
        cycle_start = (now - 1) // times[-1] * times[-1] if now else 0
        chances = times.count(now - cycle_start)
        if now > 0 and now % times[-1] == 0:
            chances += times.count(0)  # of the next repetition
        for _ in range(chances):
            left = 1504
            while left and waiting:
                used = min(left, waiting[0][0])
                left -= used
                waiting[0][0] -= used
                if waiting[0][0] == 0:
                    delivered[waiting.popleft()[1]] = now
        while coming and coming[0][1][0] == now:
            index, (_, size) = coming.popleft()
            waiting.append([size, index])
        now += 1
    return delivered


@given(times=traces, packets=st.lists(st.tuples(st.integers(0, 100), st.integers(20, 4000)), max_size=30))
def test_deliveries_are_those_of_mahimahi(times: list[int], packets: list[tuple[int, int]]) -> None:
    packets = sorted(packets, key=lambda packet: packet[0])
    line = TraceLine(DeliveryTrace(tuple(times)), free_at=0.0)
    found = [line.deliver(size - 4, at / 1e3) for at, size in packets]
    assert found == [at / 1e3 for at in delivered_by_milliseconds(times, packets)]


def link_of(impairment: Impairment, *changes: Change) -> Link:
    return Link(Scenario("test", up=impairment, down=impairment, changes=changes), "up", seed=1)


def arrivals(link: Link, count: int, now: float, size: int = 1500) -> list[float]:
    return [at for _ in range(count) for at, _ in link.send(b"x", now=now, size=size)]


def test_a_link_delivers_with_its_trace_and_its_delay() -> None:
    link = link_of(Impairment(delay_s=0.5, trace=DeliveryTrace((10, 10, 20))))
    assert arrivals(link, 5, now=0.0) == pytest.approx([0.51, 0.51, 0.52, 0.53, 0.53])
    assert arrivals(link, 1, now=0.1) == pytest.approx([0.61])


def test_small_packets_share_an_opportunity() -> None:
    link = link_of(Impairment(trace=DeliveryTrace((10,))))
    assert arrivals(link, 4, now=0.0, size=496) == pytest.approx([0.01, 0.01, 0.01, 0.02])


def test_a_queue_in_bytes_drops_what_does_not_fit() -> None:
    link = link_of(Impairment(trace=DeliveryTrace((10,)), queue_bytes=3000))
    assert len(arrivals(link, 5, now=0.0)) == 3
    assert link.fate is Fate.QUEUE
    assert link.counts.dropped_by_queue == 2
    assert arrivals(link, 2, now=0.015) == pytest.approx([0.04])


def test_a_queue_in_seconds_drops_what_would_wait_longer() -> None:
    link = link_of(Impairment(trace=DeliveryTrace((10,)), queue_s=0.02))
    assert len(arrivals(link, 5, now=0.0)) == 3


def test_a_trace_begins_with_the_scenario_also_where_a_change_brings_it_in() -> None:
    traced = Impairment(trace=DeliveryTrace((3, 100)))
    link = link_of(Impairment(), Change(0.05, up=traced, down=traced))
    assert arrivals(link, 3, now=0.05) == pytest.approx([0.1, 0.103, 0.2])


def test_what_was_under_way_before_a_trace_is_not_overtaken() -> None:
    slow = Impairment(rate_bps=80_000.0, queue_s=1.0)
    traced = Impairment(trace=DeliveryTrace((10,)))
    link = link_of(slow, Change(0.05, up=traced, down=traced), Change(0.06, up=slow, down=slow))
    assert arrivals(link, 1, now=0.0, size=1000) == [0.1]
    assert arrivals(link, 1, now=0.05) == pytest.approx([0.11])
    assert arrivals(link, 1, now=0.06, size=1000) == pytest.approx([0.21])


def test_a_change_that_keeps_the_trace_keeps_what_waits() -> None:
    trace = DeliveryTrace((10,))
    before, after = Impairment(trace=trace), Impairment(delay_s=1.0, trace=trace, queue_bytes=1500)
    link = link_of(before, Change(0.005, up=after, down=after))
    assert len(arrivals(link, 3, now=0.0)) == 3
    assert arrivals(link, 1, now=0.006) == []
    assert arrivals(link, 1, now=0.02) == pytest.approx([1.04])


def test_nothing_is_delivered_for_ever() -> None:
    line = TraceLine(DeliveryTrace((1,)), free_at=0.0)
    line.limit_bytes = 0
    assert line.deliver(100, 0.0) < math.inf
    assert line.deliver(100, 0.0) == math.inf
