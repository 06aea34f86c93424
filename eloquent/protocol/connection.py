"""The state machine of one connection: keys, paths, timers, and the streams that ride on it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eloquent.protocol.acks import AckTracker
from eloquent.protocol.cadence import COALESCING, FIRST_FLIGHT_COPIES, Cadence
from eloquent.protocol.compose import Composer
from eloquent.protocol.congestion import CircuitBreaker, DelaySignal
from eloquent.protocol.delivery import Delivery
from eloquent.protocol.events import (
    Connected,
    ConnectionEnded,
    Event,
    Fallback,
    PathChanged,
    Resumed,
    Stalled,
    Thinking,
    TicketReceived,
)
from eloquent.protocol.handshake import Protection
from eloquent.protocol.path import Address, Paths, is_port_change
from eloquent.protocol.recovery import INITIAL_RTT, AckOutcome, Recovery
from eloquent.protocol.send import ELOQUENT, Policy
from eloquent.protocol.silence import LIVENESS, Silence
from eloquent.protocol.streams import LogGroup, Stream
from eloquent.protocol.vigil import BlockedSender, Verdict, Vigil, is_due
from eloquent.protocol.wire import (
    Ack,
    Close,
    CloseCode,
    Frame,
    Header,
    NewTicket,
    PathChallenge,
    PathResponse,
    Ping,
    Reset,
    Resume,
    Stop,
    Tokens,
    Welcome,
    WireError,
    decode_frames_untrusted,
)

PADDING = 64
"""Bytes to a multiple of which the plaintext of datagrams with text is padded (protocol 3)."""

CLOSING_PTOS = 3
"""PTOs for which a closed connection still answers with CLOSE."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an application may choose; the defaults serve a chat on a train."""

    coalescing: float = COALESCING
    """Seconds that tokens wait for one another; 0 disables."""
    padding: int = PADDING
    """Bytes: 0 is off, 1200 gives all datagrams with text the same size."""
    keep_alive: bool = False
    """Whether to keep NAT bindings open while no stream is."""
    policy: Policy = ELOQUENT


@dataclass(slots=True)
class Counters:
    """What a connection has done; all counts are since its start."""

    datagrams_sent: int = 0
    datagrams_received: int = 0
    bytes_sent: int = 0
    padding_bytes: int = 0
    """Of the bytes sent: zeros that hide the length of the text, or fill a first flight."""
    bytes_received: int = 0
    duplicates: int = 0
    forged: int = 0
    lost: int = 0
    probes: int = 0
    gap_fills: int = 0
    text_datagrams: int = 0


class Connection:
    """One connection between two endpoints, without input or output of its own.

    The contract:

    - Inputs, which never raise whatever the bytes: `receive(header, datagram, address, now=)` and
      `handle_timer(now=)`. Commands (on streams, `close`) may raise.
    - Outputs, drained in this order after every input or command: `datagrams_to_send(now=)`,
      `next_timer()` (pure), `next_event()`.
    - A `now` that goes backwards counts as unchanged; early or spurious timer calls do nothing.
    - After `ConnectionEnded`, inputs are ignored.
    - Same entropy, same inputs, same times: same bytes out.
    """

    def __init__(
        self,
        protection: Protection,
        group: LogGroup,
        address: Address,
        *,
        is_client: bool,
        settings: Settings,
        entropy: Callable[[int], bytes],
        initial_rtt: float = INITIAL_RTT,
        now: float,
    ) -> None:
        self.protection = protection
        self.group = group
        self.is_client = is_client
        self.settings = settings
        self.counters = Counters()
        self.events: deque[Event] = deque()
        self.acks = AckTracker()
        self.recovery = Recovery(initial_rtt=initial_rtt)
        self.cadence = Cadence(
            group.gaps, coalescing=settings.coalescing, gap_fills=settings.policy.gap_fills
        )
        self.delay = DelaySignal(settings.coalescing)
        self.breaker = CircuitBreaker()
        self.silence = Silence(is_client=is_client, now=now)
        self.paths = Paths(address, is_validated=is_client, entropy=entropy)
        self.delivery = Delivery(group, self.acks, self.events)
        self.composer = Composer(self)
        self.created_at = now
        self.deadline = self.wakes_at = math.inf
        """Next deadline, and when the endpoint's queue looks at this connection (see `timers.py`)."""
        self.flight: tuple[bytes, bytes] | None = None
        """Ticket id and client share of the first flight (the server's side)."""
        self.ended: ConnectionEnded | None = None
        self.gone_at: float | None = None
        """When a closed connection can be forgotten."""
        self.now = now
        self._vigil = Vigil(
            self.silence,
            group,
            is_client=is_client,
            keeps_alive=settings.keep_alive,
            entropy=entropy,
            now=now,
        )
        self._blocked = BlockedSender()
        self._was_confirmed = False
        self._probed_at = 0.0
        if is_client:
            self.cadence.copies = min(FIRST_FLIGHT_COPIES, settings.policy.gap_fills)

    def receive(self, header: Header, datagram: bytes, address: Address, *, now: float) -> bool:
        """Process a datagram for this connection; False when it was dropped (and counted)."""
        now = self._advance(now)
        if self.gone_at is not None and self.composer.closing is None:
            return False
        if not self.acks.window.is_new(header.packet_number):
            self.counters.duplicates += 1
            return False
        try:
            pto = self.recovery.rtt.pto
            plaintext = self.protection.open_untrusted(header, datagram, now=now, pto=pto)
        except WireError:
            plaintext = None
        if plaintext is None:
            self.counters.forged += 1
            return False
        self.counters.datagrams_received += 1
        self.counters.bytes_received += len(datagram)
        if self.ended is not None:
            self.acks.window.mark(header.packet_number)
            self.composer.repeat_close()
            return True
        self._on_authentic(header, plaintext, address, len(datagram), now)
        return True

    def datagrams_to_send(self, *, now: float) -> list[tuple[bytes, Address]]:
        """The datagrams that are due, each with the peer's address."""
        return self.composer.datagrams(now=self._advance(now))

    def next_event(self) -> Event | None:
        return self.events.popleft() if self.events else None

    def next_timer(self) -> float | None:
        """The time of the next deadline; None where there is none."""
        if self.ended is not None:
            return self.gone_at if self.gone_at is not None and self.gone_at > self.now else None
        at = self._vigil.looks_at
        # Written out, as it is computed for each datagram.
        deadline = self.acks.due_at
        if deadline is not None and deadline < at and self.composer.may_send:
            at = deadline
        deadline = self.recovery.loss_at
        if deadline is not None and deadline < at:
            at = deadline
        deadline = self.composer.next_at()
        if deadline is not None and deadline < at:
            at = deadline
        deadline = self._probe_at()
        if deadline is not None and deadline < at:
            at = deadline
        if self.paths.is_challenging or self.delivery.is_blocked or self.breaker.open_until is not None:
            rare = (self.paths.next_at(), self._blocked.next_at(), self.breaker.open_until)
            at = min([at, *(deadline for deadline in rare if deadline is not None)])
        return at

    def handle_timer(self, *, now: float) -> None:
        """Do what has become due."""
        now = self._advance(now)
        if self.ended is not None:
            return
        if is_due(self.recovery.loss_at, now):
            self._on_outcome(self.recovery.on_loss_timer(now=now), now)
        if is_due(self.breaker.open_until, now):
            self.breaker.open_until = None
        if self.paths.on_timer(pto=self.recovery.rtt.pto, now=now):
            self.events.append(PathChanged(self.paths.active.address))
        if self._vigil.looks_at <= now:
            self._on_verdict(self._vigil.look(self.recovery.rtt.pto, now=now), now)
        if self.ended is None:
            self._ask_if_due(now)

    def attach(self, stream: Stream) -> None:
        """Take part in a stream that the client has just opened."""
        self.delivery.attach(stream)

    def close(self, code: int = CloseCode.NONE, reason: str = "", *, now: float) -> None:
        """End the connection and tell the peer; streams go on if the client resumes them."""
        now = self._advance(now)
        if self.ended is None:
            self.composer.closing = Close(code, reason[:64])
            self._end("local", code, reason, now)

    def drop(self, *, now: float) -> None:
        """End the connection without a word."""
        if self.ended is None:
            self._end("local", CloseCode.NONE, "", self._advance(now))

    def send_ticket(self, ticket: bytes) -> None:
        """Give the client a resumption ticket."""
        self.composer.controls.append(NewTicket(ticket))

    def _advance(self, now: float) -> float:
        """The time that counts: it never goes backwards."""
        if now > self.now:
            self.now = now
        if self._vigil.looks_at > self.now + LIVENESS:
            self._vigil.look_soon(now=self.now)
        return self.now

    def _on_authentic(
        self, header: Header, plaintext: bytes, address: Address, size: int, now: float
    ) -> None:
        self._on_heard(now)
        try:
            frames = decode_frames_untrusted(plaintext)
            has_moved = self._follow(header, address, size, frames, now)
            is_eliciting = has_end = False
            for frame in frames:
                self._on_frame(frame, address, now)
                if self.ended is not None:
                    return
                kind = type(frame)
                is_eliciting |= kind is not Ack and kind is not Close
                has_end |= kind is Reset or (kind is Tokens and frame.length is not None)  # type: ignore[union-attr]
        except WireError as error:
            self.acks.window.mark(header.packet_number)
            self.close(CloseCode.PROTOCOL_VIOLATION, str(error), now=now)
            return
        at_once = header.ack_now or has_end or has_moved
        self.acks.on_received(header.packet_number, is_eliciting=is_eliciting, at_once=at_once, now=now)

    def _on_heard(self, now: float) -> None:
        self.silence.on_heard(now=now)
        if self._vigil.is_stalled:
            self._vigil.is_stalled = False
            self.events.append(Resumed(self.group.held()))
        if not self._was_confirmed and self.protection.is_confirmed:
            self._was_confirmed = True
            if self.delivery.is_muted:
                self.delivery.unmute()
            self.cadence.copies = self.settings.policy.gap_fills
            if not self.is_client and not self.paths.active.challenge:
                # Only who got the REPLY, which went to this path, can have made a c1 datagram. After
                # a move it may have gone elsewhere before: then only the challenge tells.
                self.paths.active.is_validated = True
            self.events.append(Connected())

    def _follow(self, header: Header, address: Address, size: int, frames: list[Frame], now: float) -> bool:
        """Account for the path; True where the peer has moved to another one."""
        paths = self.paths
        if self.is_client or address == paths.active.address:
            paths.active.received += size
            return False
        # RFC 9000 section 9.1: frames that only probe a path do not move the connection to it.
        is_probing = all(isinstance(frame, (PathChallenge, PathResponse)) for frame in frames)
        if is_probing or header.packet_number < self.acks.window.largest:
            paths.on_received(address, size)
            return False
        old = paths.active.address
        paths.migrate(address, size, pto=self.recovery.rtt.pto, now=now)
        self.events.append(PathChanged(address))
        if not is_port_change(old, address):
            self.recovery.restart_path()
            self.delay = DelaySignal(self.settings.coalescing)
            self.cadence.interval = self.delay.interval
        return True

    def _on_frame(self, frame: Frame, address: Address, now: float) -> None:
        if isinstance(frame, Tokens):
            self._vigil.on_news()
            self.delivery.on_tokens_untrusted(frame)
        elif isinstance(frame, Ack):
            self._on_ack(frame, now)
        elif isinstance(frame, Ping):
            self.delivery.on_ping()
        else:
            self._on_control(frame, address, now)

    def _on_control(self, frame: Frame, address: Address, now: float) -> None:
        if isinstance(frame, Reset):
            self._vigil.on_news()
            self.delivery.on_reset_untrusted(frame)
        elif isinstance(frame, Stop):
            self.delivery.on_stop(frame)
        elif isinstance(frame, Resume) and not self.is_client:
            self.delivery.on_resume(frame)
        elif isinstance(frame, PathChallenge):
            # A client that answered from a socket which it has left would seem to move back there.
            if not self.is_client or address == self.paths.active.address:
                self.paths.responses[address] = frame.data
        elif isinstance(frame, PathResponse):
            self.paths.on_response(frame.data)
        elif isinstance(frame, Welcome) and self.is_client:
            self.group.max_streams = frame.max_streams
            self.group.next_id = max(self.group.next_id, frame.next_stream)
        elif isinstance(frame, NewTicket) and self.is_client:
            self.events.append(TicketReceived(frame.ticket))
        elif isinstance(frame, Close):
            self._end("remote", frame.code, frame.reason, now)
        else:
            raise WireError(f"a {type(frame).__name__} frame from the wrong side")

    def _on_ack(self, ack: Ack, now: float) -> None:
        composer = self.composer
        if ack.largest >= composer.packet_number:
            raise WireError("an acknowledgment of a packet that was never sent")
        self.protection.on_ack(ack.largest)
        outcome = self.recovery.on_ack(ack, was_limited=composer.was_limited, now=now)
        composer.was_limited = False
        self.delivery.on_offsets_untrusted(ack.streams, ack.connection_limit)
        self._on_outcome(outcome, now)

    def _on_outcome(self, outcome: AckOutcome, now: float) -> None:
        delivery = self.delivery
        delivery.on_packets_acked(outcome.acked)
        gone = outcome.lost + outcome.unknown
        if gone:
            self.counters.lost += len(outcome.lost)
            delivery.on_packets_lost(gone, self.recovery.in_flight)
            self.composer.requeue(gone)
        if outcome.rtt_sample is not None:
            self.delay.on_rtt(outcome.rtt_sample, self.recovery.rtt.smoothed, now=now)
            self.cadence.interval = self.delay.interval
        if self.cadence.gap_fill_at is not None and delivery.newest_is_acked:
            self.cadence.on_newest_acked()

    def _probe_at(self) -> float | None:
        silence, recovery = self.silence, self.recovery
        carried_at = self.delivery.oldest_carried_at
        if carried_at is None and not recovery.bytes_in_flight:
            return None
        composer = self.composer
        if not composer.may_send or self.breaker.open_until is not None:
            return None
        if carried_at is None or not composer.may_send_text:
            carried_at = silence.asked_at
        pto = recovery.rtt.pto
        interval = silence.probe_interval(pto, now=self.now) if silence.probes else pto
        # A probe may not have had room for every stream: the next one comes an interval later.
        return (carried_at if carried_at > self._probed_at else self._probed_at) + interval

    def _refresh_carried(self) -> None:
        """Find out when each oldest byte really went out last: acknowledgments have moved it."""
        in_flight = self.recovery.in_flight
        for send in self.delivery.active:
            if send.sent > send.acked:
                times = [
                    packet.sent_at
                    for packet in in_flight
                    for owner, start, stop in packet.carried
                    if owner is send and start <= send.acked < stop
                ]
                send.carried_at = max(times, default=send.carried_at)
        if self.delivery.refresh():
            self.on_blocked_changed()

    def _ask_if_due(self, now: float) -> None:
        """Send a probe or a PING where the peer owes a word."""
        if is_due(self._probe_at(), now):
            self._refresh_carried()
            if self.delivery.oldest_carried_at is None:
                self.recovery.let_copies_go()
            if is_due(self._probe_at(), now):
                self.composer.probe(in_flight=self.recovery.in_flight)
                self.silence.probes += 1
                self._probed_at = now
                self.counters.probes += 1
        if self._blocked.ask_if_due(now=now):
            self.composer.wants_ping = True

    def _on_verdict(self, verdict: Verdict, now: float) -> None:
        if verdict.has_stalled:
            self.events.append(Stalled())
        if verdict.is_thinking:
            self.events.append(Thinking())
        if verdict.gives_up:
            self._end("silence", CloseCode.NONE, "the peer has been silent for 120 s", now)
        elif verdict.is_idle:
            self.close(CloseCode.IDLE, "no stream for 5 minutes", now=now)
        elif verdict.wants_ping:
            self.composer.wants_ping = True

    def on_blocked_changed(self) -> None:
        """Start or end the PINGs of a sender that flow control holds back."""
        self._blocked.update(self.delivery.is_blocked, self.recovery.rtt.pto, now=self.now)

    def on_tripped(self) -> None:
        """The circuit breaker has opened."""
        if self.breaker.open_until is not None:
            self.events.append(Fallback(self.breaker.open_until))

    def _end(self, by: Literal["local", "remote", "silence"], code: int, reason: str, now: float) -> None:
        self.ended = ConnectionEnded(by, code, reason)
        self.gone_at = now + CLOSING_PTOS * self.recovery.rtt.pto
        self.events.append(self.ended)
