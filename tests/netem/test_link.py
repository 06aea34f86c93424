"""The link against its settings.

Statistics are checked at 4 standard errors. The seeds are fixed, so a failure is a change of
behaviour and never bad luck.
"""

import math
import statistics
from hashlib import sha256
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem import Bursts, Change, Fate, GilbertElliott, Impairment, Link, Outage, Scenario, scenario
from netem.jitter import DISTRIBUTIONS
from netem.link import BurstClock

COUNT = 20_000
SPACING_S = 0.001


def link_of(impairment: Impairment, *outages: Outage, seed: int = 1) -> Link:
    return Link(Scenario("test", up=impairment, down=impairment, outages=outages), "up", seed=seed)


def send_many(link: Link, count: int = COUNT, spacing_s: float = SPACING_S) -> list[float | None]:
    """Return each datagram's delay, None for those dropped."""
    delays: list[float | None] = []
    for number in range(count):
        now = number * spacing_s
        deliveries = link.send(b"x", now=now)
        delays.append(deliveries[0][0] - now if deliveries else None)
    return delays


def assert_share(found: int, expected: float, count: int = COUNT) -> None:
    assert found / count == pytest.approx(expected, abs=4 * math.sqrt(expected / count))


def test_the_default_passes_everything_at_once() -> None:
    link = link_of(Impairment())
    assert link.send(b"abc", now=1.0) == [(1.0, b"abc")]
    assert link.fate is Fate.DELIVERED
    assert (link.counts.sent, link.counts.delivered, link.counts.sent_bytes) == (1, 1, 31)


def test_random_loss_has_its_probability() -> None:
    link = link_of(Impairment(loss=0.05))
    send_many(link)
    assert_share(link.counts.dropped_by_loss, 0.05)
    assert link.counts.sent == link.counts.delivered + link.counts.dropped_by_loss


def test_the_per_datagram_model_has_its_mean_and_its_burst_length() -> None:
    delays = send_many(link_of(Impairment(gilbert_elliott=GilbertElliott(p=0.02, r=0.25))))
    starts = sum(a is not None and b is None for a, b in pairwise(delays))
    lost = delays.count(None)
    # Losses come in runs of 1/r = 4, so the number of runs carries the uncertainty.
    assert lost / COUNT == pytest.approx(0.02 / 0.27, rel=4 * math.sqrt(2 / starts))
    assert lost / starts == pytest.approx(4.0, rel=4 / math.sqrt(starts))


def test_the_per_datagram_model_starts_in_its_steady_state() -> None:
    model = Impairment(gilbert_elliott=GilbertElliott(p=0.05, r=0.05))
    lost = sum(not link_of(model, seed=seed).send(b"x", now=0.0) for seed in range(2000))
    assert_share(lost, 0.5, 2000)


def test_wall_clock_bursts_last_their_time_whatever_the_traffic() -> None:
    bursts = Bursts(good_s=0.368, bad_s=0.029)
    for spacing_s in (0.001, 0.0037):
        delays = send_many(link_of(Impairment(bursts=bursts)), 200_000, spacing_s)
        starts = sum(a is not None and b is None for a, b in pairwise(delays))
        seen_s = delays.count(None) * spacing_s / starts
        # A burst between two datagrams is not seen at all, so those seen last longer by half
        # a spacing, to first order.
        assert seen_s == pytest.approx(0.029 + spacing_s / 2, rel=4 / math.sqrt(starts))


def test_bursts_of_one_seed_are_the_same_for_every_traffic() -> None:
    impairment = Impairment(bursts=Bursts(good_s=0.3, bad_s=0.1))
    dense = send_many(link_of(impairment, seed=9), 30_000, 0.001)
    sparse = send_many(link_of(impairment, seed=9), 600, 0.05)
    assert sparse == [None if dense[50 * n] is None else 0.0 for n in range(600)]
    assert send_many(link_of(impairment, seed=10), 600, 0.05) != sparse
    path = Scenario("test", up=impairment, down=impairment)
    assert send_many(Link(path, "down", seed=9), 600, 0.05) != sparse


def test_bursts_start_in_their_steady_state() -> None:
    bursts = Bursts(good_s=1.0, bad_s=3.0)
    bad = sum(BurstClock(bursts, Random(seed)).is_bad(0.0) for seed in range(4000))
    assert bad / 4000 == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 4000))


def test_bursts_go_on_through_a_change_that_keeps_them() -> None:
    before = Impairment(bursts=Bursts(good_s=0.3, bad_s=0.1))
    after = Impairment(delay_s=0.5, bursts=before.bursts)
    changing = Scenario("c", up=before, down=before, changes=(Change(5.0, up=after, down=after),))
    changed = send_many(Link(changing, "up", seed=1), 10_000)
    plain = send_many(link_of(before), 10_000)
    assert [delay is None for delay in changed] == [delay is None for delay in plain]
    assert changed[-1] == pytest.approx(0.5)


def test_normal_jitter_has_its_deviation_and_correlation() -> None:
    link = link_of(Impairment(delay_s=0.1, jitter_s=0.01, jitter_correlation=0.5))
    delays = [delay for delay in send_many(link) if delay is not None]
    assert statistics.fmean(delays) == pytest.approx(0.1, abs=0.01 * 4 * math.sqrt(3 / COUNT))
    assert statistics.stdev(delays) == pytest.approx(0.01, rel=0.04)
    assert statistics.correlation(delays[:-1], delays[1:]) == pytest.approx(0.5, abs=0.03)


def test_uniform_jitter_fills_its_range_evenly() -> None:
    link = link_of(Impairment(delay_s=0.1, jitter_s=0.04, jitter_distribution="uniform"))
    delays = [delay for delay in send_many(link) if delay is not None]
    assert 0.06 <= min(delays) < 0.0605
    assert 0.1395 < max(delays) <= 0.14
    for quarter in range(4):
        low = 0.06 + 0.02 * quarter
        assert_share(sum(low <= delay < low + 0.02 for delay in delays), 0.25)


def test_jitter_never_delivers_into_the_past() -> None:
    delays = send_many(link_of(Impairment(delay_s=0.001, jitter_s=0.1)))
    assert min(delay for delay in delays if delay is not None) > -1e-9


def test_duplicates_arrive_besides_the_original() -> None:
    link = link_of(Impairment(duplication=0.1))
    copies = [len(link.send(b"x", now=0.0)) for _ in range(COUNT)]
    assert copies.count(2) == link.counts.duplicated
    assert copies.count(1) + copies.count(2) == link.counts.delivered == COUNT
    assert_share(link.counts.duplicated, 0.1)


def test_reordered_datagrams_are_late_by_the_given_time() -> None:
    link = link_of(Impairment(delay_s=0.01, reordering=0.1, reordering_delay_s=0.02))
    late = sum(delay == pytest.approx(0.03) for delay in send_many(link))
    assert late == link.counts.reordered
    assert_share(late, 0.1)


@given(st.binary(max_size=200), st.integers(0, 1000))
def test_corruption_flips_exactly_one_bit(payload: bytes, seed: int) -> None:
    link = link_of(Impairment(corruption=1.0), seed=seed)
    ((_, received),) = link.send(payload, now=0.0)
    flipped = int.from_bytes(received) ^ int.from_bytes(payload)
    assert len(received) == len(payload)
    assert flipped.bit_count() == link.counts.corrupted == (1 if payload else 0)


def test_the_rate_counts_headers_and_queues_in_order() -> None:
    # 972 + 28 bytes at 8 kbit/s take exactly 1 s.
    link = link_of(Impairment(delay_s=0.5, rate_bps=8_000.0, queue_s=2.0))
    payload = bytes(972)
    assert link.send(payload, now=0.0) == [(1.5, payload)]
    assert link.send(payload, now=0.0) == [(2.5, payload)]
    assert link.send(payload, now=0.0) == [(3.5, payload)]  # waits 2 s, just what is allowed
    assert link.send(payload, now=0.0) == []
    assert link.fate is Fate.QUEUE
    assert link.send(payload, now=0.5) == []
    assert link.send(payload, now=1.0) == [(4.5, payload)]
    assert link.send(payload, now=10.0) == [(11.5, payload)]
    assert link.counts.dropped_by_queue == 2


@given(
    sizes=st.lists(st.integers(0, 1400), min_size=1, max_size=50),
    rate_bps=st.floats(1e3, 1e7),
    limit_bytes=st.integers(0, 10_000),
)
def test_a_limited_link_never_exceeds_its_rate_or_its_queue(
    sizes: list[int], rate_bps: float, limit_bytes: int
) -> None:
    link = link_of(Impairment(rate_bps=rate_bps, queue_bytes=limit_bytes))
    arrivals = [(link.send(bytes(size), now=0.0), size) for size in sizes]
    passed = [(deliveries[0][0], size + 28) for deliveries, size in arrivals if deliveries]
    assert passed
    total = 0
    for at, wire_size in passed:
        assert total <= limit_bytes + 1
        total += wire_size
        assert at == pytest.approx(total * 8 / rate_bps)


def test_loss_uses_the_wire_and_an_outage_does_not() -> None:
    limited = Impairment(rate_bps=8_000.0, queue_s=10.0, loss=1.0)
    lossy = Scenario("c", up=limited, down=limited, changes=(Change(1.0, Impairment(), Impairment()),))
    lost = Link(lossy, "up", seed=1)
    lost.send(bytes(972), now=0.0)
    assert lost.fate is Fate.LOSS

    reliable = Impairment(rate_bps=8_000.0, queue_s=10.0)
    cut = link_of(reliable, Outage(0.0, 0.5))
    assert cut.send(bytes(972), now=0.1) == []
    assert cut.fate is Fate.OUTAGE
    assert cut.send(bytes(972), now=0.5)[0][0] == 1.5


def test_an_outage_drops_exactly_what_is_sent_in_its_windows() -> None:
    link = link_of(Impairment(delay_s=0.1), Outage(1.0, 0.25, period_s=5.0))
    delays = send_many(link, 16, 0.25)  # 1.0, and none of 0.75 and 1.25
    assert [number for number, delay in enumerate(delays) if delay is None] == [4]
    assert link.send(b"x", now=5.999) != []
    assert link.send(b"x", now=6.0) == []
    assert link.send(b"x", now=6.25) != []
    assert link.counts.dropped_by_outage == 2


def test_a_partial_outage_drops_its_share() -> None:
    link = link_of(Impairment(), Outage(0.0, 1000.0, loss=0.5))
    send_many(link)
    assert_share(link.counts.dropped_by_outage, 0.5)


def test_a_held_outage_delivers_in_order_when_it_ends() -> None:
    link = link_of(Impairment(delay_s=0.1), Outage(1.0, 0.5, held=True))
    arrivals = [link.send(bytes([n]), now=0.9 + 0.2 * n) for n in range(5)]
    expected = [1.0, 1.6, 1.6, 1.6, 1.8]
    assert [at for ((at, _),) in arrivals] == pytest.approx(expected)


def test_held_datagrams_still_take_their_time_on_the_wire() -> None:
    link = link_of(Impairment(rate_bps=8_000.0, queue_s=10.0), Outage(0.0, 5.0, held=True))
    arrivals = [link.send(bytes(972), now=now)[0][0] for now in (0.0, 1.0, 4.0)]
    assert arrivals == [6.0, 7.0, 8.0]


@pytest.mark.parametrize("reordering", [0.0, 0.2], ids=["in-order", "reordered"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_delays_follow_their_quantiles(distribution: Any, reordering: float) -> None:
    impairment = Impairment(
        delay_s=0.05,
        jitter_s=0.01,
        jitter_distribution=distribution,
        reordering=reordering,
        reordering_delay_s=0.03 if reordering else 0.0,
    )
    delays = [delay for delay in send_many(link_of(impairment)) if delay is not None]
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.79, 0.9, 0.99, 0.999):
        quantile = impairment.delay_quantile(share) + 1e-9
        below = sum(delay <= quantile for delay in delays)
        assert below / COUNT == pytest.approx(share, abs=4 * math.sqrt(share * (1.0 - share) / COUNT))


def test_loss_marks_what_is_capable_of_ecn() -> None:
    settings = Impairment(loss=0.1, bursts=Bursts(0.3, 0.1), ecn=True)
    marking, dropping = link_of(settings), link_of(settings)
    for number in range(COUNT):
        now = number * SPACING_S
        assert len(marking.send(b"x", now=now, is_ecn_capable=True)) == 1
        dropping.send(b"x", now=now)
        assert (marking.fate is Fate.MARKED) == (dropping.fate is Fate.LOSS)
    assert marking.counts.marked == dropping.counts.dropped_by_loss > 0
    assert marking.counts.delivered == marking.counts.sent
    assert dropping.counts.marked == 0


def test_without_ecn_nothing_is_marked() -> None:
    link = link_of(Impairment(loss=1.0))
    assert link.send(b"x", now=0.0, is_ecn_capable=True) == []
    assert link.fate is Fate.LOSS


def test_a_full_queue_and_an_outage_drop_what_is_capable_of_ecn() -> None:
    limited = Impairment(loss=0.5, ecn=True, rate_bps=8_000.0, queue_s=0.0)
    link = link_of(limited, Outage(10.0, 1.0))
    link.send(b"x", now=0.0, is_ecn_capable=True)
    for now, fate in ((0.0, Fate.QUEUE), (10.0, Fate.OUTAGE)):
        assert link.send(b"x", now=now, is_ecn_capable=True) == []
        assert link.fate is fate


def test_the_size_on_the_wire_can_be_given() -> None:
    link = link_of(Impairment(rate_bps=8_000.0, queue_s=0.0))
    assert link.send(b"x", now=0.0, size=500) == [(0.5, b"x")]
    assert link.counts.sent_bytes == 500


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bursty", "7fcc6e82dd328855"),
        ("wifi-lossy", "00de974ac9538000"),
        ("driving-hspa", "adf25e4414b1549c"),
    ],
)
def test_fates_of_a_seed_stay_what_they_were(name: str, expected: str) -> None:
    """The figures of the documentation are of such seeds."""
    link = Link(scenario(name), "down", seed=7)
    fates = []
    for number in range(5000):
        link.send(b"x", now=number * 0.0113)
        fates.append(link.fate[0])
    assert sha256("".join(fates).encode()).hexdigest().startswith(expected)


def test_the_directions_differ_and_seeds_repeat() -> None:
    impairment = Impairment(delay_s=0.05, jitter_s=0.01, loss=0.1, duplication=0.1, bursts=Bursts(0.1, 0.1))
    path = Scenario("test", up=impairment, down=impairment)
    up = send_many(Link(path, "up", seed=4), 500)
    assert up == send_many(Link(path, "up", seed=4), 500)
    assert up != send_many(Link(path, "up", seed=5), 500)
    assert up != send_many(Link(path, "down", seed=4), 500)
