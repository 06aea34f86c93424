"""One turn of a conversation as the client sees it: the prompt goes out, the answer comes in."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from eloquent.channel import Channel, Sendable
from eloquent.errors import (
    AnswerFailed,
    ConfigurationError,
    ConnectionClosed,
    Interrupted,
    StreamStopped,
    UsageError,
)
from eloquent.protocol.content import Content, Failure, Text, encode
from eloquent.protocol.wire import ResetCode
from eloquent.stats import ReplyStats

if TYPE_CHECKING:
    from eloquent.client import Connection

Prompt = Sendable | Iterable[Sendable]


def encode_prompt(prompt: Prompt) -> bytes:
    """A prompt as a log; ConfigurationError where it cannot be one."""
    if isinstance(prompt, (str, bytes)):
        return encode(prompt)
    if isinstance(prompt, Mapping):
        raise ConfigurationError("a mapping is no prompt: put it into an event, Custom(name, data)")
    if isinstance(prompt, Iterable):
        return b"".join(encode(item) for item in prompt)
    return encode(prompt)


class Reply:
    """An answer, inside of its `async with` block; leaving the block early stops it at the server.

    `async for event in reply` gives the answer's events, `reply.text()` only its text. Both end
    where the answer is whole. Where it is not, they raise what the text and offset so far are part
    of: Interrupted (connection or server lost), AnswerFailed (the handler raised) or StreamStopped.
    Where the server was never reached they raise ConnectTimeout or ConnectRefused.
    """

    def __init__(self, connection: Connection, prompt: bytes, *, is_whole: bool) -> None:
        self._connection = connection
        self._prompt = prompt
        self._is_whole = is_whole
        self._channel: Channel | None = None
        self._is_left = False
        self._pending: deque[Content] = deque()
        self._texts: list[str] = []
        self._failure: Failure | None = None
        self.stats = ReplyStats(time.monotonic())
        """Time to first token and the like."""

    async def __aenter__(self) -> Self:
        if self._channel is not None:
            raise UsageError("this reply was entered before; ask again for another turn")
        self.stats.asked_at = time.monotonic()
        self._channel = await self._connection.begin(self.stats)
        if self._prompt:
            self._channel.write(self._prompt)
        if self._is_whole:
            self._channel.finish()
        self._prompt = b""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_left = True
        self._connection.leave(self._entered())

    @property
    def id(self) -> int:
        """The number of the stream, counted from 0 for each conversation."""
        return self._entered().stream.id

    @property
    def offset(self) -> int:
        """Bytes of the answer's log that are here, without a hole before them."""
        return self._entered().stream.incoming.offset

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer is here and its digest matches."""
        return self._entered().stream.incoming.is_complete

    async def send(self, item: Sendable) -> None:
        """Add to a prompt that `connection.open` has begun; waits above 64 KiB unacknowledged.

        Raises StreamStopped where the handler wants no more of it.
        """
        channel = self._inside()
        await channel.send(item)

    def finish(self) -> None:
        """End a prompt that `connection.open` has begun."""
        self._inside().finish()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Content:
        if not self._pending:
            self._pending.extend(await self._next_batch())
            if not self._pending:
                self._check_end()
                raise StopAsyncIteration
        return self._pending.popleft()

    async def text(self) -> AsyncIterator[str]:
        """The answer's text, piece by piece. Bytes that are no UTF-8 appear only among the events."""
        async for event in self:
            if isinstance(event, Text):
                yield event.text

    async def read(self) -> str:
        """All of the answer's text that was not read yet, once it is whole."""
        return "".join([text async for text in self.text()])

    async def _next_batch(self) -> list[Content]:
        channel = self._inside()
        try:
            content = await channel.next_batch()
        except Interrupted as error:
            raise self._interrupted(str(error)) from None
        except ConnectionClosed as error:
            raise self._interrupted(str(error)) from error
        elapsed = time.monotonic() - self.stats.asked_at
        for event in content:
            if isinstance(event, Text):
                self._texts.append(event.text)
                self.stats.token_times.append(elapsed)
            elif isinstance(event, Failure):
                self._failure = event
        return content

    def _check_end(self) -> None:
        """Raise unless the answer is whole."""
        incoming = self._entered().stream.incoming
        if incoming.is_complete:
            return
        text, offset = "".join(self._texts), incoming.offset
        if incoming.reset_code == ResetCode.STOPPED:
            raise StreamStopped(f"the answer was stopped after {offset} bytes", text=text, offset=offset)
        if incoming.reset_code == ResetCode.FAILED:
            failure = self._failure or Failure("no reason was given", offset)
            raise AnswerFailed(
                f"the handler failed after {failure.offset} bytes: {failure.message}",
                text=text,
                offset=failure.offset,
            )
        raise self._interrupted(_REASONS.get(incoming.reset_code, f"reset code {incoming.reset_code}"))

    def _interrupted(self, reason: str) -> Interrupted:
        offset = self.offset
        return Interrupted(
            f"the answer was interrupted after {offset} bytes: {reason}",
            text="".join(self._texts),
            offset=offset,
        )

    def _entered(self) -> Channel:
        if self._channel is None:
            raise UsageError("the reply has not been started: use `async with connection.ask(...) as reply`")
        return self._channel

    def _inside(self) -> Channel:
        channel = self._entered()
        if self._is_left:
            raise UsageError("the reply was left: its `async with` block has ended")
        return channel


_REASONS: dict[int | None, str] = {
    ResetCode.ABORTED: "the server has ended it",
    ResetCode.UNKNOWN_STREAM: "the server no longer knows it",
    ResetCode.MALFORMED: "its digest does not match its bytes",
}
