"""The messages to the kernel's traffic control, byte by byte and as another decoder reads them."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from netem.lab.kernel.delays import DelayTable
from netem.lab.kernel.netlink import attribute, qdisc_message
from netem.lab.kernel.qdiscs import (
    Delay,
    GilbertElliottChances,
    Hold,
    Loss,
    Queue,
    Setting,
    Transmission,
)

NO_DELAY = DelayTable(0, 0, b"")


def decoded(setting: Setting, *, is_new: bool = False) -> Any:
    """What pyroute2 reads."""
    message = tcmsg(qdisc_message(7, setting.kind, setting.options(0), is_new=is_new))
    message.decode()
    return message


def attributes(options: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type, behind a header of `offset` bytes; fails on what is left over."""
    found = {}
    while offset < len(options):
        length, kind = struct.unpack_from("=HH", options, offset)
        assert kind not in found
        found[kind] = options[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    assert offset == len(options)
    return found


@given(st.integers(0, 0x3FFF), st.binary(max_size=300))
def test_attributes_are_padded_and_come_back(kind: int, payload: bytes) -> None:
    data = attribute(kind, payload)
    assert len(data) % 4 == 0
    assert attributes(data) == {kind: payload}


def test_a_message_to_the_byte() -> None:
    # nlmsghdr; tcmsg; TCA_KIND; TCA_OPTIONS; TCA_STAB with TCA_STAB_BASE, whose overhead is -14.
    expected = struct.pack("=IHHII", 92, 36, 0x0005, 0, 0)
    expected += struct.pack("=BxxxiIII", 0, 7, 0x10000, 0xFFFFFFFF, 0)
    expected += struct.pack("=HH8s", 9, 1, b"plug\0")
    expected += struct.pack("=HHiI", 12, 2, 2, 1 << 30)
    expected += struct.pack("=HHHH", 32, 8, 28, 1)
    expected += struct.pack("=BBhiIIII", 0, 0, 0, -14, 0, 0, 0, 0)
    assert qdisc_message(7, "plug", Hold().options(0)) == expected


def test_only_what_is_new_is_created() -> None:
    create_and_exclusive = 0x600
    assert decoded(Hold(), is_new=True)["header"]["flags"] & create_and_exclusive == create_and_exclusive
    assert decoded(Hold())["header"]["flags"] & create_and_exclusive == 0


def test_another_decoder_reads_the_same() -> None:
    message = decoded(Loss(chance=0.25, corruption=0.5))
    assert message["index"] == 7
    assert message["parent"] == 0xFFFFFFFF
    assert message.get_attr("TCA_KIND") == "netem"
    options = message.get_attr("TCA_OPTIONS")
    assert options["loss"] == round(0.25 * 0xFFFFFFFF)
    assert options["duplicate"] == options["jitter"] == options["delay"] == options["gap"] == 0
    assert options.get_attr("TCA_NETEM_CORRUPT")["prob_corrupt"] == round(0.5 * 0xFFFFFFFF)
    assert decoded(Delay(NO_DELAY, duplication=1.0)).get_attr("TCA_OPTIONS")["duplicate"] == 0xFFFFFFFF
    rate = decoded(Transmission(125_000)).get_attr("TCA_OPTIONS").get_attr("TCA_NETEM_RATE")
    assert rate["rate"] == 125_000


def test_the_queue_is_a_bucket_in_bytes() -> None:
    options = decoded(Queue(125_000, 2764, 25_000)).get_attr("TCA_OPTIONS")
    parameters = options.get_attr("TCA_TBF_PARMS")
    assert parameters["rate"] == 125_000
    assert parameters["limit"] == 25_000
    assert parameters["peak"] == 0
    found = attributes(Queue(125_000, 2764, 25_000).options(0))
    assert found[4] == struct.pack("=Q", 125_000)
    assert found[6] == struct.pack("=I", 2764)


def test_rates_above_32_bits_have_a_second_field() -> None:
    rate = 5_000_000_000
    found = attributes(Transmission(rate).options(0), 24)
    assert found == {6: struct.pack("=IiIi", 0xFFFFFFFF, 0, 0, 0), 8: struct.pack("=Q", rate)}
    assert struct.unpack_from("=I", attributes(Queue(rate, 1, 1).options(0))[1], 8) == (0xFFFFFFFF,)


def test_gilbert_elliott_is_a_nested_attribute_with_the_kernels_h() -> None:
    chances = GilbertElliottChances(p=0.125, r=0.5, loss_in_bad=0.75, loss_in_good=0.0)
    found = attributes(Loss(model=chances, ecn=True).options(9), 24)
    # sch_netem.c drops in the bad state where a random number is above h, which is 1 - loss_in_bad.
    ge = struct.pack("=HHIIII", 20, 2, 0x20000000, 0x80000000, 0x40000000, 0)
    assert found == {
        4: struct.pack("=II", 0, 0),
        5: ge,
        7: struct.pack("=I", 1),
        14: struct.pack("=Q", 9),
    }


def test_independent_loss_has_no_model_so_that_the_one_before_ends() -> None:
    found = attributes(Loss(chance=1.0).options(0), 24)
    assert set(found) == {4, 7, 14}
    assert struct.unpack_from("=6I", Loss(chance=1.0).options(0)) == (0, 1_000_000, 0xFFFFFFFF, 0, 0, 0)


@pytest.mark.parametrize(
    ("table", "kinds"),
    [(NO_DELAY, {10, 11, 14}), (DelayTable(5, 7, b"\1\0\2\0"), {2, 10, 11, 14})],
    ids=["constant", "by table"],
)
def test_delays_are_in_nanoseconds_and_always_mentioned(table: DelayTable, kinds: set[int]) -> None:
    found = attributes(Delay(table).options(3), 24)
    assert set(found) == kinds
    assert found[10] == struct.pack("=q", table.latency_ns)
    assert found[11] == struct.pack("=q", table.jitter_ns)
    assert found.get(2, b"") == table.entries


def test_holding_is_action_0_and_releasing_2() -> None:
    assert Hold(True).options(0)[:4] == bytes(4)
    assert Hold(False).options(0)[:4] == struct.pack("=i", 2)
