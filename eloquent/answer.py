"""A stream as the server's handler gets it: the prompt comes in, the answer goes out."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from eloquent.channel import Channel, Sendable, joined, text_of
from eloquent.errors import ConfigurationError, Interrupted, StreamError
from eloquent.protocol.content import Content, Failure, encode
from eloquent.protocol.ticket import Address
from eloquent.protocol.wire import ResetCode

if TYPE_CHECKING:
    from eloquent.server import Server

MAX_PROMPT = 16 * 1024 * 1024
"""Bytes of log that `prompt` collects: a client with a ticket must not fill the memory."""

MAX_FAILURE_MESSAGE = 1024
"""Characters of an exception's message that the client gets; arbitrary."""


class ServerStream:
    """One stream of a client. What the handler sends is the answer; returning ends it as whole.

    `async for event in stream` gives the prompt piece by piece while it still comes.
    """

    def __init__(self, server: Server, channel: Channel) -> None:
        self._server = server
        self._channel = channel

    @property
    def id(self) -> int:
        """The number of the stream, counted from 0 for each client."""
        return self._channel.stream.id

    @property
    def claims(self) -> Mapping[str, object]:
        """What the ticket says about the user."""
        return self._channel.stream.group.claims

    @property
    def peer(self) -> Address | None:
        """The client's address now; None while it is not connected."""
        return self._server.peer_of(self._channel.stream.group)

    @property
    def offset(self) -> int:
        """Bytes of the answer's log so far."""
        return self._channel.stream.outgoing.end

    async def prompt(self, *, max_bytes: int = MAX_PROMPT) -> str | bytes | list[Content]:
        """The whole prompt: text, or bytes where it is no UTF-8, or a list where it has other events.

        Raises StreamError where its log takes more than `max_bytes`, Interrupted where the client
        gave up before its end.
        """
        content: list[Content] = []
        async for event in self:
            content.append(event)
            if self._channel.stream.incoming.consumed > max_bytes:
                raise StreamError(
                    f"the prompt takes more than the {max_bytes} bytes that are allowed",
                    text=text_of(content),
                    offset=self._channel.stream.incoming.consumed,
                )
        return joined(content)

    async def __aiter__(self) -> AsyncIterator[Content]:
        while content := await self._channel.next_batch():
            for event in content:
                yield event
        incoming = self._channel.stream.incoming
        if not incoming.is_complete:
            raise Interrupted(
                f"the client gave up its prompt after {incoming.offset} bytes", offset=incoming.offset
            )

    async def send(self, item: Sendable) -> None:
        """Add text, bytes of text or a typed event to the answer.

        Waits while 64 KiB or more are unacknowledged. Raises StreamStopped once the client wants
        no more, ConfigurationError for what cannot be sent.
        """
        await self._channel.send(item)

    async def send_all(self, items: AsyncIterable[Sendable]) -> None:
        """Add all that an async iterator gives, such as a model's own stream."""
        if not isinstance(items, AsyncIterable):
            raise ConfigurationError(f"an async iterator is expected, not {type(items).__name__}")
        async for item in items:
            await self._channel.send(item)


Handler = Callable[[ServerStream], Awaitable[None] | AsyncIterable[Sendable]]
"""A coroutine function, or an async generator function that yields the answer."""


async def run_handler(handler: Handler, stream: ServerStream) -> None:
    """Let the handler make its answer."""
    result = handler(stream)
    if isinstance(result, AsyncIterable):
        await stream.send_all(result)
    elif inspect.isawaitable(result):
        await result
    else:
        raise ConfigurationError(
            f"the handler returned {type(result).__name__}: it must be async, with or without yield"
        )


def fail_answer(channel: Channel, error: Exception) -> None:
    """Tell the client that the handler failed, and up to where its answer is good."""
    outgoing = channel.stream.outgoing
    if outgoing.has_ended:
        return
    message = (str(error) or type(error).__name__)[:MAX_FAILURE_MESSAGE]
    printable = message.encode(errors="replace").decode()
    channel.write(encode(Failure(printable, outgoing.end)))
    channel.reset(ResetCode.FAILED, drop_unsent=False)


def end_answer(channel: Channel) -> None:
    """The handler is done: an answer without an end is cut off, a prompt without one not wanted."""
    if not channel.stream.outgoing.has_ended:
        channel.reset(ResetCode.ABORTED)
    channel.stop()
