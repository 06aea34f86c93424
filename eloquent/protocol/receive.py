"""The log that comes in: contiguity, what waits beyond a hole, flow control, the end.

Applying a range is idempotent and free of order: what lies below the contiguous offset is known
already, what lies beyond a hole is kept, disjoint, until the hole is filled. Bytes beyond the
announced limit are a violation, since a peer that follows the protocol never sends them.
"""

from __future__ import annotations

import hashlib

from eloquent.protocol.log import digest_of
from eloquent.protocol.ranges import RangeSet
from eloquent.protocol.wire import ResetCode, WireError

STREAM_WINDOW = 256 * 1024
"""Bytes that a stream may send beyond what the application has taken (protocol 3)."""

MAX_HELD_PIECES = 1024
"""Pieces kept beyond a hole. A window holds about 250 full datagrams; more is an attack."""


class IncomingLog:
    """What has arrived of a peer's log."""

    __slots__ = (
        "_digest",
        "_held",
        "_held_ranges",
        "_ready",
        "_sha256",
        "consumed",
        "highest",
        "is_complete",
        "length",
        "limit",
        "offset",
        "reset_code",
    )

    def __init__(self) -> None:
        self.offset = 0
        """Contiguous bytes received."""
        self.consumed = 0
        """Bytes that the application has taken."""
        self.highest = 0
        """Offset after the highest byte received."""
        self.limit = STREAM_WINDOW
        """Offset up to which the peer may send."""
        self.length: int | None = None
        self.reset_code: int | None = None
        self.is_complete = False
        """The whole log is here and its digest matches."""
        self._held: dict[int, bytes] = {}
        self._held_ranges = RangeSet()
        self._ready: list[bytes] = []
        self._sha256 = hashlib.sha256()
        self._digest: int | None = None

    @property
    def has_ended(self) -> bool:
        """Nothing more will come: every byte and the end are here, or the rest is not wanted."""
        return self.length is not None and self.offset >= self.length

    @property
    def acked(self) -> int:
        """The offset to acknowledge, the virtual byte included."""
        return self.offset + 1 if self.has_ended else self.offset

    @property
    def has_unread(self) -> bool:
        return bool(self._ready)

    def on_tokens_untrusted(self, base: int, data: bytes) -> bool:
        """Apply a range; True when the contiguous offset has moved."""
        stop = base + len(data)
        if stop > self.highest:
            if self.has_ended and self.reset_code is not None:
                return False  # The end was cut; a peer that goes on all the same is not listened to.
            self._check_bounds(stop)
            self.highest = stop
        offset = self.offset
        if stop <= offset:
            return False
        if base > offset:
            self._hold(base, data)
            return False
        self._take(data[offset - base :])
        if self._held:
            self._drain()
        return True

    def on_fin_untrusted(self, length: int, digest: int) -> None:
        """Record the end of a whole log; checked when every byte is here."""
        if self.reset_code is not None:
            return
        self._set_length(length)
        if self._digest is not None and self._digest != digest:
            raise WireError("two different digests of one log")
        self._digest = digest

    def on_reset_untrusted(self, length: int, code: int, *, is_unwanted: bool) -> None:
        """Record the end of a log that is not whole."""
        if self._digest is not None or self.has_ended:
            return
        self._set_length(length)
        self.reset_code = code
        if is_unwanted:
            # protocol 2: whoever sent STOP acknowledges a RESET at once, without its bytes.
            self.offset = length
            self._held.clear()

    def cut(self, code: int) -> None:
        """End the log where it stands: the peer has nothing more."""
        if not self.has_ended:
            self.length = self.highest = self.offset
            self.reset_code = code
            self._held.clear()

    def check_end(self) -> None:
        """Verify the digest once everything is here; a mismatch ends the log as malformed."""
        if self.reset_code is None and self._digest is not None and self.offset == self.length:
            self.is_complete = digest_of(self._sha256) == self._digest
            if not self.is_complete:
                self.reset_code = ResetCode.MALFORMED

    def read(self) -> bytes:
        """Take what has become contiguous since the last call; bytes that never come count as taken."""
        self.consumed = self.offset
        ready = self._ready
        if not ready:
            return b""
        data = ready[0] if len(ready) == 1 else b"".join(ready)
        ready.clear()
        return data

    def raise_limit(self) -> bool:
        """Move the limit on, once half of the window is used up; True when it has moved."""
        if self.length is not None or self.limit - self.consumed > STREAM_WINDOW // 2:
            return False
        self.limit = self.consumed + STREAM_WINDOW
        return True

    def restart_limit(self) -> None:
        """Start the window anew for another connection (protocol 3: beyond where it resumes)."""
        self.limit = max(self.limit, self.offset + STREAM_WINDOW)

    def _take(self, data: bytes) -> None:
        self._ready.append(data)
        self._sha256.update(data)
        self.offset += len(data)

    def _hold(self, base: int, data: bytes) -> None:
        for start, stop in self._held_ranges.gaps(base, base + len(data)):
            self._held[start] = data[start - base : stop - base]
        if len(self._held) > MAX_HELD_PIECES:
            raise WireError("too many pieces beyond a hole")
        self._held_ranges.add(base, base + len(data))

    def _drain(self) -> None:
        held = self._held_ranges
        while held and held.first[0] <= self.offset:
            held.remove(*held.first)
        for start in sorted(self._held):
            if start > self.offset:
                break
            piece = self._held.pop(start)
            if start + len(piece) > self.offset:
                self._take(piece[self.offset - start :])

    def _check_bounds(self, stop: int) -> None:
        if stop > self.limit:
            raise WireError("bytes beyond the stream's limit")
        if self.length is not None and stop > self.length:
            raise WireError("bytes beyond the end of the log")

    def _set_length(self, length: int) -> None:
        if length < self.highest or (self.length is not None and self.length != length):
            raise WireError("two different ends of one log")
        if length > self.limit:
            raise WireError("an end beyond the stream's limit")
        self.length = length
