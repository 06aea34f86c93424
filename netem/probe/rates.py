"""Whether a limited rate is that rate, its queue that long, and a link without one fast."""

from __future__ import annotations

import numpy as np

from netem.impairment import IP_UDP_HEADER_BYTES, Impairment
from netem.probe.bench import Bench, Passage, Times
from netem.probe.datagrams import Flow
from netem.probe.row import Effort, Row, at_least, measured
from netem.scenario import Scenario

_DELAY_S = 0.010
_QUEUE_S = 0.200
_DATAGRAM_BYTES = 1000
_OVERLOAD = 1.5
"""How much more is offered than the rate."""

_RATES_BPS = (500e3, 2e6)
_FLOW_S = 4.0

_TCP_RATE_BPS = 10e6
_TCP_SHARE = 1448 / 1500
"""Payload of IPv4 packets full of TCP with time stamps (RFC 7323)."""
_TCP_WARM_UP_S = 0.7
_TCP_S = 3.0
_UNLIMITED_DELAY_S = 0.005
_LEAST_BPS = 100e6

_RATE_TOLERANCE = 0.02
_TCP_TOLERANCE = 0.05
"""Shares; TCP leaves the queue empty for a moment when it halves its window."""


async def datagrams(bench: Bench, effort: Effort) -> list[Row]:
    """A sender of datagrams that does not heed the rate: 0.5 Mbit/s up, 2 Mbit/s down."""
    up, down = (Impairment(delay_s=_DELAY_S, rate_bps=rate, queue_s=_QUEUE_S) for rate in _RATES_BPS)
    seconds = max(effort.share * _FLOW_S, 4.0 * _QUEUE_S)
    flows = [_flow(rate, seconds) for rate in _RATES_BPS]
    both = await bench.exchange(
        Scenario("rates", up, down), up=flows[0], down=flows[1], settle_s=_QUEUE_S + 0.3
    )
    return [
        row
        for passage, rate in zip((both.up, both.down), _RATES_BPS, strict=True)
        for row in _rate_rows(passage, rate, effort)
    ]


def _flow(rate_bps: float, seconds: float) -> Flow:
    interval_s = _transmission_s(rate_bps) / _OVERLOAD
    return Flow(round(seconds / interval_s), interval_s, size=_DATAGRAM_BYTES)


def _transmission_s(rate_bps: float) -> float:
    return (_DATAGRAM_BYTES + IP_UDP_HEADER_BYTES) * 8.0 / rate_bps


def _rate_rows(passage: Passage, rate_bps: float, effort: Effort) -> list[Row]:
    setting = f"{rate_bps / 1e6:g} Mbit/s, queue of 0.2 s"
    transmission_s = _transmission_s(rate_bps)
    arrived = passage.arrived_at
    received_bps = rate_bps * transmission_s * (len(arrived) - 1) / (arrived[-1] - arrived[0])
    lost = float(np.sum(passage.is_lost))
    return [
        measured(
            setting,
            "UDP, with headers",
            "Mbit/s",
            "rate",
            expected=rate_bps / 1e6,
            value=float(received_bps) / 1e6,
            tolerance=_RATE_TOLERANCE * rate_bps / 1e6,
        ),
        measured(
            setting,
            "longest delay",
            "ms",
            "timing",
            # The last one that is let in waits as long as is allowed, and is then sent itself.
            expected=1e3 * (_DELAY_S + _QUEUE_S + transmission_s),
            value=1e3 * float(np.quantile(passage.delays_s, 0.99)),
            tolerance=effort.timing_ms + 1e3 * transmission_s,
        ),
        measured(
            setting,
            "dropped by the queue",
            "packets",
            "rate",
            expected=ideal_drops(passage.sent_at, transmission_s),
            value=lost,
            tolerance=2.0 + _RATE_TOLERANCE * len(passage.sent_at),
        ),
        measured(
            setting,
            "dropped by the link's count",
            "packets",
            "chance",
            expected=lost,
            value=float(passage.counts.dropped_by_queue),
            tolerance=0.0,
        ),
    ]


def ideal_drops(sent_at: Times, transmission_s: float) -> float:
    """What a perfect queue of that length drops of packets that come at these times."""
    free_at, drops = 0.0, 0
    for at in sent_at:
        if free_at - at > _QUEUE_S:
            drops += 1
        else:
            free_at = max(free_at, at) + transmission_s
    return float(drops)


async def bulk(bench: Bench, effort: Effort) -> list[Row]:
    """A TCP transfer up, at 10 Mbit/s."""
    path = Impairment(delay_s=_DELAY_S)
    up = Impairment(delay_s=_DELAY_S, rate_bps=_TCP_RATE_BPS, queue_s=_QUEUE_S)
    seconds = max(effort.share * _TCP_S, 1.0)
    rate = await bench.bulk_bps(Scenario("bulk", up, path), warm_up_s=_TCP_WARM_UP_S, seconds=seconds)
    expected = _TCP_RATE_BPS * _TCP_SHARE / 1e6
    return [
        measured(
            "10 Mbit/s, queue of 0.2 s",
            "TCP, payload",
            "Mbit/s",
            "rate",
            expected=expected,
            value=rate / 1e6,
            tolerance=_TCP_TOLERANCE * expected,
        )
    ]


async def throughput(bench: Bench, effort: Effort) -> list[Row]:
    """A TCP transfer up without a rate: what this machine carries."""
    path = Impairment(delay_s=_UNLIMITED_DELAY_S)
    seconds = max(effort.share * _TCP_S, 1.0)
    rate = await bench.bulk_bps(Scenario("throughput", path, path), warm_up_s=_TCP_WARM_UP_S, seconds=seconds)
    setting, figure = "no rate, RTT of 10 ms", "TCP, payload, at least"
    return [at_least(setting, figure, "Mbit/s", expected=_LEAST_BPS / 1e6, value=rate / 1e6)]
