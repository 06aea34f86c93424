"""Every error that the library raises, under one base.

Who is to blame decides the class: the configuration, the calling code, a peer that could not be
reached, a connection that ended, a stream that ended.
"""

from __future__ import annotations

from typing import Literal


class EloquentError(Exception):
    """Base of every error of this library."""


class ConfigurationError(EloquentError, ValueError):
    """A setting, key or address that cannot be used."""


class TicketError(ConfigurationError):
    """A ticket that cannot be issued or read."""


class UsageError(EloquentError, RuntimeError):
    """A call that the state of the object does not allow: a bug of the caller."""


class ConnectError(EloquentError, ConnectionError):
    """The connection could not be made."""


class ConnectTimeout(ConnectError, TimeoutError):
    """No answer came in time; the message says which address was tried and for how long."""


class ConnectRefused(ConnectError):
    """The server refused the ticket; `code` is the protocol's refusal code."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class ConnectionClosed(EloquentError, ConnectionError):
    """The connection has ended.

    `by` is "local", "remote" or "silence" (nobody closed it: the peer stopped answering).
    """

    def __init__(
        self, message: str, *, by: Literal["local", "remote", "silence"], code: int, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.by = by
        self.code = code
        self.reason = reason


class StreamError(EloquentError):
    """A stream that ended early. `text` and `offset` (bytes of the log) say what is good."""

    def __init__(self, message: str, *, text: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.text = text
        self.offset = offset


class Interrupted(StreamError):
    """The answer cannot go on (a lost server or connection); what came until then is good."""


class AnswerFailed(StreamError):
    """The handler on the other side raised; its message is in the error's text."""


class StreamStopped(StreamError):
    """The peer asked this stream to stop; nothing more can be sent on it."""
