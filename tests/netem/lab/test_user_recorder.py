"""The comments of a recording."""

import pytest

from netem.lab.user.recorder import describe
from netem.link import Fate

PACKET = bytes(40)
FLIPPED = b"\1" + bytes(39)


@pytest.mark.parametrize(
    ("fate", "copies", "comment"),
    [
        (Fate.DELIVERED, [(7.0312, PACKET)], "delivered, 31.2 ms"),
        (Fate.DELIVERED, [(7.0312, PACKET), (7.04, PACKET)], "delivered, 31.2 ms, 40.0 ms"),
        (Fate.DELIVERED, [(7.001, FLIPPED)], "corrupted, 1.0 ms"),
        (Fate.MARKED, [(7.001, FLIPPED)], "marked, 1.0 ms"),
        (Fate.LOSS, [], "dropped: loss"),
        (Fate.QUEUE, [], "dropped: queue"),
        (Fate.OUTAGE, [], "dropped: outage"),
    ],
    ids=["delivered", "duplicated", "corrupted", "marked", "loss", "queue", "outage"],
)
def test_a_comment_says_what_becomes_of_a_packet(
    fate: Fate, copies: list[tuple[float, bytes]], comment: str
) -> None:
    assert describe(PACKET, fate, copies, now=7.0) == comment
