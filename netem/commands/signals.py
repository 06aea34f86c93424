"""Signals to a command that runs another one: each reaches the other once, wherever it came from."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_SIGNALS = (*_FROM_TERMINAL, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Passes termination signals on to a program; before its start they cancel the task."""

    def __init__(self) -> None:
        self._received: int = 0
        self._task: asyncio.Task[object] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._held: list[signal.Signals] = []

    @property
    def status(self) -> int:
        """The exit status of a run that a signal has ended."""
        return 128 + self._received

    def take(self) -> None:
        """From now on; what this process was told to ignore, as by nohup(1), stays ignored."""
        self._task = asyncio.current_task()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def hold(self) -> None:
        """From now on they wait for pass_on_to(): the program can run before its start has returned."""
        self._task = None

    def pass_on_to(self, process: asyncio.subprocess.Process) -> None:
        """From now on they go to this process."""
        self._process = process
        for number in self._held:
            self._pass_on(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._task is not None:
            self._received = number
            self._task.cancel()
        elif number not in _FROM_TERMINAL or not _is_in_foreground():
            self._pass_on(number)

    def _pass_on(self, number: signal.Signals) -> None:
        if self._process is None:
            self._held.append(number)
            return
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            self._process.send_signal(number)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal.

    If so the program must stay in its process group, to be in the foreground with it. If not, it
    gets a session of its own: a signal to this process group then comes to it once, passed on.
    """
    return _foreground_group() is not None


def _is_in_foreground() -> bool:
    """Whether Ctrl-C is for this process group, so that the program has got it from the terminal too."""
    return _foreground_group() == os.getpgrp()


def _foreground_group() -> int | None:
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(terminal)
    finally:
        os.close(terminal)
