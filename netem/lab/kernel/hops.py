"""What stands in each place of a link, for a moment of a scenario.

The places come in the order of `netem.link`: an outage drops or holds, the queue waits for the rate,
loss follows, then delay. TBF lets a bucket of bytes pass at once after an idle time, so it only keeps
the queue; netem's `rate` behind it gives each packet the time that its transmission takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netem.impairment import Impairment
from netem.lab.kernel.delays import delay_table
from netem.lab.kernel.netlink import ETHERNET_HEADER_BYTES
from netem.lab.kernel.qdiscs import (
    Delay,
    GilbertElliottChances,
    Hold,
    Loss,
    Queue,
    Setting,
    Transmission,
)
from netem.scenario import Outage

_NO_LIMIT_BYTES_PER_S = 12_500_000_000  # 100 Gbit/s: more than veth carries
_NO_LIMIT_BYTES = 1 << 30
_LATE_S = 0.010
"""How late TBF's timer may be without loss of rate; arbitrary, emulated machines need some ms."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One setting for each place, in the order that packets meet them."""

    outage: Setting
    hold: Setting
    queue: Setting
    rate: Setting
    loss: Setting
    delay: Setting


PLACES: tuple[str, ...] = ("outage", "hold", "queue", "rate", "loss", "delay")
"""The fields of Settings."""

Interfaces = Mapping[str, int]
"""The index of the interface whose root discipline is in a place, for each of PLACES."""


def settings(impairment: Impairment, outage: Outage | None, *, is_bad: bool, mtu: int) -> Settings:
    """For an impairment whose bursts are in the bad state or not, and packets of up to `mtu` bytes."""
    is_held = outage is not None and outage.held
    return Settings(
        outage=Loss(outage.loss if outage is not None and not outage.held else 0.0),
        hold=Hold(is_held),
        queue=_queue(impairment, mtu),
        rate=Transmission(_bytes_per_s(impairment.rate_bps) if impairment.rate_bps else 0),
        loss=_loss(impairment, is_bad=is_bad),
        delay=Delay(delay_table(impairment), impairment.duplication),
    )


def _bytes_per_s(rate_bps: float) -> int:
    return max(1, round(rate_bps / 8.0))


def _queue(impairment: Impairment, mtu: int) -> Queue:
    if impairment.rate_bps is None:
        return Queue(_NO_LIMIT_BYTES_PER_S, _NO_LIMIT_BYTES, _NO_LIMIT_BYTES)
    rate = _bytes_per_s(impairment.rate_bps)
    limit = impairment.queue_limit_s * rate
    frame = mtu + ETHERNET_HEADER_BYTES
    burst = frame + round(min(rate * _LATE_S, limit / 2.0))
    # Under load netem's `rate` holds between burst - frame and burst of what waits; TBF keeps the
    # rest. The link admits by what waits before a packet, TBF by that and the packet itself.
    rest = round(limit) - burst + frame * 3 // 2
    return Queue(rate, burst, min(max(frame, rest), _NO_LIMIT_BYTES))


def _loss(impairment: Impairment, *, is_bad: bool) -> Loss:
    bursts = impairment.bursts
    kept = 1.0 - impairment.loss
    if bursts is not None:
        kept *= 1.0 - (bursts.loss_in_bad if is_bad else bursts.loss_in_good)
    model = impairment.gilbert_elliott
    if model is None:
        return Loss(1.0 - kept, None, impairment.ecn, impairment.corruption)
    chances = GilbertElliottChances(
        model.p,
        model.r,
        1.0 - kept * (1.0 - model.loss_in_bad),
        1.0 - kept * (1.0 - model.loss_in_good),
    )
    return Loss(0.0, chances, impairment.ecn, impairment.corruption)
