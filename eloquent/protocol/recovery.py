"""RTT, loss by packet number, and what is in flight (RFC 9002, protocol 3).

Packets are numbered and acknowledged beside the offsets, because redundancy hides loss from
anything that looks at delivery alone. Loss is declared after three later packets or 9/8 RTT. A
packet older than the acknowledgment's bitmap is unknown: it leaves flight, congestion control
ignores it, retransmission treats it as lost.
"""

from __future__ import annotations

from eloquent.protocol.congestion import CongestionWindow
from eloquent.protocol.send import Carried
from eloquent.protocol.wire import ACK_BITMAP_WIDTH, Ack, Frame

PACKET_THRESHOLD = 3
"""Later packets after which one is lost (RFC 9002 section 6.1.1)."""

TIME_THRESHOLD = 9 / 8
"""RTTs after which an earlier packet is lost (RFC 9002 section 6.1.2)."""

GRANULARITY = 0.001
"""Smallest variation and loss delay in seconds (RFC 9002 kGranularity)."""

INITIAL_RTT = 0.2
"""Seconds, when the HTTPS request did not measure one (protocol 4)."""

MAX_ACK_DELAY = 0.052
"""Seconds that a peer may wait before it acknowledges (protocol 4). Not 50 ms sharp: at gaps of 25 ms
an ack would go just before the third datagram, and RTT 60 ms cost 43.5 bytes per token instead of 35."""

MIN_PTO = 0.05


class RttEstimator:
    """Smoothed RTT and its variation, in seconds (RFC 9002 section 5)."""

    __slots__ = ("has_sample", "latest", "minimum", "pto", "smoothed", "variation")

    def __init__(self, initial: float = INITIAL_RTT) -> None:
        self.smoothed = initial
        self.variation = initial / 2
        self.latest = initial
        self.minimum = initial
        self.has_sample = False
        self.pto = self._pto()
        """`SRTT + max(4 RTTVAR, 1 ms) + the peer's ack delay`, at least 50 ms (protocol 4)."""

    def on_sample(self, sample: float, ack_delay: float) -> None:
        self.latest = sample
        if not self.has_sample:
            self.has_sample = True
            self.minimum = self.smoothed = sample
            self.variation = sample / 2
            self.pto = self._pto()
            return
        self.minimum = min(self.minimum, sample)
        adjusted = sample - ack_delay if sample >= self.minimum + ack_delay else sample
        self.variation += (abs(self.smoothed - adjusted) - self.variation) / 4
        self.smoothed += (adjusted - self.smoothed) / 8
        self.pto = self._pto()

    def _pto(self) -> float:
        return max(self.smoothed + max(4 * self.variation, GRANULARITY) + MAX_ACK_DELAY, MIN_PTO)

    @property
    def loss_delay(self) -> float:
        return max(TIME_THRESHOLD * max(self.smoothed, self.latest), GRANULARITY)


class SentPacket:
    """An ack-eliciting datagram in flight."""

    __slots__ = ("carried", "controls", "packet_number", "sent_at", "size")

    def __init__(
        self, packet_number: int, sent_at: float, size: int, carried: list[Carried], controls: list[Frame]
    ) -> None:
        self.packet_number = packet_number
        self.sent_at = sent_at
        self.size = size
        self.carried = carried
        self.controls = controls
        """Frames that must be sent again when this packet is lost."""


class AckOutcome:
    """What an acknowledgment, or the loss timer, told."""

    __slots__ = ("acked", "lost", "rtt_sample", "unknown")

    def __init__(self) -> None:
        self.acked: list[SentPacket] = []
        self.lost: list[SentPacket] = []
        self.unknown: list[SentPacket] = []
        self.rtt_sample: float | None = None
        """Seconds without the peer's ack delay, where this acknowledgment gave a sample."""


class Recovery:
    """Packets in flight, and what becomes of them."""

    __slots__ = ("_in_flight", "bytes_in_flight", "congestion", "largest_acked", "loss_at", "rtt")

    def __init__(self, *, initial_rtt: float = INITIAL_RTT) -> None:
        self.rtt = RttEstimator(initial_rtt)
        self.congestion = CongestionWindow()
        self.bytes_in_flight = 0
        self.largest_acked = -1
        self.loss_at: float | None = None
        """When the oldest packet that later ones overtook becomes lost."""
        self._in_flight: dict[int, SentPacket] = {}

    @property
    def in_flight(self) -> list[SentPacket]:
        return list(self._in_flight.values())

    @property
    def oldest_sent_at(self) -> float | None:
        """When the oldest packet in flight was sent."""
        return next((packet.sent_at for packet in self._in_flight.values()), None)

    def on_sent(self, packet: SentPacket) -> None:
        self._in_flight[packet.packet_number] = packet
        self.bytes_in_flight += packet.size

    def on_ack(self, ack: Ack, *, was_limited: bool, now: float) -> AckOutcome:
        """Process an acknowledgment whose largest packet number was really sent."""
        outcome = AckOutcome()
        self.largest_acked = max(self.largest_acked, ack.largest)
        overtaken = self._sort_out(ack, outcome)
        self._leave(outcome.acked)
        if outcome.unknown:
            self._leave(outcome.unknown)
        if outcome.acked and outcome.acked[-1].packet_number == ack.largest:
            delay = min(ack.delay_us / 1e6, MAX_ACK_DELAY)
            sample = max(now - outcome.acked[-1].sent_at, 0.0)
            self.rtt.on_sample(sample, delay)
            outcome.rtt_sample = max(sample - delay, self.rtt.minimum)
        self.loss_at = None
        if overtaken:
            self._declare_lost(overtaken, outcome, now=now)
        if outcome.acked:
            size = sum([packet.size for packet in outcome.acked])
            sent_at = outcome.acked[-1].sent_at
            self.congestion.on_acked(size, len(outcome.acked), sent_at, was_limited=was_limited)
        return outcome

    def on_loss_timer(self, *, now: float) -> AckOutcome:
        """Declare lost what has waited for its time threshold."""
        outcome = AckOutcome()
        overtaken = [
            packet for packet in self._in_flight.values() if packet.packet_number < self.largest_acked
        ]
        self.loss_at = None
        self._declare_lost(overtaken, outcome, now=now)
        return outcome

    def let_copies_go(self) -> None:
        """Nothing is unacknowledged: packets that carry only log bytes were copies, and nobody waits."""
        self._leave([packet for packet in self.in_flight if packet.carried and not packet.controls])

    def restart_path(self) -> None:
        """Start RTT and congestion anew: the peer is on another path (RFC 9000 section 9.4)."""
        self.rtt = RttEstimator()
        self.congestion = CongestionWindow()

    def _sort_out(self, ack: Ack, outcome: AckOutcome) -> list[SentPacket]:
        """Split what is in flight into acked and unknown; return those that were overtaken."""
        overtaken = []
        largest, missing = ack.largest, ack.missing
        for number, packet in self._in_flight.items():
            distance = largest - number
            if distance < 0:
                if number >= self.largest_acked:
                    break
                # This acknowledgment itself was overtaken; the packet waits for its time as before.
                overtaken.append(packet)
            elif distance == 0 or (distance <= ACK_BITMAP_WIDTH and not missing >> (distance - 1) & 1):
                outcome.acked.append(packet)
            elif distance > ACK_BITMAP_WIDTH:
                outcome.unknown.append(packet)
            else:
                overtaken.append(packet)
        return overtaken

    def _declare_lost(self, overtaken: list[SentPacket], outcome: AckOutcome, *, now: float) -> None:
        delay = self.rtt.loss_delay
        for packet in overtaken:
            lost_at = packet.sent_at + delay
            if self.largest_acked - packet.packet_number >= PACKET_THRESHOLD or lost_at <= now:
                outcome.lost.append(packet)
            elif self.loss_at is None or lost_at < self.loss_at:
                self.loss_at = lost_at
        if outcome.lost:
            self._leave(outcome.lost)
            last = outcome.lost[-1]
            self.congestion.on_lost(len(outcome.lost), last.sent_at, now=now)

    def _leave(self, packets: list[SentPacket]) -> None:
        for packet in packets:
            del self._in_flight[packet.packet_number]
            self.bytes_in_flight -= packet.size
