"""The log that goes out: append-only bytes with a virtual last one.

A log ends in one of two ways, and both count as one byte after the last real one, so that windows,
loss and acknowledgments treat an end like data:

- FIN: the log is whole; it carries the length and the first 64 bits of the log's SHA-256;
- RESET: the log ends here and is not whole; it carries the length and a code.

The digest is computed once, at the end, over what is kept: hashing each token would cost 0.4 us.
"""

from __future__ import annotations

import hashlib

from eloquent.errors import UsageError

TRIM_STEP = 65_536
"""Acknowledged bytes are let go in steps of this size, since deleting from the front copies."""


def digest_of(sha256: hashlib._Hash) -> int:
    """First 64 bits of a SHA-256, as the integer that FIN carries."""
    return int.from_bytes(sha256.digest()[:8], "big")


class Log:
    """Bytes of one direction of a stream, addressed by offset."""

    __slots__ = (
        "_data",
        "_sha256",
        "_start",
        "acked",
        "digest",
        "end",
        "length",
        "reset_code",
        "sent",
        "stop",
    )

    def __init__(self) -> None:
        self._data = bytearray()
        self._sha256 = hashlib.sha256()
        self._start = 0
        self.end = 0
        """Offset after the newest byte."""
        self.stop = 0
        """Offset after everything there is to send: one more than `end` once the log has ended."""
        self.sent = 0
        """Offset after the highest byte that any connection has sent, the virtual one included."""
        self.acked = 0
        """Highest offset (with the virtual byte) that any connection has acknowledged."""
        self.length: int | None = None
        """Set once the log has ended, by FIN or by RESET."""
        self.digest = 0
        self.reset_code: int | None = None

    @property
    def start(self) -> int:
        """Lowest offset that is still kept."""
        return self._start

    @property
    def has_ended(self) -> bool:
        return self.length is not None

    @property
    def is_acked(self) -> bool:
        """Whether the peer has everything, the end included."""
        return self.length is not None and self.acked > self.length

    @property
    def unacked(self) -> int:
        """Bytes that the peer has not acknowledged, sent or not."""
        return max(self.end - self.acked, 0)

    def append(self, data: bytes) -> None:
        if self.length is not None:
            raise UsageError("the stream has ended: nothing can be added to its log")
        self._data += data
        self.end = self.stop = self.end + len(data)

    def slice(self, start: int, stop: int) -> bytearray:
        """The bytes [start, stop); `start` must not have been trimmed."""
        return self._data[start - self._start : stop - self._start]

    def finish(self) -> None:
        """End the log as whole. Without effect on a log that has ended."""
        if self.length is None:
            self.length = self.end
            self.stop = self.end + 1
            self._sha256.update(self._data)
            self.digest = digest_of(self._sha256)

    def reset(self, code: int, *, drop_unsent: bool) -> None:
        """End the log as not whole, after the highest byte sent or after the newest one."""
        if self.length is not None:
            return
        if drop_unsent:
            del self._data[self.sent - self._start :]
            self.end = self.sent
        self.length = self.end
        self.stop = self.end + 1
        self.reset_code = code

    def on_acked(self, offset: int) -> None:
        """Record what the peer holds."""
        if offset > self.acked:
            self.acked = offset

    def trim(self, offset: int) -> None:
        """Let the bytes below `offset` go, once there are enough of them."""
        count = min(offset, self.end) - self._start
        if count < TRIM_STEP:
            return
        if self.length is None:
            self._sha256.update(memoryview(self._data)[:count])
        del self._data[:count]
        self._start += count
