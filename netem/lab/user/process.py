"""The process of a link, as the program that started it sees it."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys

from netem.errors import LinkFailed
from netem.lab.user.orders import Play, Report

_ANSWER_LIMIT_S = 10.0  # arbitrary; some ms are usual, and 0.1 s while it starts
_EXIT_LIMIT_S = 5.0  # arbitrary; some ms are usual


class ForwarderProcess:
    """Runs `netem.lab.user.forwarder` until end(), or until this process is gone.

    `client` and `server` are descriptors of TUN devices and `recording` one of a file; the caller
    closes its own. Raises OSError.
    """

    def __init__(self, client: int, server: int, *, mtu: int, recording: int | None) -> None:
        self._control, control = socket.socketpair()
        self._control.settimeout(_ANSWER_LIMIT_S)
        self._answers = self._control.makefile("rb")
        self._last_words = ""
        descriptors = [client, server, control.fileno()]
        arguments = [*descriptors, mtu]
        if recording is not None:
            descriptors.append(recording)
            arguments.append(recording)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "netem.lab.user.forwarder", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=descriptors,
                text=True,
                start_new_session=True,  # a Ctrl-C is for the program that uses the link
            )
        except BaseException:
            self._close_control()
            raise
        finally:
            control.close()

    def ask(self, order: Play | None) -> Report:
        """Give an order and wait for the answer. Raises LinkFailed where the process is dead."""
        try:
            self._control.sendall(pickle.dumps(order))
            report: Report = pickle.load(self._answers)
        except TimeoutError as error:
            self.end()
            raise LinkFailed(f"the link gave no answer within {_ANSWER_LIMIT_S} s and was ended") from error
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise self._failure() from error
        return report

    def end(self) -> None:
        """End the process, and with it its devices; may be called twice."""
        self._close_control()
        try:
            _, errors = self._process.communicate(timeout=_EXIT_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, errors = self._process.communicate()
        self._last_words = errors.strip()

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
