"""Bad input to every public call ends in the one tree of errors, and in its right branch."""

import inspect
import math
from typing import Any

import pytest

import eloquent
from eloquent import KeyRing, Limits, ServerStream, Settings, errors
from eloquent.errors import (
    AnswerFailed,
    ConfigurationError,
    ConnectError,
    ConnectionClosed,
    ConnectRefused,
    ConnectTimeout,
    EloquentError,
    Interrupted,
    StreamError,
    TicketError,
    UsageError,
)
from eloquent.protocol.content import Custom

KEYS = KeyRing([(b"test", bytes(32))])


async def handler(stream: ServerStream) -> None:
    pass


def test_every_error_has_the_one_base() -> None:
    found = [
        value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)
    ]
    assert len(found) > 10
    assert all(issubclass(error, EloquentError) for error in found)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ConfigurationError, ValueError),
        (TicketError, ConfigurationError),
        (UsageError, RuntimeError),
        (ConnectError, ConnectionError),
        (ConnectTimeout, TimeoutError),
        (ConnectTimeout, ConnectError),
        (ConnectRefused, ConnectError),
        (ConnectionClosed, ConnectionError),
        (Interrupted, StreamError),
        (AnswerFailed, StreamError),
    ],
)
def test_errors_are_what_their_name_says_to_those_who_do_not_know_us(error: type, builtin: type) -> None:
    assert issubclass(error, builtin)


def test_messages_and_attributes_survive_the_builtin_bases() -> None:
    # An OSError with two arguments would take the first one for an errno.
    assert (
        str(ConnectTimeout("no answer from 192.0.2.1:4433 within 10 s"))
        == "no answer from 192.0.2.1:4433 within 10 s"
    )
    refused = ConnectRefused("it was used before", code=2)
    assert (str(refused), refused.code, refused.errno) == ("it was used before", 2, None)
    closed = ConnectionClosed("ended by the server", by="remote", code=4, reason="it stops")
    assert (str(closed), closed.by, closed.code, closed.reason) == (
        "ended by the server",
        "remote",
        4,
        "it stops",
    )
    interrupted = Interrupted("a lost server", text="half an answ", offset=13)
    assert (interrupted.text, interrupted.offset) == ("half an answ", 13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"handler": None}, "the handler must be"),
        ({"handler": "answer"}, "the handler must be"),
        ({"host": None}, "the host must be"),
        ({"host": ""}, "the host must be"),
        ({"host": b"::"}, "the host must be"),
        ({"port": "4433"}, "the port must be"),
        ({"port": -1}, "the port must be"),
        ({"port": 65536}, "the port must be"),
        ({"port": True}, "the port must be"),
        ({"keys": 42}, "keys must be"),
        ({"keys": b"keys"}, "keys must be"),
        ({"keys": "/nowhere/keys"}, "there is no key file"),
        ({"advertise": 4433}, "advertise must be"),
        ({"advertise": ["a:1"]}, "advertise must be"),
        ({"worker": "first"}, "worker's id"),
        ({"worker": 65536}, "worker's id"),
        ({"ticket_lifetime_s": 0}, "lifetime"),
        ({"ticket_lifetime_s": "60"}, "lifetime"),
        ({"ticket_lifetime_s": math.nan}, "lifetime"),
        ({"clock_skew_s": -1}, "clock_skew_s"),
        ({"clock_skew_s": math.inf}, "clock_skew_s"),
        ({"clock_skew_s": None}, "clock_skew_s"),
        ({"aead": "aes"}, "cipher"),
        ({"settings": {}}, "settings must be"),
        ({"settings": Limits()}, "settings must be"),
        ({"limits": Settings()}, "limits must be"),
        ({"on_abort": 42}, "on_abort must be"),
    ],
    ids=repr,
)
def test_serve_checks_its_arguments_at_the_call(arguments: dict[str, Any], message: str) -> None:
    right = {"handler": handler, "host": "127.0.0.1", "port": 0, "keys": KEYS}
    with pytest.raises(ConfigurationError, match=message):
        eloquent.serve(**{**right, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": None}, "a ticket, or an async function"),
        ({"source": "no ticket"}, "not a ticket"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": None}, "timeout must be"),
        ({"timeout": "10"}, "timeout must be"),
        ({"timeout": math.inf}, "timeout must be"),
        ({"timeout": math.nan}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"settings": None}, "settings must be"),
        ({"on_status": "print"}, "on_status must be"),
    ],
    ids=repr,
)
def test_connect_checks_its_arguments_at_the_call(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        eloquent.connect(**{"source": handler, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prompt",
    [None, 42, 1.5, object(), {"a": "prompt"}, [42], ["text", None], "\ud800", Custom("set", {1}), handler],  # type: ignore[arg-type]
)
async def test_a_prompt_that_cannot_be_sent(prompt: Any) -> None:
    # Nothing is sent for it: it is refused before there is a stream.
    async def ticket() -> str:
        raise AssertionError

    connection = eloquent.connect(ticket)._connection
    with pytest.raises(ConfigurationError):
        connection.ask(prompt)


@pytest.mark.parametrize("name", eloquent.__all__)
def test_public_names_are_there(name: str) -> None:
    assert name in dir(eloquent)
    assert inspect.getdoc(getattr(eloquent, name)) is not None


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="'eloquent' has no attribute 'dial'"):
        eloquent.dial  # type: ignore[attr-defined]  # noqa: B018
