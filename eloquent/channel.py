"""One stream as coroutines see it: what the handler's and the client's side have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from eloquent.errors import EloquentError, Interrupted
from eloquent.protocol.content import Content, ContentDecoder, Text, Undecodable, encode
from eloquent.protocol.streams import Stream
from eloquent.protocol.wire import WireError

HIGH_WATER = 64 * 1024
"""Unacknowledged bytes at which a sender waits."""

LOW_WATER = HIGH_WATER // 2
"""Unacknowledged bytes below which it goes on."""

Sendable = str | bytes | Content
"""What a log takes: text, bytes of text (also pieces that end inside a character), typed events."""


class Channel:
    """Reads content from a stream and writes content to it.

    `touch` tells the core that the stream has changed. The owner passes on the core's events.
    """

    __slots__ = ("_decoder", "_is_flushed", "_readable", "_touch", "_writable", "error", "stream")

    def __init__(self, stream: Stream, touch: Callable[[], None]) -> None:
        self.stream = stream
        self.error: EloquentError | None = None
        """Why nothing more will come or go, though the stream itself has not ended."""
        self._touch = touch
        self._decoder = ContentDecoder()
        self._is_flushed = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    def on_readable(self) -> None:
        """There are bytes to read, or the incoming log has ended."""
        self._readable.set()

    def on_writable(self) -> None:
        """The peer has acknowledged enough, or wants no more."""
        self._writable.set()

    def fail(self, error: EloquentError) -> None:
        """Nothing more will come or go; what has come can still be read."""
        self.error = self.error or error
        self._readable.set()
        self._writable.set()

    async def next_batch(self) -> list[Content]:
        """The content that has come, waiting for some; empty at the end.

        The stream says how it ended. Raises Interrupted where the peer's bytes are no log, and the
        channel's error once everything is read.
        """
        incoming = self.stream.incoming
        while True:
            data = self.stream.read()
            if data:
                self._touch()
                content = self._decode(data)
                if content:
                    return content
            elif incoming.has_ended:
                return self._flush()
            elif self.error is not None:
                raise self.error
            else:
                self._readable.clear()
                await self._readable.wait()

    async def send(self, item: Sendable) -> None:
        """Append to the log; waits while too much is unacknowledged."""
        self.write(encode(item))
        if self.stream.outgoing.unacked >= HIGH_WATER:
            await self._until_writable()

    def write(self, data: bytes) -> None:
        """Append encoded events to the log, however many are unacknowledged."""
        if self.error is not None:
            raise self.error
        self.stream.write(data, now=time.monotonic())
        self._touch()

    def finish(self) -> None:
        """End the outgoing log as whole; without effect where it has ended."""
        self.stream.finish()
        self._touch()

    def reset(self, code: int, *, drop_unsent: bool = True) -> None:
        """End the outgoing log as not whole; without effect where it has ended."""
        self.stream.reset(code, drop_unsent=drop_unsent)
        self._touch()

    def stop(self) -> None:
        """Take nothing more from the peer: what is here goes, what would come is not wanted."""
        self.stream.stop()
        self.stream.read()
        self._touch()

    def _decode(self, data: bytes) -> list[Content]:
        try:
            return self._decoder.feed_untrusted(data)
        except WireError as error:
            self.stop()
            raise Interrupted(f"the peer sent what is no log: {error}") from None

    def _flush(self) -> list[Content]:
        if self._is_flushed:
            return []
        self._is_flushed = True
        if self.stream.incoming.is_complete and not self._decoder.is_between_events:
            raise Interrupted("the log is whole, but it ends in the middle of an event")
        return self._decoder.finish()

    async def _until_writable(self) -> None:
        outgoing = self.stream.outgoing
        while outgoing.unacked >= LOW_WATER and not outgoing.has_ended and self.error is None:
            self.stream.low_water = LOW_WATER
            self._writable.clear()
            await self._writable.wait()


def text_of(content: list[Content]) -> str:
    """The whole characters among the content."""
    return "".join(item.text for item in content if isinstance(item, Text))


def joined(content: list[Content]) -> str | bytes | list[Content]:
    """The content in its plainest form: text, else bytes that are no UTF-8, else the events."""
    if all(isinstance(item, Text) for item in content):
        return text_of(content)
    if all(isinstance(item, (Text, Undecodable)) for item in content):
        return b"".join(
            item.text.encode() if isinstance(item, Text) else item.data
            for item in content
            if isinstance(item, (Text, Undecodable))
        )
    return content
