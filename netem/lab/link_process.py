"""The process of a link, as the program that started it sees it.

It takes orders over a pair of sockets and answers each; both are pickled. It ends when the socket
is closed, thus also when its maker is killed.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netem.errors import LinkFailed
from netem.scenario import Scenario

_EXIT_LIMIT_S = 5.0  # arbitrary; some ms are usual


@dataclass(frozen=True, slots=True)
class Play:
    """The order to begin a scenario; `begins_at` on time.monotonic(). Answered when it is in force."""

    scenario: Scenario
    seed: int
    begins_at: float


class LinkProcess:
    """Runs `python -m MODULE CONTROL ARGUMENTS` until end(), or until this process is gone.

    CONTROL is the descriptor of the socket for orders. The process inherits `descriptors` too; the
    caller closes its own. An answer may take `answer_limit_s`. Raises OSError.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        descriptors: Sequence[int],
        answer_limit_s: float,
    ) -> None:
        self._answer_limit_s = answer_limit_s
        self._control, control = socket.socketpair()
        self._control.settimeout(answer_limit_s)
        self._answers = self._control.makefile("rb")
        self._last_words = ""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(control.fileno()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[control.fileno(), *descriptors],
                text=True,
                start_new_session=True,  # a Ctrl-C is for the program that uses the link
            )
        except BaseException:
            self._close_control()
            raise
        finally:
            control.close()

    @property
    def pid(self) -> int:
        """Of the process, also when it has ended."""
        return self._process.pid

    def ask(self, order: Play | None) -> Any:
        """Give an order and return the answer. Raises LinkFailed where the process is dead."""
        try:
            self._control.sendall(pickle.dumps(order))
            return pickle.load(self._answers)
        except TimeoutError as error:
            self.end()
            limit = f"{self._answer_limit_s:g} s"
            raise LinkFailed(f"the link gave no answer within {limit} and was ended") from error
        except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise self._failure() from error

    def check(self) -> None:
        """Raise LinkFailed where the process is dead."""
        if self._process.poll() is not None:
            raise self._failure()

    def end(self) -> None:
        """End the process; may be called twice."""
        self._close_control()
        try:
            _, errors = self._process.communicate(timeout=_EXIT_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, errors = self._process.communicate()
        self._last_words = errors.strip() or self._last_words

    def _failure(self) -> LinkFailed:
        self.end()
        status = self._process.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last_line = self._last_words.rpartition("\n")[2] or "it said nothing"
        failure = LinkFailed(f"the link's process {how}: {last_line}")
        failure.add_note(self._last_words)
        return failure

    def _close_control(self) -> None:
        self._answers.close()
        self._control.close()
