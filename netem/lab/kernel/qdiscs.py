"""The options of the queueing disciplines in use, as values and as netlink attributes.

Layouts and names are those of linux/pkt_sched.h. netem keeps what a change does not mention, so
each of its settings mentions all that it may ever have set.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netem.lab.kernel.delays import DelayTable
from netem.lab.kernel.netlink import attribute

_TCA_NETEM_DELAY_DIST = 2
_TCA_NETEM_CORRUPT = 4
_TCA_NETEM_LOSS = 5
_TCA_NETEM_RATE = 6
_TCA_NETEM_ECN = 7
_TCA_NETEM_RATE64 = 8
_TCA_NETEM_LATENCY64 = 10
_TCA_NETEM_JITTER64 = 11
_TCA_NETEM_PRNG_SEED = 14
_NETEM_LOSS_GE = 2
_TCA_TBF_PARMS = 1
_TCA_TBF_RATE64 = 4
_TCA_TBF_BURST = 6
_LINKLAYER_ETHERNET = 1
_PLUG_BUFFER = 0
_PLUG_RELEASE_INDEFINITE = 2

_U32_MAX = 0xFFFFFFFF
_PACKETS = 1_000_000
"""What netem may hold; it never is the limit (100 ms at ten million packets a second)."""

_HELD_BYTES = 1 << 30
"""What an outage may hold; the memory is taken as packets come."""

_NETEM = struct.Struct("=IIIIII")  # latency, limit, loss, gap, duplicate, jitter
_PAIR = struct.Struct("=II")
_GE = struct.Struct("=IIII")  # p, r, h, 1-k
_RATE = struct.Struct("=IiIi")  # bytes per second, overhead and cells
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_S64 = struct.Struct("=q")
_RATESPEC = struct.Struct("=BBHhHI")  # cell, link layer, overhead, align, least, bytes per second
_TBF = struct.Struct("=III")  # limit, buffer, MTU; behind two rates
_PLUG = struct.Struct("=iI")  # action, limit


@dataclass(frozen=True, slots=True)
class GilbertElliottChances:
    """Chances to enter and to leave the bad state, and to be lost in either."""

    p: float
    r: float
    loss_in_bad: float
    loss_in_good: float


@dataclass(frozen=True, slots=True)
class Loss:
    """What netem drops, and damages. `model` takes the place of `chance` where it is given."""

    chance: float = 0.0
    model: GilbertElliottChances | None = None
    ecn: bool = False
    corruption: float = 0.0

    kind = "netem"

    def options(self, seed: int) -> bytes:
        """The options, with a seed of 64 bits for kernels that take one (6.6 and later)."""
        parts = [
            _netem_header(loss=self.chance),
            attribute(_TCA_NETEM_CORRUPT, _PAIR.pack(_fraction(self.corruption), 0)),
            attribute(_TCA_NETEM_ECN, _U32.pack(self.ecn)),
            attribute(_TCA_NETEM_PRNG_SEED, _U64.pack(seed)),
        ]
        if self.model is not None:  # else the kernel goes back to independent loss
            model = self.model
            chances = (model.p, model.r, 1.0 - model.loss_in_bad, model.loss_in_good)
            packed = _GE.pack(*map(_fraction, chances))
            parts.append(attribute(_TCA_NETEM_LOSS, attribute(_NETEM_LOSS_GE, packed)))
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Transmission:
    """The time that packets take at a rate in bytes per second, one after the other; 0 is none."""

    bytes_per_s: int = 0

    kind = "netem"

    def options(self, seed: int) -> bytes:
        """The options; nothing here is by chance."""
        del seed
        low = min(self.bytes_per_s, _U32_MAX)
        rate = attribute(_TCA_NETEM_RATE, _RATE.pack(low, 0, 0, 0))
        if self.bytes_per_s > _U32_MAX:
            rate += attribute(_TCA_NETEM_RATE64, _U64.pack(self.bytes_per_s))
        return _netem_header() + rate


@dataclass(frozen=True, slots=True)
class Delay:
    """Delays from a table, and second copies with delays of their own."""

    table: DelayTable
    duplication: float = 0.0

    kind = "netem"

    def options(self, seed: int) -> bytes:
        """The options, with a seed of 64 bits for kernels that take one (6.6 and later)."""
        parts = [
            _netem_header(duplicate=self.duplication),
            attribute(_TCA_NETEM_LATENCY64, _S64.pack(self.table.latency_ns)),
            attribute(_TCA_NETEM_JITTER64, _S64.pack(self.table.jitter_ns)),
            attribute(_TCA_NETEM_PRNG_SEED, _U64.pack(seed)),
        ]
        if self.table.entries:
            parts.append(attribute(_TCA_NETEM_DELAY_DIST, self.table.entries))
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Queue:
    """TBF: a queue of `limit_bytes` before a rate in bytes per second, with a bucket of `burst_bytes`."""

    bytes_per_s: int
    burst_bytes: int
    limit_bytes: int

    kind = "tbf"

    def options(self, seed: int) -> bytes:
        """The options; nothing here is by chance."""
        del seed
        low = min(self.bytes_per_s, _U32_MAX)
        rate = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, low)
        no_peak = bytes(_RATESPEC.size)
        return b"".join(
            (
                attribute(_TCA_TBF_PARMS, rate + no_peak + _TBF.pack(self.limit_bytes, 0, 0)),
                attribute(_TCA_TBF_RATE64, _U64.pack(self.bytes_per_s)),
                attribute(_TCA_TBF_BURST, _U32.pack(self.burst_bytes)),
            )
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """plug: holds all packets, or lets them and what it has held pass."""

    is_holding: bool = False

    kind = "plug"

    def options(self, seed: int) -> bytes:
        """The options; nothing here is by chance."""
        del seed
        action = _PLUG_BUFFER if self.is_holding else _PLUG_RELEASE_INDEFINITE
        return _PLUG.pack(action, _HELD_BYTES)


Setting = Loss | Transmission | Delay | Queue | Hold


def _netem_header(*, loss: float = 0.0, duplicate: float = 0.0) -> bytes:
    return _NETEM.pack(0, _PACKETS, _fraction(loss), 0, _fraction(duplicate), 0)


def _fraction(chance: float) -> int:
    """A probability as netem compares it with 32 random bits."""
    return round(chance * _U32_MAX)
