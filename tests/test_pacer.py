"""The pacer in virtual time, and the wrapper on both event loops."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from eloquent.pacer import BUFFER_S, CATCH_UP, Pacer, paced, release_times
from tests.loopback import Run

RATE = 5.0  # a token every 0.2 s, and every 0.16 s where a stall is made up for


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


class TestReleaseTimes:
    def test_a_lump_is_shown_at_the_pace_and_its_first_token_at_once(self) -> None:
        assert release_times([1.0] * 4, rate=RATE) == pytest.approx([1.0, 1.2, 1.4, 1.6])

    def test_a_slower_model_is_not_delayed(self) -> None:
        assert release_times([1.0, 2.0, 3.0], rate=RATE) == [1.0, 2.0, 3.0]

    def test_a_little_lateness_stays_as_a_buffer(self) -> None:
        # Token 2 is 0.15 s late. All that follows is shown 0.15 s after it is due, so that token 4,
        # 0.1 s late, is not noticed.
        arrived = [0.0, 0.2, 0.55, 0.6, 0.9, 1.0]
        assert release_times(arrived, rate=RATE) == pytest.approx([0.0, 0.2, 0.55, 0.75, 0.95, 1.15])

    def test_after_a_stall_the_pace_is_raised_until_the_backlog_is_what_it_would_be(self) -> None:
        # Token 1, due at 0.2, comes at 3.0: 2.8 s late, of which 0.2 stay. Each quick gap makes up for
        # 0.04 s, so 65 of them do. Token 66 is then at 66 * 0.2 + 0.2.
        shown = release_times([0.0] + [3.0] * 99, rate=RATE)
        assert shown[1] == 3.0
        assert gaps(shown[1:67]) == pytest.approx([0.16] * 65)
        assert shown[66] == pytest.approx(66 / RATE + BUFFER_S)
        assert gaps(shown[66:]) == pytest.approx([0.2] * 33)

    def test_a_pause_of_the_model_is_not_made_up_for(self) -> None:
        # 40 tokens per second from 10.0 on. By 10.16, when the second of them is due, 7 have come and 5
        # are left: worth 1.0 s, 25 quick gaps, instead of the 9.6 s that a lump would have brought.
        arrived = [0.0] + [10.0 + n / 40 for n in range(400)]
        assert sum(gap < 0.199 for gap in gaps(release_times(arrived, rate=RATE))) == 26

    def test_the_buffer_does_not_grow_with_each_stall(self) -> None:
        # 5 tokens per second, and every 20 s one second without any.
        arrived = [n / RATE for n in range(1000)]
        arrived = [max(at, at // 20 * 20 + 1.0) if at >= 20 else at for at in arrived]
        shown = release_times(arrived, rate=RATE)
        assert all(at <= n / RATE + 1.0 + BUFFER_S for n, at in enumerate(shown))
        # Within the 5 s that it takes, each stall is made up for down to what stays.
        ready = [(n / RATE, at) for n, at in enumerate(shown) if n / RATE % 20 > 6]
        assert max(at - due for due, at in ready) == pytest.approx(BUFFER_S)


class TestPacer:
    def test_nothing_is_due_before_anything_has_come(self) -> None:
        pacer = Pacer(RATE)
        assert pacer.next_timer() is None
        assert pacer.read(now=1.0) == ""
        pacer.write("", now=1.0)
        assert pacer.next_timer() is None

    def test_text_is_cut_into_tokens(self) -> None:
        pacer = Pacer(RATE)
        pacer.write("The electromagnetic field", now=1.0)
        read = []
        while (due_at := pacer.next_timer()) is not None:
            assert pacer.read(now=due_at - 0.001) == ""
            read.append((round(due_at, 6), pacer.read(now=due_at)))
        assert read == [(1.0, "The"), (1.2, " electro"), (1.4, "magnetic"), (1.6, " field")]

    def test_timers_that_fire_late_do_not_slow_the_pace(self) -> None:
        pacer = Pacer(100.0)
        pacer.write("青" * 500, now=0.0)
        last = 0.0
        while (due_at := pacer.next_timer()) is not None:
            last = due_at + 0.001
            pacer.read(now=last)
        # The first piece, shown at 0.001, is what the others keep their distance from.
        assert last == pytest.approx(0.001 + 499 / 100 + 0.001)

    def test_a_reader_who_was_away_gets_no_burst(self) -> None:
        pacer = Pacer(RATE)
        pacer.write("青は藍より", now=0.0)
        pacer.read(now=0.0)
        assert pacer.read(now=60.0) == "は"
        assert pacer.read(now=60.0) == ""
        assert pacer.next_timer() == pytest.approx(60.16)

    @pytest.mark.parametrize("rate", [0, -1.0, float("inf"), float("nan"), "4.8"], ids=str)
    def test_a_pace_that_is_none_is_refused(self, rate: float) -> None:
        with pytest.raises(ConfigurationError, match="the pace must be"):
            Pacer(rate)
        with pytest.raises(ConfigurationError, match="the pace must be"):
            paced(source([]), rate=rate)


arrivals = st.lists(st.tuples(st.floats(0.0, 3.0), st.text(max_size=30)), max_size=30)
lateness = st.lists(st.floats(0.0, 0.5), min_size=1, max_size=10)
rates = st.floats(0.5, 200.0)


class TestProperties:
    @given(arrivals, lateness, rates)
    def test_the_text_is_whole_and_never_too_fast(
        self, steps: list[tuple[float, str]], late: list[float], rate: float
    ) -> None:
        pacer, now = Pacer(rate), 0.0
        written = ""
        read: list[tuple[float, str]] = []

        def read_until(until: float) -> None:
            nonlocal now
            while (due_at := pacer.next_timer()) is not None and due_at < until:
                now = max(now, due_at) + late[len(read) % len(late)]
                read.append((now, pacer.read(now=now)))

        for wait, text in steps:
            read_until(now + wait)
            now += wait
            was_empty = not written
            pacer.write(text, now=now)
            written += text
            if was_empty and text:
                # The first token is never delayed.
                assert pacer.next_timer() == now
        read_until(float("inf"))
        assert "".join(piece for _, piece in read) == written
        assert all(piece for _, piece in read)
        assert all(gap >= 1 / (rate * CATCH_UP) - 1e-9 for gap in gaps([at for at, _ in read]))

    @given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), rates)
    def test_a_token_is_shown_once_it_is_here_and_never_later_than_without_catching_up(
        self, waits: list[float], rate: float
    ) -> None:
        arrived, now = [], 0.0
        for wait in waits:
            now += wait
            arrived.append(now)
        digested = -1 / rate
        for arrival, shown in zip(arrived, release_times(arrived, rate=rate), strict=True):
            digested = max(arrival, digested + 1 / rate)
            assert arrival <= shown <= digested + 1e-6


async def source(texts: list[str]) -> AsyncIterator[str]:
    for text in texts:
        await asyncio.sleep(0)
        yield text


class TestPaced:
    def test_the_text_comes_through_at_the_pace(self, run: Run) -> None:
        async def case() -> None:
            begin = time.monotonic()
            pieces = [piece async for piece in paced(source(["one two", " three", " four five"]), rate=100)]
            assert pieces == ["one", " two", " three", " four", " five"]
            # Four gaps of at least 8 ms; half of it leaves room for coarse timers.
            assert time.monotonic() - begin > 0.016

        run(case)

    def test_no_text_is_no_pieces(self, run: Run) -> None:
        async def case() -> None:
            assert [piece async for piece in paced(source([]))] == []

        run(case)

    def test_an_error_comes_after_the_text_before_it(self, run: Run) -> None:
        async def failing() -> AsyncIterator[str]:
            yield "one two"
            raise OSError("gone")

        async def case() -> None:
            pieces = paced(failing(), rate=1000)
            assert [await anext(pieces), await anext(pieces)] == ["one", " two"]
            with pytest.raises(OSError, match="gone"):
                await anext(pieces)

        run(case)

    def test_the_source_is_read_ahead_in_one_task(self, run: Run) -> None:
        read = asyncio.Event()

        async def patient() -> AsyncIterator[str]:
            # Entered and left in different tasks, a timeout raises.
            async with asyncio.timeout(10):
                yield "one two"
                yield " three"
            read.set()

        async def case() -> None:
            # One piece in 1000 s: the second never comes while the test runs.
            async with aclosing(paced(patient(), rate=0.001)) as pieces:
                assert await anext(pieces) == "one"
                await read.wait()

        run(case)

    def test_a_cancelled_reader_ends_the_source(self, run: Run) -> None:
        async def case() -> None:
            waiting, ended = asyncio.Event(), asyncio.Event()

            async def endless() -> AsyncIterator[str]:
                try:
                    yield "one"
                    waiting.set()
                    await asyncio.Event().wait()
                finally:
                    ended.set()

            async def read() -> list[str]:
                return [piece async for piece in paced(endless())]

            task = asyncio.create_task(read())
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set()

        run(case)

    def test_a_reader_who_leaves_hears_no_more_of_it(self, run: Run) -> None:
        async def failing() -> AsyncIterator[str]:
            yield "one two"
            raise OSError("nobody asks")

        async def case() -> None:
            others = asyncio.all_tasks()
            reports: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
            async with aclosing(paced(failing(), rate=0.001)) as pieces:
                assert await anext(pieces) == "one"
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == others
            assert reports == []

        run(case)
