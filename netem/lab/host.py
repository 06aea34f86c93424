"""A host of the laboratory: a network namespace in which programs run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar, overload

from eloquent.errors import UsageError
from netem.lab.cable import Attachment
from netem.lab.namespace import Namespace

T = TypeVar("T")

_POLL_S = 0.005
_EXIT_GRACE_S = 3.0
"""From SIGTERM to SIGKILL for a program whose block is left; arbitrary."""


class Host:
    """One host; Lab makes it. Its addresses are those of its first cable."""

    def __init__(self, name: str, namespace: Namespace, attachments: Sequence[Attachment]) -> None:
        self.name = name
        self.namespace = namespace
        self._attachments = tuple(attachments)

    @property
    def address(self) -> str:
        """The IPv4 address."""
        return self._attachments[0].address

    @property
    def address_v6(self) -> str:
        """The IPv6 address."""
        return self._attachments[0].address_v6

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Its ends of cables, with their interfaces and addresses."""
        return self._attachments

    def attachment_to(self, peer: str) -> Attachment:
        """Its first end of a cable to the host `peer`; raises UsageError where there is none."""
        for attachment in self._attachments:
            if attachment.peer == peer:
                return attachment
        raise UsageError(f"no cable joins {self.name!r} and {peer!r}")

    @overload
    async def run(
        self,
        target: Sequence[str],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]: ...

    @overload
    async def run(self, target: Callable[[], Awaitable[T]], *, timeout: float | None = None) -> T: ...

    async def run(
        self,
        target: Sequence[str] | Callable[[], Awaitable[T]],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str] | T:
        """Run a program or a coroutine function on this host to its end.

        A program's output comes back as text; `env` is added to the environment. A coroutine
        function runs on an event loop in a thread of its own; nothing of it may be used from
        another loop. Raises TimeoutError after `timeout` seconds, when what ran has been ended.
        """
        async with asyncio.timeout(timeout):
            if callable(target):
                return await self._run_function(target)
            return await self._run_program(target, env)

    @contextlib.asynccontextmanager
    async def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = None,
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A program that runs while the block does, and is ended with it."""
        process = await asyncio.create_subprocess_exec(
            *self.namespace.command(command),
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            yield process
        finally:
            await _end(process)

    async def _run_program(
        self, command: Sequence[str], env: Mapping[str, str] | None
    ) -> subprocess.CompletedProcess[str]:
        async with self.start(command, env=env, stderr=subprocess.PIPE) as process:
            stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return subprocess.CompletedProcess(
            list(command),
            process.returncode,
            stdout.decode(errors="replace"),
            stderr.decode(errors="replace"),
        )

    async def _run_function(self, function: Callable[[], Awaitable[T]]) -> T:
        inner: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()
        result: Future[T] = Future()

        def enter() -> None:
            try:
                self.namespace.call(_run_loop, function, inner, result)
            except OSError as error:  # the namespace is gone
                inner.set_exception(error)
                result.set_exception(error)

        thread = threading.Thread(target=enter, name=f"netem-{self.name}")
        thread.start()
        outcome = asyncio.wrap_future(result)
        outcome.add_done_callback(_look_at)
        try:
            return await asyncio.shield(outcome)
        finally:
            if not result.done():
                loop, task = inner.result()
                with contextlib.suppress(RuntimeError):  # it has just ended, and its loop is closed
                    loop.call_soon_threadsafe(task.cancel)
            await asyncio.shield(asyncio.to_thread(thread.join))


def _look_at(outcome: asyncio.Future[T]) -> None:
    """Once nobody waits for it any more, what it raised is nobody's concern, asyncio's included."""
    if not outcome.cancelled():
        outcome.exception()


def _run_loop(
    function: Callable[[], Awaitable[T]],
    inner: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]],
    result: Future[T],
) -> None:
    async def work() -> T:
        return await function()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work())
        inner.set_result((loop, task))
        try:
            result.set_result(loop.run_until_complete(task))
        except BaseException as error:
            result.set_exception(error)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_EXIT_GRACE_S):
            await _exit_of(process)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await _exit_of(process)


async def _exit_of(process: asyncio.subprocess.Process) -> None:
    # Not process.wait(): it also waits for the pipes, which a child of the program may hold open.
    while process.returncode is None:  # noqa: ASYNC110  # there is no event for this alone
        await asyncio.sleep(_POLL_S)
