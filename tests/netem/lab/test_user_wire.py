"""The `user` link with real packets; how well it keeps its times is in test_calibrate.py."""

import contextlib
import os
import re
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from eloquent.errors import ConfigurationError
from netem import Cable, Impairment, Lab, LinkFailed, Outage, Scenario
from netem.capture import Record, read_capture
from netem.lab.host import Host
from netem.lab.user import tun
from netem.lab.user.wire import missing
from netem.link import LinkCounts

CLEAR = Impairment()
PORT = 4000
LIMIT_S = 10.0


def both_ways(impairment: Impairment, *outages: Outage) -> Scenario:
    return Scenario("test", up=impairment, down=impairment, outages=outages)


CLEAN = both_ways(CLEAR)


def udp_socket(host: Host, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    bound = host.namespace.call(socket.socket, family, socket.SOCK_DGRAM)
    bound.settimeout(LIMIT_S)
    bound.bind((address_of(host, family), PORT))
    return bound


def address_of(host: Host, family: socket.AddressFamily) -> str:
    return host.address if family == socket.AF_INET else host.address_v6


def send_numbered(source: socket.socket, target: socket.socket, number: int) -> None:
    for each in range(number):
        source.sendto(each.to_bytes(2), target.getsockname())


def counts_after(lab: Lab, sent: int, *, cable: int = 0) -> LinkCounts:
    """Those of the direction `up`, once so many packets have come to the link."""
    deadline = time.monotonic() + LIMIT_S
    while (counts := lab.counts(cable)["up"]).sent < sent and time.monotonic() < deadline:
        time.sleep(0.002)
    assert counts.sent == sent
    return counts


async def received_before_a_marker(lab: Lab, source: socket.socket, target: socket.socket) -> list[int]:
    """The numbers that have come, of a link without delay."""
    await lab.play(seed=0, scenario=CLEAN)
    source.sendto(b"marker", target.getsockname())
    numbers = []
    while (datagram := target.recv(2000)) != b"marker":
        numbers.append(int.from_bytes(datagram))
    return numbers


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
async def test_datagrams_pass_in_both_directions(family: socket.AddressFamily) -> None:
    async with Lab(CLEAN, name="test_user_both", backend="user") as lab:
        with (
            udp_socket(lab.host("client"), family) as client,
            udp_socket(lab.host("server"), family) as server,
        ):
            for size in (1, 1400, 4000):  # the last in fragments
                client.sendto(bytes(size), server.getsockname())
                datagram, source = server.recvfrom(5000)
                assert datagram == bytes(size)
                server.sendto(datagram, source)
                assert client.recv(5000) == bytes(size)
        counts = lab.counts()
    assert counts["up"] == counts["down"]
    headers = 28 if family == socket.AF_INET else 48
    assert counts["up"].sent == 5
    assert counts["up"].sent_bytes >= 1 + 1400 + 4000 + 5 * (headers - 8)
    # Also after the end.
    assert lab.counts() == counts


async def test_full_loss_drops_all() -> None:
    async with Lab(both_ways(Impairment(loss=1.0)), name="test_user_loss", backend="user") as lab:
        with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
            send_numbered(client, server, 100)
            assert counts_after(lab, 100).dropped_by_loss == 100
            assert await received_before_a_marker(lab, client, server) == []


async def test_one_seed_means_one_fate_for_each_packet() -> None:
    scenario = both_ways(Impairment(loss=0.3))
    async with Lab(scenario, name="test_user_seed", backend="user") as lab:
        with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
            arrived = []
            for seed in (5, 5, 6):
                await lab.play(seed=seed)
                send_numbered(client, server, 200)
                delivered = counts_after(lab, 200).delivered
                arrived.append(await received_before_a_marker(lab, client, server))
                assert len(arrived[-1]) == delivered
    assert arrived[0] == arrived[1] != arrived[2]


@pytest.mark.parametrize("held", [True, False], ids=["held", "dropped"])
async def test_an_outage_holds_or_drops(held: bool) -> None:
    scenario = both_ways(CLEAR, Outage(0.0, 0.5, held=held))
    async with Lab(CLEAN, name="test_user_outage", backend="user") as lab:
        with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
            begins_at = await lab.play(seed=1, scenario=scenario)
            send_numbered(client, server, 20)
            counts = counts_after(lab, 20)
            if held:
                assert [int.from_bytes(server.recv(100)) for _ in range(20)] == list(range(20))
                assert time.monotonic() >= begins_at + 0.5
            else:
                assert counts.dropped_by_outage == 20
                assert await received_before_a_marker(lab, client, server) == []


async def test_checksums_catch_what_was_corrupted() -> None:
    async with Lab(both_ways(Impairment(corruption=1.0)), name="test_user_corrupt", backend="user") as lab:
        with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
            send_numbered(client, server, 300)
            assert counts_after(lab, 300).corrupted == 300
            assert await received_before_a_marker(lab, client, server) == []


async def test_duplicates_arrive_twice() -> None:
    async with Lab(both_ways(Impairment(duplication=1.0)), name="test_user_twice", backend="user") as lab:
        with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
            send_numbered(client, server, 20)
            assert counts_after(lab, 20).duplicated == 20
            arrived = await received_before_a_marker(lab, client, server)
    assert Counter(arrived) == dict.fromkeys(range(20), 2)


@pytest.mark.parametrize(
    ("family", "level", "set_class", "ask_class"),
    [
        (socket.AF_INET, socket.IPPROTO_IP, socket.IP_TOS, socket.IP_RECVTOS),
        (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS),
    ],
    ids=["v4", "v6"],
)
async def test_a_receiver_sees_marks(
    family: socket.AddressFamily, level: int, set_class: int, ask_class: int
) -> None:
    marking = both_ways(Impairment(loss=1.0, ecn=True))
    async with Lab(marking, name="test_user_ecn", backend="user") as lab:
        with (
            udp_socket(lab.host("client"), family) as client,
            udp_socket(lab.host("server"), family) as server,
        ):
            server.setsockopt(level, ask_class, 1)
            client.sendto(b"not capable", server.getsockname())
            client.setsockopt(level, set_class, 2)
            client.sendto(b"capable", server.getsockname())
            datagram, ((_, _, traffic_class),), _, _ = server.recvmsg(100, 100)
        counts = lab.counts()["up"]
    assert datagram == b"capable"
    assert traffic_class[0] & 3 == 3
    assert (counts.marked, counts.delivered, counts.dropped_by_loss) == (1, 1, 1)


async def test_packets_under_way_keep_their_times_when_another_scenario_begins() -> None:
    async with Lab(both_ways(Impairment(delay_s=0.5)), name="test_user_play", backend="user") as lab:
        with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
            sent_at = time.monotonic()
            client.sendto(b"first", server.getsockname())
            counts_after(lab, 1)
            await lab.play(seed=1, scenario=CLEAN)
            client.sendto(b"second", server.getsockname())
            assert server.recv(100) == b"second"
            assert server.recv(100) == b"first"
            assert time.monotonic() >= sent_at + 0.5
            assert lab.counts()["up"].sent == 1


async def test_a_delay_of_many_centuries_does_not_end_the_link() -> None:
    # More than select(2) takes.
    async with Lab(both_ways(Impairment(delay_s=1e15)), name="test_user_late", backend="user") as lab:
        with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
            send_numbered(client, server, 1)
            assert counts_after(lab, 1).delivered == 1
            assert await received_before_a_marker(lab, client, server) == []


async def test_a_packet_that_is_shorter_than_its_header_does_not_end_the_link() -> None:
    async with Lab(both_ways(Impairment(loss=1.0, ecn=True)), name="test_user_short", backend="user") as lab:
        client = lab.host("client")
        # Packets as they are, of the type of IPv4 (0x0800).
        raw = client.namespace.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM)
        with raw:
            raw.sendto(b"\x45", (client.attachments[0].interface, 0x0800))
            assert counts_after(lab, 1).dropped_by_loss == 1


async def test_two_wires_do_not_disturb_each_other() -> None:
    cables = [Cable(both_ways(Impairment(loss=1.0)), "client", "lossy"), Cable(CLEAN, "client", "clean")]
    async with Lab(cables, name="test_user_two", backend="user") as lab:
        with udp_socket(lab.host("lossy")) as lossy, udp_socket(lab.host("clean")) as clean:
            source = lab.host("client").namespace.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
            with source:
                send_numbered(source, lossy, 20)
                send_numbered(source, clean, 30)
            assert counts_after(lab, 20, cable=0).dropped_by_loss == 20
            assert counts_after(lab, 30, cable=1).delivered == 30
            assert [int.from_bytes(clean.recv(100)) for _ in range(30)] == list(range(30))


async def test_a_recording_has_what_was_counted(tmp_path: Path) -> None:
    path = tmp_path / "both.pcapng"
    bad = Impairment(delay_s=0.002, loss=0.2, duplication=0.3, rate_bps=1e5, queue_s=0.02)
    before = time.time()
    lab = Lab(both_ways(bad, Outage(0.0, 600.0, loss=0.3)), name="test_user_record", capture=path)
    async with lab:
        with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
            send_numbered(client, server, 300)
            send_numbered(server, client, 100)
            recorded = records_of_all(lab, path, sent=400)
        counts = lab.counts()
    records = list(read_capture(path))
    assert len(records) == recorded
    assert [each.time for each in records] == sorted(each.time for each in records)
    assert before <= records[0].time <= records[-1].time <= time.time()
    for interface, other, counted in [
        ("client", "server", counts["up"]),
        ("server", "client", counts["down"]),
    ]:
        entered = [each for each in records if each.interface == interface and each.comment]
        left = [each for each in records if each.interface == other and not each.comment]
        assert Counter(fate_of(each) for each in entered) == {
            "delivered": counted.delivered,
            "dropped: loss": counted.dropped_by_loss,
            "dropped: queue": counted.dropped_by_queue,
            "dropped: outage": counted.dropped_by_outage,
        }
        assert min(counted.delivered, counted.dropped_by_queue, counted.duplicated) > 0
        copies = Counter(
            {each.packet: each.comment.count(" ms") for each in entered if " ms" in each.comment}
        )
        assert Counter(each.packet for each in left) == copies
        assert copies.total() == counted.delivered + counted.duplicated
        assert sum(len(each.packet) for each in entered) == counted.sent_bytes


def records_of_all(lab: Lab, path: Path, *, sent: int) -> int:
    """How many records there are, once so many packets have come and all copies have left."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        counts = lab.counts().values()  # this also empties the buffer of what writes the file
        wanted = sum(each.sent + each.delivered + each.duplicated for each in counts)
        if sum(each.sent for each in counts) == sent and len(list(read_capture(path))) == wanted:
            return wanted
    raise AssertionError(f"the recording is not complete after {LIMIT_S} s")


def fate_of(record: Record) -> str:
    """What its comment says, durations left out."""
    return re.sub(r"(, [\d.]+ ms)+", "", record.comment)


async def test_a_full_disk_ends_the_recording_and_not_the_link() -> None:
    lab = Lab(CLEAN, name="test_user_full", backend="user", capture=Path("/dev/full"))

    async def use() -> None:
        async with lab:
            with udp_socket(lab.host("client")) as client, udp_socket(lab.host("server")) as server:
                for sent in range(1, 4):
                    send_numbered(client, server, 1)
                    assert server.recv(100) == b"\0\0"
                    assert lab.counts()["up"].delivered == sent  # a report writes what is recorded

    with pytest.raises(LinkFailed, match="/dev/full is incomplete: No space left on device"):
        await use()
    assert lab.counts()["up"].delivered == 3


async def test_a_file_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "both.pcapng"
    with pytest.raises(ConfigurationError, match=r"both\.pcapng': No such file or directory"):
        async with Lab(CLEAN, name="test_user_nofile", backend="user", capture=path):
            pass


@pytest.mark.parametrize("has_reader", [False, True], ids=["unread", "read"])
async def test_a_pipe_is_refused_as_its_reader_could_hold_the_link_up(
    tmp_path: Path, has_reader: bool
) -> None:
    path = tmp_path / "pipe.pcapng"
    os.mkfifo(path)
    with contextlib.ExitStack() as opened:
        if has_reader:
            opened.callback(os.close, os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        with pytest.raises(
            ConfigurationError, match=r"pipe\.pcapng': it is neither a regular file nor a dev"
        ):
            async with Lab(CLEAN, name="test_user_pipe", backend="user", capture=path):
                pass


def test_what_is_missing_is_said_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == []
    monkeypatch.setattr(tun, "_CLONE", tmp_path / "tun")
    (sentence,) = missing()
    assert re.search(r"tun is missing; run `modprobe tun`", sentence)
    (tmp_path / "tun").mkdir()
    (sentence,) = missing()
    assert "cannot be opened (Is a directory)" in sentence
