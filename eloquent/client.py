"""The asyncio client: a conversation with a server, whatever the network does in between."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any

from eloquent.addresses import remotes_of
from eloquent.channel import Channel
from eloquent.endpoint import Datagrams, Driver
from eloquent.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionClosed,
    ConnectRefused,
    ConnectTimeout,
    EloquentError,
    UsageError,
)
from eloquent.protocol.connection import Settings
from eloquent.protocol.dialer import Dialer
from eloquent.protocol.events import (
    Connected,
    ConnectionEnded,
    Event,
    Fallback,
    PathChanged,
    Resumed,
    Stalled,
    StopRequested,
    StreamEnded,
    StreamReadable,
    StreamWritable,
    Thinking,
    TicketNeeded,
)
from eloquent.protocol.streams import Stream
from eloquent.protocol.wire import CloseCode, RefusalCode, ResetCode
from eloquent.reply import Prompt, Reply, encode_prompt
from eloquent.sockets import ClientSockets, FirstReply
from eloquent.stats import ConnectionStats, ReplyStats, Totals
from eloquent.tickets import Tickets, TicketSource

NEXT_TICKET_AFTER = 1.0
"""Seconds before another ticket is asked for, where a new one was refused at once; arbitrary."""

_REMOTE = "server"
"""The core's name for the server: which of its addresses a socket goes to is decided in `sockets.py`."""

_REFUSALS: dict[int, str] = {
    RefusalCode.EXPIRED: "it has expired, or is older than the server's start",
    RefusalCode.USED: "it was used before",
    RefusalCode.FOREIGN: "it is for another server",
    RefusalCode.BUSY: "the server is busy",
    RefusalCode.UNKNOWN_LOG: "the server no longer knows the conversation",
    RefusalCode.SHUTDOWN: "the server is about to stop",
}

Status = Thinking | Stalled | Resumed | PathChanged | Fallback
"""What happens besides the answers' content (protocol 8)."""


def connect(
    source: TicketSource,
    *,
    timeout: float = 10.0,
    settings: Settings = Settings(),
    on_status: Callable[[Status], object] | None = None,
) -> Connecting:
    """Connect to the server that a ticket names: `async with connect(ticket) as connection`.

    `source` is a ticket in any form, or an async function that gets one from the application's own
    endpoint; it is called again whenever a new ticket is needed, as each works once. It may raise:
    that passes through.

    This does not wait for the server: the first prompt rides in the first datagram. Where no answer
    comes within `timeout` seconds, whoever reads a reply gets ConnectTimeout, and ConnectRefused
    where the server refuses the ticket and there is no other.

    `on_status` is called, from the event loop, when the model thinks, the network stalls, the
    answers go on, or the network path changes.

    Raises ConfigurationError for what cannot be used, ConnectError where the server has no address.
    """
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout < math.inf:
        raise ConfigurationError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    if not isinstance(settings, Settings):
        raise ConfigurationError(f"settings must be Settings, not {type(settings).__name__}")
    if on_status is not None and not callable(on_status):
        raise ConfigurationError(f"on_status must be a function, not {type(on_status).__name__}")
    return Connecting(Connection(Tickets(source), timeout, settings, on_status))


class Connecting:
    """What `connect` returns: enter it with `async with`, or await it and call `close` later."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __await__(self) -> Generator[Any, None, Connection]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Connection:
        await self._connection.start()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()


class Connection:
    """A conversation with a server. It outlives networks, sockets and the core's connections."""

    def __init__(
        self,
        tickets: Tickets,
        timeout: float,
        settings: Settings,
        on_status: Callable[[Status], object] | None,
    ) -> None:
        self._tickets = tickets
        self._timeout = timeout
        self._settings = settings
        self._on_status = on_status
        self._totals = Totals()
        self._channels: dict[Stream, Channel] = {}
        self._reply_stats: dict[Stream, ReplyStats] = {}
        self._left: list[Stream] = []
        self._is_started = False
        self._is_closed = False
        self._is_connected = False
        self._error: EloquentError | None = None
        self._refusal: ConnectRefused | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._first_reply = FirstReply(
            timeout, on_timeout=self._on_connect_timeout, on_delay=self._try_other_family
        )
        self._stalled_since: float | None = None
        self._dialing = asyncio.Lock()
        self._ended = asyncio.Event()

    def ask(self, prompt: Prompt) -> Reply:
        """Ask, and get the answer: `async with connection.ask("Why?") as reply`.

        The prompt is text, bytes of text, an event, or several of these. Raises ConfigurationError
        where it cannot be sent. Entering raises UsageError where as many streams are open as the
        server allows, ConnectionClosed or ConnectError where the connection is gone for good.
        """
        return Reply(self, encode_prompt(prompt), is_whole=True)

    def open(self) -> Reply:
        """Begin a prompt that grows: `await reply.send(...)`, then `reply.finish()`.

        The server hears of it with the first `send`.
        """
        return Reply(self, b"", is_whole=False)

    def network_changed(self) -> None:
        """The device has another network: go on from a new socket, without waiting for a silence."""
        self._require_open()
        if self._error is None and self._dialer.ended is None:
            self._dialer.network_changed(now=time.monotonic())
            self._driver.wake()

    @property
    def stats(self) -> ConnectionStats:
        """Counters over the whole conversation."""
        return self._totals.snapshot()

    async def close(self) -> None:
        """Close the connection. Answers that were not left go on at the server until it gives them up."""
        if not self._is_started:
            self._is_closed = True
            return
        if not self._is_closed:
            self._is_closed = True
            if self._renewal is not None:
                self._renewal.cancel()
                await asyncio.wait({self._renewal})
            if self._error is None and self._dialer.ended is None:
                self._dialer.leave(now=time.monotonic())
                self._driver.wake()
            else:
                self._down(_closed_by_us())
        try:
            await self._ended.wait()
        finally:
            self._release()

    async def start(self) -> None:
        """Get a ticket and be ready to send; `connect` calls this."""
        if self._is_started or self._is_closed:
            raise UsageError("this connection was started before; make another one with connect()")
        await self._dial()
        self._is_started = True

    async def begin(self, stats: ReplyStats) -> Channel:
        """Open a stream, on a new connection where the one before has ended; `Reply` calls this."""
        self._require_open()
        while self._renewal is not None:
            await asyncio.wait({self._renewal})
        if self._error is not None:
            async with self._dialing:
                # Unless another task was faster.
                if self._error is not None:
                    if not self._tickets.is_renewable:
                        raise self._error
                    await self._dial()
        stream = self._dialer.open()
        channel = self._channels[stream] = Channel(stream, self._driver.wake)
        self._reply_stats[stream] = stats
        return channel

    def leave(self, channel: Channel) -> None:
        """The application is done with a stream; `Reply` calls this."""
        stream = channel.stream
        self._reply_stats.pop(stream, None)
        if self._channels.pop(stream, None) is None:
            return  # The connection that it was on has ended.
        if not stream.outgoing.has_ended:
            channel.reset(ResetCode.ABORTED)
        channel.stop()
        self._left.append(stream)

    async def _dial(self) -> None:
        """Start from nothing: a first-use ticket, no streams."""
        ticket = await self._tickets.get(timeout=self._timeout)
        remotes = await remotes_of(ticket)
        if self._is_closed:
            raise _closed_by_us()
        self._sockets = ClientSockets(
            remotes, on_datagrams=self._on_datagrams, on_unreachable=self._on_unreachable
        )
        self._dialer = Dialer(
            ticket, _REMOTE, settings=self._settings, entropy=os.urandom, now=time.monotonic()
        )
        self._driver = Driver(self._dialer, send=self._sockets.send, on_drained=self._on_drained)
        self._error = self._refusal = None
        self._ended.clear()
        self._await_connected()
        # Not now: a prompt that comes before the loop goes on rides in the first datagram.
        asyncio.get_running_loop().call_soon(self._greet)

    def _greet(self) -> None:
        """Speak first where there is no prompt yet: it will find a connection that is ready."""
        if self._error is None and not self._is_closed and self._dialer.ended is None:
            if not self._dialer.group.streams:
                self._dialer.ping()
            self._driver.wake()

    def _await_connected(self) -> None:
        self._is_connected = False
        self._first_reply.start(has_alternative=len(self._sockets.remotes) > 1)

    def _on_connect_timeout(self) -> None:
        tried = " and ".join(str(remote) for remote in self._sockets.remotes)
        hint = ": nothing listens there" if self._sockets.was_refused else ""
        self._down(
            self._refusal or ConnectTimeout(f"no answer from {tried} within {self._timeout:g} s{hint}")
        )

    def _on_unreachable(self, number: int) -> None:
        if not self._is_connected and self._sockets.note_refusal(number):
            self._try_other_family()

    def _try_other_family(self) -> None:
        self._sockets.prefer_next()
        self._use_new_socket()

    def _use_new_socket(self) -> None:
        """The first flight goes on from a new socket, to the address that is preferred now."""
        if self._dialer.ended is None:
            self._dialer.network_changed(now=time.monotonic())
            self._driver.wake()

    def _on_datagrams(self, number: int, datagrams: Datagrams) -> None:
        if not self._is_connected and self._sockets.prefer_that_of(number):
            self._use_new_socket()
        address = (number, _REMOTE)
        self._driver.receive([(data, address) for data, _ in datagrams], now=time.monotonic())

    def _on_drained(self, now: float) -> None:
        self._totals.follow(self._dialer.connection)
        while (event := self._dialer.next_event()) is not None:
            self._on_event(event, now)
        if self._left:
            for stream in self._left:
                self._dialer.forget(stream)
            self._left = [stream for stream in self._left if stream.is_open]
        if self._is_connected:
            self._sockets.keep(self._dialer.live_sockets)

    def _on_event(self, event: Event, now: float) -> None:
        if isinstance(event, (StreamReadable, StreamEnded)):
            if (channel := self._channels.get(event.stream)) is not None:
                channel.on_readable()
        elif isinstance(event, (StreamWritable, StopRequested)):
            if (channel := self._channels.get(event.stream)) is not None:
                channel.on_writable()
        elif isinstance(event, Status):
            self._on_status_event(event, now)
        elif isinstance(event, Connected):
            self._is_connected = True
            self._refusal = None
            self._first_reply.end()
        elif isinstance(event, TicketNeeded):
            self._on_ticket_needed(event.code)
        elif isinstance(event, ConnectionEnded):
            self._down(_closed(event))

    def _on_status_event(self, event: Status, now: float) -> None:
        if isinstance(event, PathChanged):
            number = self._dialer.connection.paths.active.address[0]  # type: ignore[index]
            event = PathChanged(self._sockets.local_address(number))
        elif isinstance(event, Stalled):
            self._stalled_since = self._dialer.connection.silence.since or now
        elif isinstance(event, Resumed) and self._stalled_since is not None:
            for stats in self._reply_stats.values():
                stats.stalled_s += max(now - max(self._stalled_since, stats.asked_at), 0.0)
            self._stalled_since = None
        if self._on_status is not None:
            # By the loop, which reports what it raises and goes on.
            asyncio.get_running_loop().call_soon(self._on_status, event)

    def _on_ticket_needed(self, code: int) -> None:
        tried = " and ".join(str(remote) for remote in self._sockets.remotes)
        reason = _REFUSALS.get(code, f"refusal code {code}")
        was_refused = self._refusal is not None
        self._refusal = ConnectRefused(f"{tried} refused the ticket: {reason}", code=code)
        if not self._tickets.is_renewable or not self._channels or self._is_closed:
            self._down(self._refusal)  # Where nothing is open, the next turn gets a new ticket.
        else:
            self._renewal = asyncio.create_task(self._renew(NEXT_TICKET_AFTER if was_refused else 0.0))

    async def _renew(self, delay: float) -> None:
        """Go on with a new ticket."""
        try:
            await asyncio.sleep(delay)
            ticket = await self._tickets.get(timeout=self._timeout)
            remotes = await remotes_of(ticket)
        except EloquentError as error:
            self._down(error)
        except Exception as error:
            failure = ConnectError(f"a new ticket is needed, but getting one failed: {error}")
            failure.__cause__ = error
            self._down(failure)
        else:
            if self._error is None:
                self._sockets.use(remotes)
                self._dialer.use_ticket(ticket, now=time.monotonic())
                self._await_connected()
                self._driver.wake()
        finally:
            self._renewal = None

    def _down(self, error: EloquentError) -> None:
        """The conversation has ended; only a new ticket begins another one."""
        if self._error is not None:
            return
        self._error = error
        for channel in self._channels.values():
            channel.fail(error)
        self._channels.clear()
        self._reply_stats.clear()
        self._left.clear()
        self._release()

    def _release(self) -> None:
        self._first_reply.end()
        self._driver.close()
        self._sockets.close()
        self._ended.set()

    def _require_open(self) -> None:
        if not self._is_started or self._is_closed:
            raise UsageError("the connection is not open: ask inside of its `async with` block")


def _closed_by_us() -> ConnectionClosed:
    return ConnectionClosed("the connection was closed", by="local", code=CloseCode.NONE)


def _closed(event: ConnectionEnded) -> ConnectionClosed:
    who = {"local": "this client", "remote": "the server", "silence": "a silence of the network"}[event.by]
    reason = f": {event.reason}" if event.reason else ""
    return ConnectionClosed(
        f"the connection was ended by {who}{reason}", by=event.by, code=event.code, reason=event.reason
    )
