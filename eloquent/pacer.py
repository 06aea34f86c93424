"""A pacer on the client's side: what has come is shown at the speed at which it is read or heard.

A model is mostly faster than a reader, and a network delivers unevenly. In Andes (arXiv 2404.16283)
the server sends every token at once, and the client keeps it until the reader is due to take it: as
long as something is kept, neither the model's unevenness nor the network's is visible. The first
token is shown when it comes, each other one `1 / rate` seconds after the one before it, or when it
comes, if that is later. With `rate` alone, all that follows a stall would stay late for ever. So:

- The first 0.2 s of lateness, over an answer, stay. That is the buffer: whatever comes after is kept
  that much longer, and jitter of that size is no longer seen.
- What is later than that is made up for by showing the tokens that wait up to 1.25 times as fast,
  never in a burst, and no more of it than the waiting tokens are worth. Those that came in a lump
  after a stall were overdue. After a pause of the model little waits, and the reader goes on at the
  set pace.

The unit is a token as `eloquent.replay.subword_split` cuts text: each piece of text that comes counts
as one token, or as several where it is longer than a token would be. What is kept when the answer
ends, or fails, is still shown at the pace; a reader who would rather skim needs no pacer.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable

from eloquent.errors import ConfigurationError
from eloquent.replay import subword_split

READING_RATE = 4.8
"""Tokens per second that people read (Andes, arXiv 2404.16283)."""

LISTENING_RATE = 3.3
"""Tokens per second that people listen to (Andes, arXiv 2404.16283)."""

CATCH_UP = 1.25
"""How many times faster than the set pace a stall is made up for: 3 s of it within 12 s.

A compromise. Third parties quote Pérez et al. (QoMEX 2019), who had video with sound rated at other
speeds, with 4.4 of 5 points at 1.1, 3.5 at 1.25 and 2.2 at 1.5. No rating of text was found.
"""

BUFFER_S = 0.2
"""Lateness that is kept as a buffer, in seconds: what counts as no stall yet (`eloquent.qoe.STALL_S`)."""


class Pacer:
    """When to show which piece; holds no clock. Times are seconds, of any monotonic clock.

    `write` what comes, `read` at `next_timer()`. Two pieces are never closer than
    `1 / (rate * CATCH_UP)`, however late `read` is called.
    Raises ConfigurationError where the rate, in tokens per second, is not above 0 and finite.
    """

    __slots__ = ("_filled_at", "_kept_s", "_late_s", "_pieces", "_read_at", "_step")

    def __init__(self, rate: float = READING_RATE) -> None:
        if not isinstance(rate, int | float) or not 0.0 < rate < math.inf:
            raise ConfigurationError(
                f"the pace must be a finite number above 0 tokens per second, not {rate!r}"
            )
        self._step = 1.0 / rate
        self._pieces: deque[str] = deque()
        self._filled_at = -math.inf
        """When text came while nothing was kept."""
        self._read_at = -math.inf
        """When the last piece was shown."""
        self._kept_s = 0.0
        """Lateness that stays, at most BUFFER_S."""
        self._late_s = 0.0
        """Lateness to be made up for."""

    def write(self, text: str, *, now: float) -> None:
        """Keep text that has come."""
        if not self._pieces:
            self._filled_at = now
        self._pieces.extend(subword_split(text))

    def next_timer(self) -> float | None:
        """When the next piece is due; None where nothing is kept."""
        return max(self._filled_at, self._due_at()) if self._pieces else None

    def read(self, *, now: float) -> str:
        """The next piece, where it is due; otherwise an empty string."""
        due_at = self.next_timer()
        if due_at is None or now < due_at:
            return ""
        piece = self._pieces.popleft()
        if self._read_at > -math.inf:
            self._on_read(now=now)
        self._read_at = now
        return piece

    def _due_at(self) -> float:
        """When the reader is ready for the next piece."""
        return self._read_at + self._step - self._gain()

    def _gain(self) -> float:
        """By how much the next piece comes earlier than the pace has it, to make up for lateness."""
        return min(self._late_s, self._step * (1.0 - 1.0 / CATCH_UP))

    def _on_read(self, *, now: float) -> None:
        """Count the lateness of the piece that was taken out."""
        due_at = self._due_at()
        self._late_s -= self._gain()
        if self._filled_at > due_at:
            starved_s = self._filled_at - due_at
            kept_s = min(starved_s, BUFFER_S - self._kept_s)
            self._kept_s += kept_s
            self._late_s += starved_s - kept_s
        else:
            # Not after a piece that was waited for: the rest of its lump may be a moment behind it.
            self._late_s = min(self._late_s, len(self._pieces) * self._step)
        # The caller's own lateness: a timer is never exact, and the pace must not drift.
        self._late_s += now - max(self._filled_at, due_at)


def release_times(arrived_at: Iterable[float], *, rate: float = READING_RATE) -> list[float]:
    """When a pacer shows tokens that come at these times (in order), each of them one piece."""
    pacer = Pacer(rate)
    released: list[float] = []
    for arrival in arrived_at:
        released.extend(_released(pacer, until=arrival))
        pacer.write(".", now=arrival)
    released.extend(_released(pacer, until=math.inf))
    return released


def _released(pacer: Pacer, *, until: float) -> Iterable[float]:
    """The times, before `until`, at which a piece is taken out."""
    while (due_at := pacer.next_timer()) is not None and due_at < until:
        pacer.read(now=due_at)
        yield due_at


def paced(texts: AsyncIterable[str], *, rate: float = READING_RATE) -> AsyncGenerator[str, None]:
    """Yield the text of `texts`, token by token, as a `Pacer` shows it: `paced(reply.text())`.

    Reads ahead as fast as text comes; what waits is held in memory. An error of `texts` is raised
    after the text before it. Raises ConfigurationError at the call for a rate out of range.
    """
    return _paced(texts, Pacer(rate))


async def _paced(texts: AsyncIterable[str], pacer: Pacer) -> AsyncGenerator[str, None]:
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    async def read_ahead() -> None:
        async for text in texts:
            pacer.write(text, now=loop.time())
            news.set()

    # In one task from beginning to end: an iterator may hold a timeout that belongs to its task.
    reader = loop.create_task(read_ahead())
    reader.add_done_callback(lambda _: news.set())
    now = loop.time()
    try:
        while True:
            news.clear()
            if piece := pacer.read(now=now):
                yield piece
                now = loop.time()
            elif reader.done() and pacer.next_timer() is None:
                break
            else:
                now = await _wait(news, pacer.next_timer())
        reader.result()
    finally:
        reader.cancel()
        await asyncio.wait({reader})
        # Asked for, so that asyncio does not report an error that nobody waits for any more.
        _ = reader.cancelled() or reader.exception()


async def _wait(news: asyncio.Event, deadline: float | None) -> float:
    """The time at which there is news or the deadline has come, never short of it by a timer's error."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(deadline):
            await news.wait()
    except TimeoutError:
        assert deadline is not None
        return max(loop.time(), deadline)
    return loop.time()
