"""What a reader notices of how an answer came, from when each token was made and when it was shown.

Times are seconds of one clock, on whichever sides they were taken. What was never shown is never left
out: it counts as shown when the run was given up, or as an infinite delay, as each measure says.

**Stalls.** Eloquent (arXiv 2401.12961) calls the proportion of token rendering wait time the stall
ratio; third-party readings have a stall begin at 200 ms. Open there, and decided here: a gap between
two tokens on the screen is a stall if it is more than 200 ms longer than the gap that the model made
between the same two. The headline, `Stalls.ratio`, is the sum of these excesses over the time from
the first to the last token on the screen. The other readings stand beside it: only what goes beyond
the 200 ms, the whole gaps, and the share of gaps that stall. Tokens shown at the same moment are one
rendering, with gaps of 0.

**QoE** (Andes, arXiv 2404.16283) compares when the reader has digested each token with when he would
have, had the first come at `ttft_s` and then `rate` tokens per second. One who is served in advance
digests no faster: token i at `D_i = max(shown_i, D_(i-1) + 1 / rate)`. Hence a `Pacer` at the same
rate changes neither form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from eloquent.errors import ConfigurationError
from eloquent.pacer import READING_RATE

try:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "eloquent.qoe needs numpy: pip install 'eloquent-stream[lab]'", name=error.name
    ) from error

STALL_S = 0.2
"""How much longer than the model's own gap a stall is, in seconds (third-party readings of the paper)."""

THRESHOLDS_S = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""For the sensitivity of the stall ratio to STALL_S."""

TTFT_TARGET_S = 1.0
"""Time to first token that a reader expects, in seconds (Andes, arXiv 2404.16283)."""

SHARES = (0.5, 0.95, 0.99, 0.999)
"""p50, p95, p99, p99.9."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """One answer: for each token, when the model had it and when it was on the screen.

    Made by `of` or `from_records`, which raise ConfigurationError for times that cannot be: other than
    one for each token, not finite, decreasing, shown before generated, or missing without `ended_at`.
    """

    generated_at: Array
    rendered_at: Array
    """nan for a token that was never shown, at the end or as a hole; the others do not decrease."""
    asked_at: float
    ended_at: float
    """Until when it was watched: where nothing is missing, the last token."""

    @classmethod
    def of(
        cls,
        generated_at: ArrayLike,
        rendered_at: ArrayLike,
        *,
        asked_at: float,
        ended_at: float | None = None,
    ) -> Self:
        """A timeline of two arrays, one element for each token; `ended_at` if a token is missing."""
        generated, rendered = _times("generated", generated_at), _times("rendered", rendered_at)
        _check(generated, rendered, asked_at)
        is_missing = np.isnan(rendered)
        if ended_at is None:
            if is_missing.any():
                raise ConfigurationError(
                    f"token {int(np.argmax(is_missing))} was never rendered: ended_at must say until when"
                )
            ended_at = float(rendered[-1])
        latest = max(float(generated[-1]), float(np.max(rendered[~is_missing], initial=-math.inf)))
        if not latest <= ended_at < math.inf:
            raise ConfigurationError(f"ended_at must be at or after the last token, {latest}, not {ended_at}")
        return cls(generated, rendered, asked_at, ended_at)

    @classmethod
    def from_records(
        cls,
        records: Iterable[tuple[int, float, float]],
        *,
        asked_at: float,
        ended_at: float | None = None,
    ) -> Self:
        """A timeline of (token index, generated at, rendered at), in any order, each index once."""
        ordered = sorted(records)
        for expected, (index, _, _) in enumerate(ordered):
            if index != expected:
                raise ConfigurationError(
                    f"each token must have one record: {index} stands for token {expected}"
                )
        generated, rendered = [at for _, at, _ in ordered], [at for _, _, at in ordered]
        return cls.of(generated, rendered, asked_at=asked_at, ended_at=ended_at)

    @property
    def missing(self) -> int:
        """Tokens that were never shown."""
        return int(np.isnan(self.rendered_at).sum())


def _times(name: str, values: ArrayLike) -> Array:
    times = np.array(values, dtype=np.float64)
    if times.ndim != 1 or times.size == 0:
        raise ConfigurationError(f"{name} times must be a row of at least one number, not {times.shape}")
    times.flags.writeable = False
    return times


def _check(generated: Array, rendered: Array, asked_at: float) -> None:
    if len(generated) != len(rendered):
        raise ConfigurationError(
            f"{len(generated)} tokens were generated, {len(rendered)} have a rendered time"
        )
    shown = rendered[~np.isnan(rendered)]
    if not np.isfinite(generated).all() or not np.isfinite(shown).all():
        raise ConfigurationError("times must be finite; nan stands for a token that was never rendered")
    if (np.diff(generated) < 0).any() or (np.diff(shown) < 0).any():
        raise ConfigurationError("times must not decrease from one token to the next")
    if (rendered < generated).any():
        first = int(np.argmax(rendered < generated))
        raise ConfigurationError(f"token {first} was rendered before it was generated: are there two clocks?")
    if not asked_at <= generated[0]:
        raise ConfigurationError(f"the question came at {asked_at}, after the first token, {generated[0]}")


def percentiles(values: ArrayLike, shares: Sequence[float] = SHARES) -> list[float]:
    """For each share, the smallest value that at least this share of them do not exceed; nan of none.

    Nearest rank: `sorted(values)[ceil(share * n) - 1]`, always one of the values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    ranks = [min(max(math.ceil(share * count), 1), count) for share in shares]
    return [float(ordered[rank - 1]) if count else math.nan for rank in ranks]


def ttft(timeline: Timeline) -> float:
    """Time to first token: `rendered_0 - asked`, seconds; infinite where no token was ever shown."""
    return float(np.nanmin(timeline.rendered_at, initial=math.inf)) - timeline.asked_at


def itl(timeline: Timeline) -> Array:
    """Inter-token latencies: `rendered_i - rendered_(i-1)`, seconds.

    Across a hole it is one gap; where the end is missing, the last gap reaches to `ended_at`.
    """
    return _gaps(timeline)[0]


def delays(timeline: Timeline) -> Array:
    """`rendered_i - generated_i`, seconds; infinite for a token that was never shown."""
    times = timeline.rendered_at - timeline.generated_at
    return np.where(np.isnan(times), math.inf, times)


def extra_delays(timeline: Timeline, one_way_s: ArrayLike) -> Array:
    """`rendered_i - generated_i - one-way delay`, seconds: what loss, batching and queues have added.

    `one_way_s` is the path's own delay, one for all tokens or one for each.
    """
    return delays(timeline) - np.asarray(one_way_s, dtype=np.float64)


def _gaps(timeline: Timeline) -> tuple[Array, Array]:
    """(seconds between neighbours on the screen, seconds that the model made between the same two).

    Across a hole, neighbours are the tokens around it. A missing end adds a gap, as if the first token
    of it had been shown at `ended_at`; where nothing was shown, the wait begins with the first token.
    """
    is_shown = ~np.isnan(timeline.rendered_at)
    generated, rendered = timeline.generated_at[is_shown], timeline.rendered_at[is_shown]
    begin = timeline.generated_at[:1]
    if not is_shown.any():
        generated, rendered = begin, begin
    if not is_shown[-1]:
        next_token = int(np.max(np.flatnonzero(is_shown), initial=-1)) + 1
        generated = np.append(generated, timeline.generated_at[next_token])
        rendered = np.append(rendered, timeline.ended_at)
    return np.diff(rendered), np.diff(generated)


@dataclass(frozen=True, slots=True)
class Stalls:
    """The stalls of one answer, or of several (`pooled`). With `g` a gap on the screen, `m` the model's
    own between the same tokens, `e = g - m` and `T` the threshold, a stall is a gap with `e > T`."""

    count: int
    gaps: int
    lost_s: float
    """Sum of `e` over the stalls: time lost in stalls."""
    beyond_s: float
    """Sum of `e - T`."""
    whole_s: float
    """Sum of `g`."""
    longest_s: float
    """The greatest `e`: the longest freeze; 0 without stalls."""
    rendering_s: float
    """Sum of all `g`: from the first to the last token on the screen."""

    @property
    def ratio(self) -> float:
        """The stall ratio: `lost_s / rendering_s`, 0 to 1; 0 for a single rendering."""
        return _share(self.lost_s, self.rendering_s)

    @property
    def beyond_ratio(self) -> float:
        """The stall ratio if only what goes beyond the threshold counts."""
        return _share(self.beyond_s, self.rendering_s)

    @property
    def whole_ratio(self) -> float:
        """The stall ratio if the whole gaps count."""
        return _share(self.whole_s, self.rendering_s)

    @property
    def share(self) -> float:
        """Stalls by gaps."""
        return _share(self.count, self.gaps)


def _share(part: float, whole: float) -> float:
    # Sums in another order can exceed the whole by a rounding error.
    return min(part / whole, 1.0) if whole else 0.0


def stalls(timeline: Timeline, *, threshold_s: float = STALL_S, pace_s: float = 0.0) -> Stalls:
    """The stalls of an answer.

    `pace_s`, for tokens that a pacer has shown, is the gap that it makes by itself, `1 / rate`: the
    model's own gaps then count as no shorter than that.
    """
    on_screen, own = _gaps(timeline)
    excess = on_screen - np.maximum(own, pace_s)
    is_stall = excess > threshold_s
    count, lost_s = int(is_stall.sum()), float(excess[is_stall].sum())
    return Stalls(
        count=count,
        gaps=len(excess),
        lost_s=lost_s,
        beyond_s=lost_s - count * threshold_s,
        whole_s=float(on_screen[is_stall].sum()),
        longest_s=float(np.max(excess[is_stall], initial=0.0)),
        rendering_s=float(on_screen.sum()),
    )


def pooled(parts: Iterable[Stalls]) -> Stalls:
    """Several answers as one: everything summed, the longest of all freezes."""
    runs = list(parts)
    return Stalls(
        count=sum(run.count for run in runs),
        gaps=sum(run.gaps for run in runs),
        lost_s=math.fsum(run.lost_s for run in runs),
        beyond_s=math.fsum(run.beyond_s for run in runs),
        whole_s=math.fsum(run.whole_s for run in runs),
        longest_s=max((run.longest_s for run in runs), default=0.0),
        rendering_s=math.fsum(run.rendering_s for run in runs),
    )


def sensitivity(timelines: Iterable[Timeline], thresholds_s: Sequence[float] = THRESHOLDS_S) -> list[float]:
    """The stall ratio of several answers as one, for each threshold."""
    runs = list(timelines)
    return [pooled(stalls(run, threshold_s=threshold) for run in runs).ratio for threshold in thresholds_s]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went one way. Bytes are those of whole IP packets: with all headers, padding and acks."""

    datagrams: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Overhead:
    """Datagrams and bytes by tokens, towards the reader (down) and back (up)."""

    datagrams_down: float
    bytes_down: float
    datagrams_up: float
    bytes_up: float


def overhead(tokens: int, *, down: Traffic, up: Traffic) -> Overhead:
    """What a token costs on the wire: the traffic of an answer by its `tokens`, shown or not."""
    if tokens < 1:
        raise ConfigurationError(f"overhead is by tokens: there must be at least 1, not {tokens}")
    return Overhead(down.datagrams / tokens, down.bytes / tokens, up.datagrams / tokens, up.bytes / tokens)


def andes_v1(timeline: Timeline, *, rate: float = READING_RATE, ttft_s: float = TTFT_TARGET_S) -> float:
    """QoE as the first version of the Andes paper (arXiv 2404.16283v1) has it: 1 is best, 0 worst.

    `area under A / area under min(rate * (t - ttft_s), n)`, from the question until the end, at most 1.
    `A(t)` is the text digested until then, in tokens. Its slope is at most `rate`: token i is read
    evenly from `D_i` to `D_i + 1 / rate`, which puts `end - D_i - 1 / (2 rate)` under the curve. The
    areas end where the later of the two curves does.

    Mind that waiting for the very last token makes the end later and the areas of all others larger:
    this QoE may rise with it. The second form does not have that flaw.
    """
    ideal, digested = _expected(timeline, rate, ttft_s), _digested(timeline, rate)
    middle_s = 0.5 / rate
    end = max(float(ideal[-1]), float(digested[-1])) + 2 * middle_s
    area, expected_area = (float((end - starts - middle_s).sum()) for starts in (digested, ideal))
    return min(area / expected_area, 1.0)


def andes_v2(timeline: Timeline, *, rate: float = READING_RATE, ttft_s: float = TTFT_TARGET_S) -> float:
    """QoE as the second version of the Andes paper (arXiv 2404.16283v2) has it: 1 is best, 0 worst.

    `1 - sum(T_actual - T_ideal) / sum(T_actual - asked)`, at most 1, where
    `T_ideal_i = asked + ttft_s + (i - 1) / rate` and `T_actual_i = D_i`.
    """
    ideal, digested = _expected(timeline, rate, ttft_s), _digested(timeline, rate)
    total_s = float(digested.sum())
    return min(1.0 - float((digested - ideal).sum()) / total_s, 1.0) if total_s else 1.0


def _expected(timeline: Timeline, rate: float, ttft_s: float) -> Array:
    """When the reader would like to digest each token, in seconds after the question."""
    if not 0.0 < rate < math.inf or not 0.0 <= ttft_s < math.inf:
        raise ConfigurationError(f"rate must be above 0 and ttft_s 0 or more, not {rate} and {ttft_s}")
    return ttft_s + np.arange(len(timeline.generated_at)) / rate


def _digested(timeline: Timeline, rate: float) -> Array:
    """When the reader begins to digest each token, in seconds after the question.

    Tokens count in the order in which they were shown; those that never were, as shown at `ended_at`.
    """
    rendered = timeline.rendered_at
    shown = np.sort(np.where(np.isnan(rendered), timeline.ended_at, rendered)) - timeline.asked_at
    # D_i - i / rate = max(shown_i - i / rate, D_(i-1) - (i - 1) / rate): a running maximum.
    steps = np.arange(len(shown)) / rate
    digested: Array = np.maximum.accumulate(shown - steps) + steps
    return digested
