# Whatever the bytes, a decoder gives content or raises WireError, no text has half a character,
# and neither the content nor the verdict depends on where the bytes were cut.

import sys

import atheris

with atheris.instrument_imports():
    from eloquent.protocol.content import Content, ContentDecoder, Text, Undecodable, encode
    from eloquent.protocol.wire import WireError


def decode(pieces: list[bytes]) -> tuple[list[Content], bool]:
    """The content, and whether all of it was a log."""
    decoder, content = ContentDecoder(), []
    try:
        for piece in pieces:
            content += decoder.feed_untrusted(piece)
    except WireError:
        return content, False
    return content + decoder.finish(), True


def events(content: list[Content]) -> list[Content]:
    return [item for item in content if not isinstance(item, Text | Undecodable)]


def test_one_input(data: bytes) -> None:
    size, log = data[:1], data[1:]
    step = size[0] + 1 if size else 1
    content, is_log = decode([log])
    cut_content, cut_is_log = decode([log[at : at + step] for at in range(0, len(log), step)])
    assert is_log == cut_is_log
    for item in cut_content:
        if isinstance(item, Text):
            item.text.encode()
    if is_log:
        assert repr(content) == repr(cut_content)  # repr, since NaN is not equal to itself
        again, is_log_again = decode([b"".join(encode(item) for item in content)])
        assert is_log_again
        assert repr(events(again)) == repr(events(content))


atheris.Setup(sys.argv, test_one_input)
atheris.Fuzz()
