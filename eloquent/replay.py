"""A source of tokens that needs no model: any text, in subword-like pieces, at the pace of one.

A language model emits pieces of about four characters at a rate that is constant up to jitter, and
now and then it stops to think. Three numbers describe that well enough to try and to measure a
transport: the rate; `jitter`, the sigma of a lognormal factor on each gap, whose mean stays one so
that the rate stays what it says; and the probability of a pause after a token, whose length is
uniform between two bounds. The same gaps pace a live stream (`replay`) and drive the simulations
(`token_gaps`), so that one seed means the same text at the same times in both.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Iterator
from importlib.resources import files
from random import Random

from eloquent.errors import ConfigurationError

# Kana, the Han ideographs, Hangul: tokenizers give about one token to each of these.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
# A word or a run of signs takes the space before it along, as in byte-pair encodings.
_WORD = re.compile(rf" ?[{_CJK}]| ?[^\W{_CJK}]+| ?[^\w\s]+|\s+")
# English words up to this length, space included, are mostly single tokens.
_LONGEST_PIECE = 8


def default_text() -> str:
    """An answer of some 1,700 words with characters of one to four bytes in UTF-8."""
    path = files("eloquent") / "data" / "answer.txt"
    return path.read_text(encoding="utf-8")


def subword_split(text: str) -> list[str]:
    """Cut `text` into pieces as a tokenizer would; joined, they are `text` again."""
    if not isinstance(text, str):
        raise ConfigurationError(f"the text to replay must be a str, not {type(text).__name__}")
    return [piece for word in _WORD.findall(text) for piece in _cut(word)]


def _cut(word: str) -> Iterator[str]:
    """The word in as few pieces as its length allows, all about equally long."""
    count = math.ceil(len(word) / _LONGEST_PIECE)
    for i in range(count):
        yield word[i * len(word) // count : (i + 1) * len(word) // count]


def token_gaps(
    rate: float = 40.0,
    jitter: float = 0.0,
    pause_probability: float = 0.0,
    pause_s: tuple[float, float] = (0.2, 1.2),
    seed: int = 0,
) -> Iterator[float]:
    """Seconds between each token and the next, without end.

    `rate` is in tokens per second and leaves out the pauses, which are added to the gaps.
    Raises ConfigurationError for a value out of range.
    """
    _check_range("rate", rate, low=0.0, high=math.inf)
    if rate == 0:
        raise ConfigurationError("rate must be above 0 tokens per second")
    _check_range("jitter", jitter, low=0.0, high=math.inf)
    _check_range("pause_probability", pause_probability, low=0.0, high=1.0)
    shortest, longest = pause_s
    _check_range("the longest pause", longest, low=0.0, high=math.inf)
    _check_range("the shortest pause", shortest, low=0.0, high=longest)
    return _gaps(rate, jitter, pause_probability, pause_s, Random(seed))


def _check_range(name: str, value: float, *, low: float, high: float) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise ConfigurationError(f"{name} must be a finite number from {low:g} to {high:g}, not {value!r}")


def _gaps(
    rate: float, jitter: float, pause_probability: float, pause_s: tuple[float, float], random: Random
) -> Iterator[float]:
    mean_one = -jitter * jitter / 2
    while True:
        gap = random.lognormvariate(mean_one, jitter) / rate
        # All draws are made in any case, so that other pauses leave the jitter of a seed as it was.
        draw, pause = random.random(), random.uniform(*pause_s)
        yield gap + pause if draw < pause_probability else gap


def replay(
    text: str,
    *,
    rate: float = 40.0,
    jitter: float = 0.0,
    pause_probability: float = 0.0,
    pause_s: tuple[float, float] = (0.2, 1.2),
    seed: int = 0,
) -> AsyncGenerator[str, None]:
    """Yield the pieces of `text` at the times that `token_gaps` gives, the first one at once.

    Deadlines are absolute: a consumer that is late gets the pieces that are due at once, and the
    pace does not drift. Raises ConfigurationError at the call, before the first piece is asked for.
    """
    gaps = token_gaps(rate, jitter, pause_probability, pause_s, seed)
    return _paced(subword_split(text), gaps)


async def _paced(pieces: list[str], gaps: Iterator[float]) -> AsyncGenerator[str, None]:
    loop = asyncio.get_running_loop()
    deadline = loop.time()
    for piece, gap in zip(pieces, gaps, strict=False):
        # Also when it is late: other tasks get their turn between two tokens.
        await asyncio.sleep(max(0.0, deadline - loop.time()))
        yield piece
        deadline += gap
