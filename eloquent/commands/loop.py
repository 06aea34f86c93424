"""The event loop of a command: uvloop where it is installed; in a thread where the user types."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, Self, TypeVar

Result = TypeVar("Result")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new loop of uvloop, or of asyncio where that is missing."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class BackgroundLoop:
    """Runs a loop in a thread, so that connections live on while the main thread waits for a line.

    (Reading the line in a thread instead would leave the terminal as readline sets it, and the
    process waiting for a key, when the user leaves.)
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=new_event_loop)
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="eloquent-loop", daemon=True)
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._runner.close()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """The coroutine's result. Ctrl-C cancels it and waits for its end; it may return all the same.

        Raises KeyboardInterrupt where it does not, and what the coroutine raises.
        """
        future = asyncio.run_coroutine_threadsafe(self._kept(coroutine), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(self._cancel)
            try:
                return future.result()
            except CancelledError:
                raise KeyboardInterrupt from None

    async def _kept(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        self._task = asyncio.current_task()
        try:
            return await coroutine
        finally:
            self._task = None

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
