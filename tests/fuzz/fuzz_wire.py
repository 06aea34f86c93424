# Whatever the bytes, the parsers of datagrams and frames return or raise WireError,
# and frames that were accepted are the same after another round trip.

import contextlib
import sys

import atheris

with atheris.instrument_imports():
    from eloquent.protocol import wire

PARSERS = (
    wire.decode_header_untrusted,
    wire.split_initial_untrusted,
    wire.split_reply_untrusted,
    lambda data: wire.split_initial_untrusted(data.ljust(wire.MAX_DATAGRAM, b"\0")),
)


def test_one_input(data: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(wire.WireError):
            parse(data)
    try:
        frames = wire.decode_frames_untrusted(data)
    except wire.WireError:
        return
    again = wire.encode_frames([wire.encode_frame(frame) for frame in frames])
    assert wire.decode_frames_untrusted(again) == frames


atheris.Setup(sys.argv, test_one_input)
atheris.Fuzz()
