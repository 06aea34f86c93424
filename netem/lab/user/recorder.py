"""A recording of both ends of a link, which must never hold the link up or bring it down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import BinaryIO

from netem.capture import CaptureWriter
from netem.link import Fate

FLUSH_INTERVAL_S = 1.0
ENDS = ("client", "server")


class Recorder:
    """Writes the packets of a link to a file; times are those of time.monotonic().

    After the first failure it writes no more, and `failure` says why.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.failure = ""
        self._file = file
        self._epoch = time.time() - time.monotonic()
        self._writer: CaptureWriter | None = None
        try:
            self._writer = CaptureWriter(file, ENDS)
        except OSError as error:
            self._give_up(error)

    def entered(
        self, end: int, packet: bytes, fate: Fate, copies: Sequence[tuple[float, bytes]], *, now: float
    ) -> None:
        """A packet has come from the host at `end`, an index of ENDS."""
        self._write(end, packet, describe(packet, fate, copies, now=now), now=now)

    def left(self, end: int, packet: bytes, *, now: float) -> None:
        """A copy goes to the host at `end`."""
        self._write(end, packet, "", now=now)

    def flush(self) -> None:
        """Give what is written so far to the file."""
        if self._writer is not None:
            try:
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def _write(self, end: int, packet: bytes, comment: str, *, now: float) -> None:
        if self._writer is not None:
            try:
                self._writer.write(end, packet, comment, time=self._epoch + now)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error.strerror or str(error)
        self._writer = None


def describe(packet: bytes, fate: Fate, copies: Sequence[tuple[float, bytes]], *, now: float) -> str:
    """What becomes of a packet, for its comment: `delivered, 31.2 ms` or `dropped: loss`."""
    if not copies:
        return f"dropped: {fate}"
    what = "delivered" if fate is not Fate.MARKED else "marked"
    if fate is not Fate.MARKED and copies[0][1] != packet:
        what = "corrupted"
    return what + "".join(f", {(at - now) * 1e3:.1f} ms" for at, _ in copies)
