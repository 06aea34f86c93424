"""What must be undone when the process ends, in whatever way it can still act upon.

An exception unwinds through `async with`. For what does not, a termination signal or an exit from
elsewhere, this module keeps the open laboratories. After SIGKILL, `python -m netem clean` is left.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_undos: list[Callable[[], None]] = []
_owner = 0
"""The process that the list belongs to: a fork has a copy, and must not act on it."""


def add(undo: Callable[[], None]) -> None:
    """Have `undo` called at the end of the process, unless it is removed before.

    From the main thread this also takes SIGTERM and SIGHUP, where the program has left them to
    their default: then `undo` is called and the signal ends the process as before.
    """
    global _owner  # one list for each process
    if _owner != os.getpid():
        _owner = os.getpid()
        _undos.clear()
        atexit.register(_undo_all)
    _undos.append(undo)
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _undo_and_die)


def remove(undo: Callable[[], None]) -> None:
    """Take back add(); nothing where it was not added, or by another process."""
    with contextlib.suppress(ValueError):
        _undos.remove(undo)
    if not _undos and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is _undo_and_die:
                signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """In the main thread, signals that would end the program wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_SIGNALS)}
    # Not by a mask: another thread would take the signal, and Python handle it in this one.
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in dict.fromkeys(came):
            signal.raise_signal(each)


def _undo_all() -> None:
    if _owner == os.getpid():
        with uninterrupted():
            for undo in reversed(_undos[:]):
                with contextlib.suppress(Exception):  # the others must go on; nobody is left to tell
                    undo()


def _undo_and_die(number: int, frame: FrameType | None) -> None:
    _undo_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
