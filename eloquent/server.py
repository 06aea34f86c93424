"""The asyncio server: one UDP socket, many clients, a task for each stream."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from eloquent.addresses import advertised, bind, format_address, plain_address
from eloquent.answer import Handler, ServerStream, end_answer, fail_answer, run_handler
from eloquent.channel import Channel
from eloquent.endpoint import Datagrams, Driver, UdpSocket
from eloquent.errors import ConfigurationError, StreamStopped, UsageError
from eloquent.keys import load_keys
from eloquent.protocol.admission import Limits
from eloquent.protocol.connection import Settings
from eloquent.protocol.crypto import Aead
from eloquent.protocol.events import (
    StopRequested,
    StreamAbandoned,
    StreamEnded,
    StreamOpened,
    StreamReadable,
    StreamWritable,
)
from eloquent.protocol.listener import Listener, LogStore
from eloquent.protocol.streams import LogGroup, Stream
from eloquent.protocol.ticket import Address, KeyRing, TicketIssuer
from eloquent.store import MemoryStore

logger = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds that running answers have when a server closes, unless it is told otherwise; arbitrary."""

CLOSE_LINGER = 0.25
"""Seconds in which a closed server repeats CLOSE to clients that missed it; arbitrary."""

WALL_CLOCK_INTERVAL = 10.0
"""Seconds after which the wall clock is read again: it can be set, the monotonic clock cannot."""

AbortHook = Callable[[ServerStream], Awaitable[None] | None]


def serve(
    handler: Handler,
    host: str,
    port: int,
    *,
    keys: KeyRing | str | os.PathLike[str] | None = None,
    advertise: str | None = None,
    worker: int = 0,
    ticket_lifetime_s: float = 60.0,
    clock_skew_s: float = 0.0,
    aead: Aead = Aead.AES_128_GCM,
    settings: Settings = Settings(),
    limits: Limits = Limits(),
    store: LogStore | None = None,
    on_abort: AbortHook | None = None,
) -> Server:
    """Serve answers on a UDP address; use the result with `async with`.

    `handler` gets a `ServerStream`, once for each stream: an async function that sends, or an async
    generator function that yields. Where it raises, the client gets the message.

    `host` may be "::" for IPv4 and IPv6, or "0.0.0.0"; then `advertise` says under which
    "host:port" clients reach this server ("[IPv6 address]:port", several with commas, the port may
    be left out); names are resolved once, at the start. `port` 0 takes a free one.

    `keys` are a KeyRing or a key file; without them ELOQUENT_KEYS or the user's key file counts.
    Workers, each with its own port, differ in `worker`. `clock_skew_s`: how far clocks of machines
    that issue tickets may be off. `on_abort` is called where an answer was given up since its client
    was away for 120 s. Raises ConfigurationError for what cannot be used, some only on entering.
    """
    _check_arguments(handler, host, port, advertise, settings, limits, clock_skew_s, on_abort)
    make_issuer = partial(
        TicketIssuer,
        _key_ring(keys),
        worker=worker,
        lifetime_s=ticket_lifetime_s,
        aead=aead,
        entropy=os.urandom,
    )
    make_issuer()  # Its arguments are checked now rather than at the start.
    make_listener = partial(
        Listener,
        store=MemoryStore() if store is None else store,
        worker=worker,
        settings=settings,
        limits=limits,
        clock_skew=clock_skew_s,
        entropy=os.urandom,
    )
    return Server(handler, (host, port), advertise, make_issuer, make_listener, on_abort)


class Server:
    """A server that `serve` has made; it works inside of its `async with` block."""

    def __init__(
        self,
        handler: Handler,
        listen_on: Address,
        advertise: str | None,
        make_issuer: Callable[..., TicketIssuer],
        make_listener: Callable[..., Listener],
        on_abort: AbortHook | None,
    ) -> None:
        self._handler = handler
        self._listen_on = listen_on
        self._advertise = advertise
        self._make_issuer = make_issuer
        self._make_listener = make_listener
        self._on_abort = on_abort
        self._is_started = False
        self._is_closing = False
        self._channels: dict[Stream, Channel] = {}
        self._handlers: dict[Stream, asyncio.Task[None]] = {}
        self._hooks: set[asyncio.Task[None]] = set()
        self._wall_clock_at = 0.0

    async def __aenter__(self) -> Self:
        if self._is_started:
            raise UsageError("this server was started before; make another one with serve()")
        udp = await bind(*self._listen_on)
        try:
            bound = udp.getsockname()
            ipv4, ipv6 = await advertised(bound, self._advertise)
            self._is_reachable = ipv4 is not None or ipv6 is not None
            self._tickets = self._make_issuer(ipv4=ipv4, ipv6=ipv6)
        except BaseException:
            udp.close()
            raise
        self._address = plain_address(bound)
        now = time.monotonic()
        self._listener = self._make_listener(self._tickets, wall_offset=time.time() - now, now=now)
        self._socket = UdpSocket(udp, self._on_datagrams)
        self._driver = Driver(self._listener, send=self._socket.send, on_drained=self._on_drained)
        self._closed = asyncio.Event()
        self._delivered = asyncio.Event()
        self._is_started = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def address(self) -> Address:
        """Host and port on which the server listens."""
        self._require_started()
        return self._address

    @property
    def tickets(self) -> TicketIssuer:
        """Issues this server's tickets; `issue` is what most applications need."""
        self._require_started()
        return self._tickets

    def issue(self, claims: Mapping[str, object] | None = None) -> str:
        """A ticket for one connection, as text: hand it over HTTPS to a user who has logged in.

        `claims`, at most 256 bytes as MessagePack, reach the handler as `stream.claims`. Raises
        TicketError where they do not fit, ConfigurationError where no client could use the ticket.
        """
        tickets = self.tickets
        if not self._is_reachable:
            example = format_address("chat.example.com", self._address[1])
            raise ConfigurationError(
                f"the server listens on all addresses ({self._address[0]}), and a ticket must name one "
                f'that clients can reach: serve(..., advertise="{example}")'
            )
        return tickets.issue(claims, wall_now=time.time()).encode()

    async def serve_forever(self) -> None:
        """Wait until the server is closed, or for ever."""
        self._require_started()
        await self._closed.wait()

    async def close(self, grace_s: float = GRACE) -> None:
        """Stop: refuse what is new, let running answers finish for `grace_s`, cancel the rest, say CLOSE."""
        self._require_started()
        _check_seconds("grace_s", grace_s)
        if self._is_closing:
            await self._closed.wait()
            return
        self._is_closing = True
        self._listener.refuse_new()
        try:
            await self._finish_answers(grace_s)
            await self._cancel_answers()
            # Read what has come until now: a client in the same process has often just left.
            for _ in range(2):
                await asyncio.sleep(0)
        finally:
            # Also when the grace is cut short by a cancellation.
            for task in self._tasks:
                task.cancel()
            has_clients = bool(self._listener.groups)
            self._listener.close(now=time.monotonic())
            self._driver.flush()
            try:
                await asyncio.sleep(CLOSE_LINGER if has_clients else 0)
            finally:
                self._driver.close()
                self._socket.close()
                self._closed.set()

    def peer_of(self, group: LogGroup) -> Address | None:
        """Where the client of these streams is; None while it is not connected."""
        connection = self._listener.owner(group)
        return None if connection is None else plain_address(connection.paths.active.address)

    @property
    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*self._handlers.values(), *self._hooks]

    async def _finish_answers(self, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s):
                if self._tasks:
                    await asyncio.wait(self._tasks)
                while self._listener.has_unacked:
                    self._delivered.clear()
                    await self._delivered.wait()
        except TimeoutError:
            pass

    async def _cancel_answers(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_datagrams(self, datagrams: Datagrams) -> None:
        now = time.monotonic()
        if now >= self._wall_clock_at:
            self._wall_clock_at = now + WALL_CLOCK_INTERVAL
            self._listener.wall_offset = time.time() - now
        self._driver.receive(datagrams, now=now)

    def _on_drained(self, now: float) -> None:
        while (entry := self._listener.next_event()) is not None:
            group, event = entry
            if isinstance(event, StreamOpened):
                self._on_opened(group, event.stream)
            elif isinstance(
                event, (StreamReadable, StreamEnded, StreamWritable, StopRequested, StreamAbandoned)
            ):
                self._on_stream_event(event)
        if self._is_closing and not self._listener.has_unacked:
            self._delivered.set()

    def _on_opened(self, group: LogGroup, stream: Stream) -> None:
        def touch() -> None:
            self._listener.touch(group)
            self._driver.wake()

        channel = Channel(stream, touch)
        if self._is_closing:
            end_answer(channel)
            return
        self._channels[stream] = channel
        task = asyncio.create_task(self._answer(channel), name=f"eloquent-stream-{stream.id}")
        task.add_done_callback(partial(self._on_answered, channel))
        self._handlers[stream] = task

    def _on_stream_event(
        self, event: StreamReadable | StreamEnded | StreamWritable | StopRequested | StreamAbandoned
    ) -> None:
        stream = event.stream
        channel = self._channels.get(stream)
        if channel is None:
            return
        if isinstance(event, StreamWritable):
            channel.on_writable()
        elif isinstance(event, (StopRequested, StreamAbandoned)):
            self._handlers[stream].cancel()
            if isinstance(event, StreamAbandoned) and self._on_abort is not None:
                hook = asyncio.create_task(self._call_abort_hook(self._on_abort, channel))
                self._hooks.add(hook)
                hook.add_done_callback(self._hooks.discard)
        else:
            channel.on_readable()

    async def _answer(self, channel: Channel) -> None:
        try:
            await run_handler(self._handler, ServerStream(self, channel))
            channel.finish()
        except StreamStopped:
            logger.debug("stream %d was stopped by its client", channel.stream.id)
        except Exception as error:
            logger.exception("the handler of stream %d failed", channel.stream.id)
            fail_answer(channel, error)

    def _on_answered(self, channel: Channel, task: asyncio.Task[None]) -> None:
        # Not in the task: one that is cancelled before it starts runs none of its code.
        end_answer(channel)
        del self._channels[channel.stream], self._handlers[channel.stream]

    async def _call_abort_hook(self, hook: AbortHook, channel: Channel) -> None:
        try:
            result = hook(ServerStream(self, channel))
            if inspect.isawaitable(result):
                await result
        except Exception:
            logger.exception("the abort hook failed for stream %d", channel.stream.id)

    def _require_started(self) -> None:
        if not self._is_started:
            raise UsageError("the server has not been started: use `async with`")


def _key_ring(keys: KeyRing | str | os.PathLike[str] | None) -> KeyRing:
    if isinstance(keys, KeyRing):
        return keys
    _check(
        keys is None or isinstance(keys, (str, os.PathLike)),
        f"keys must be a KeyRing or the path of a key file, not {type(keys).__name__}",
    )
    return load_keys(None if keys is None else Path(keys))


def _check(is_right: bool, message: str) -> None:
    if not is_right:
        raise ConfigurationError(message)


def _check_arguments(
    handler: object,
    host: object,
    port: object,
    advertise: object,
    settings: object,
    limits: object,
    clock_skew_s: object,
    on_abort: object,
) -> None:
    _check(callable(handler), f"the handler must be an async function, not {type(handler).__name__}")
    _check(isinstance(host, str) and host != "", f"the host must be a name or an IP address, not {host!r}")
    _check(type(port) is int and 0 <= port < 65536, f"the port must be within 0..65535, not {port!r}")
    _check(
        advertise is None or isinstance(advertise, str), f'advertise must be "host:port", not {advertise!r}'
    )
    _check(isinstance(settings, Settings), f"settings must be Settings, not {type(settings).__name__}")
    _check(isinstance(limits, Limits), f"limits must be Limits, not {type(limits).__name__}")
    _check(on_abort is None or callable(on_abort), f"on_abort must be a function, not {on_abort!r}")
    _check_seconds("clock_skew_s", clock_skew_s)


def _check_seconds(name: str, value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ConfigurationError(f"{name} must be a number of seconds from 0, not {value!r}")
