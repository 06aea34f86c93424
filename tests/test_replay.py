import asyncio
import math
import selectors
import unicodedata
from collections.abc import AsyncIterator, Iterable
from itertools import accumulate, chain, islice, repeat
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from eloquent.replay import default_text, replay, subword_split, token_gaps


@given(st.text())
def test_the_pieces_joined_are_the_text(text: str) -> None:
    pieces = subword_split(text)
    assert "".join(pieces) == text
    assert all(pieces)


def test_a_word_takes_the_space_before_it_along_and_is_cut_where_it_is_long() -> None:
    pieces = subword_split("The electromagnetic field, 1865.")
    assert pieces == ["The", " electro", "magnetic", " field", ",", " 1865", "."]


def test_an_ideograph_is_a_piece() -> None:
    assert subword_split("青は藍より") == ["青", "は", "藍", "よ", "り"]


def test_the_pieces_are_about_as_long_as_a_tokenizers() -> None:
    text = default_text()
    assert 4 <= len(text) / len(subword_split(text)) <= 5


def test_the_text_in_the_package_has_characters_of_every_utf8_length() -> None:
    text = default_text()
    assert 1500 <= len(text.split()) <= 2500
    assert {len(character.encode()) for character in text} == {1, 2, 3, 4}
    assert unicodedata.is_normalized("NFC", text)


def test_gaps_at_a_constant_rate() -> None:
    assert list(islice(token_gaps(40), 3)) == [0.025, 0.025, 0.025]


def test_jitter_is_lognormal_around_the_mean_gap() -> None:
    gaps = list(islice(token_gaps(40, jitter=0.3, seed=1), 20_000))
    # The standard errors are 0.0022 of the mean and 0.0015 of sigma; four of them are allowed.
    assert fmean(gaps) * 40 == pytest.approx(1, abs=0.009)
    assert pstdev(map(math.log, gaps)) == pytest.approx(0.3, abs=0.006)


def test_pauses_come_on_top_of_the_gaps_with_their_probability() -> None:
    gaps = list(islice(token_gaps(40, jitter=0.3, pause_probability=0.02, seed=1), 20_000))
    without = list(islice(token_gaps(40, jitter=0.3, seed=1), 20_000))
    pauses = [gap - base for gap, base in zip(gaps, without, strict=True) if gap != base]
    assert all(0.2 <= pause <= 1.2 + 1e-9 for pause in pauses)
    # Four standard errors of 400 binomial pauses, and of their mean.
    assert len(pauses) == pytest.approx(400, abs=80)
    assert fmean(pauses) == pytest.approx(0.7, abs=0.06)


def test_gaps_depend_on_the_seed_alone() -> None:
    first, again, other = (list(islice(token_gaps(40, 0.3, 0.02, seed=seed), 100)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0}, "rate must be above 0"),
        ({"rate": -1}, "rate must be .* not -1"),
        ({"rate": math.inf}, "rate .* not inf"),
        ({"rate": "40"}, "rate .* not '40'"),
        ({"jitter": math.nan}, "jitter .* not nan"),
        ({"pause_probability": 1.5}, "pause_probability .* from 0 to 1, not 1.5"),
        ({"pause_s": (1.0, 0.5)}, "shortest pause .* from 0 to 0.5, not 1.0"),
        ({"pause_s": (-1.0, 0.5)}, "shortest pause .* not -1.0"),
    ],
)
def test_bad_values_are_refused_at_the_call(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        token_gaps(**arguments)
    with pytest.raises(ConfigurationError, match=message):
        replay("text", **arguments)


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be a str, not bytes"):
        replay(b"text")  # type: ignore[arg-type]


class VirtualSelector(selectors.DefaultSelector):
    """Instead of waiting, lets the time pass."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves only while it waits."""

    def __init__(self) -> None:
        self.selector = VirtualSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def arrivals(pieces: AsyncIterator[str], delays: Iterable[float]) -> list[tuple[str, float]]:
    """Each piece and when it came, in virtual seconds, for a consumer that takes `delays` after each."""

    async def consume() -> list[tuple[str, float]]:
        arrived = []
        delay = iter(delays)
        async for piece in pieces:
            arrived.append((piece, asyncio.get_running_loop().time()))
            await asyncio.sleep(next(delay))
        return arrived

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(consume())


def test_each_piece_comes_at_its_time_and_the_first_at_once() -> None:
    text = default_text()
    settings = {"rate": 40.0, "jitter": 0.5, "pause_probability": 0.02, "seed": 3}
    arrived = arrivals(replay(text, **settings), repeat(0.0))
    due = accumulate(token_gaps(**settings), initial=0.0)
    assert [piece for piece, _ in arrived] == subword_split(text)
    for (_, at), deadline in zip(arrived, due, strict=False):
        assert at == pytest.approx(deadline, abs=1e-6)


def test_a_slow_consumer_does_not_shift_the_times_of_later_pieces() -> None:
    arrived = arrivals(replay("a b c d e f", rate=10), chain([0.25], repeat(0.0)))
    assert [at for _, at in arrived] == pytest.approx([0.0, 0.25, 0.25, 0.3, 0.4, 0.5])


def test_an_empty_text_has_no_pieces() -> None:
    assert arrivals(replay(""), repeat(0.0)) == []


async def test_other_tasks_run_between_pieces_that_are_late() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    pieces = [piece async for piece in replay("a b c d e f g h i j", rate=1e12)]
    task.cancel()
    assert turns >= len(pieces)
