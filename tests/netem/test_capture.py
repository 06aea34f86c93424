"""Recordings: what is written is read again, by this package and by others."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from netem.capture import CaptureWriter, Record, read_capture

ENDS = ("client", "server")
ECHO = bytes.fromhex("4500001c0000000040016699 0a4d0001 0a4d0002 0800f7ff00000000")
ECHO_V6 = (
    bytes.fromhex("6000000000083a40")
    + bytes(15)
    + b"\1"
    + bytes(15)
    + b"\2"
    + bytes.fromhex("80007fb900000000")
)

records = st.builds(
    Record,
    time=st.integers(0, 2**31).map(float),
    interface=st.sampled_from(ENDS),
    packet=st.binary(min_size=1, max_size=70),
    comment=st.text(max_size=40),
)


def write(path: Path, wanted: list[Record]) -> None:
    with path.open("wb") as file:
        writer = CaptureWriter(file, ENDS)
        for each in wanted:
            writer.write(ENDS.index(each.interface), each.packet, each.comment, time=each.time)


@given(wanted=st.lists(records, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path: Path, wanted: list[Record]) -> None:
    path = tmp_path / "records.pcapng"
    write(path, wanted)
    assert list(read_capture(path)) == wanted


def test_times_are_exact_to_the_microsecond(tmp_path: Path) -> None:
    path = tmp_path / "times.pcapng"
    write(path, [Record(1_800_000_000.123456, "server", ECHO, "")])
    (record,) = read_capture(path)
    assert record.time == pytest.approx(1_800_000_000.123456, abs=1e-6)


def test_a_file_that_was_cut_is_told_from_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcapng"
    record = Record(1.0, "client", ECHO, "delivered, 25.0 ms")
    write(path, [record])
    size_of_one = path.stat().st_size
    write(path, [record] * 2)
    whole = path.read_bytes()
    for missing in (1, 4, 5, len(whole) - size_of_one - 1):
        path.write_bytes(whole[:-missing])
        reading = read_capture(path)
        assert next(reading).packet == ECHO
        with pytest.raises(ConfigurationError, match=r"cut\.pcapng ends within a packet"):
            next(reading)


@pytest.mark.parametrize(
    "content", [b"", b"\xd4\xc3\xb2\xa1" + bytes(20), b"text"], ids=["empty", "pcap", "text"]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a little-endian pcapng"):
        list(read_capture(path))


def test_the_writer_lets_errors_of_the_file_through() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        CaptureWriter(full, ENDS)


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
def test_tcpdump_reads_both_ends_and_both_families(tmp_path: Path) -> None:
    path = tmp_path / "both.pcapng"
    write(path, [Record(1.0, "client", ECHO, "dropped: loss"), Record(2.0, "server", ECHO_V6, "")])
    printed = subprocess.run(["tcpdump", "-n", "-r", path], capture_output=True, text=True, check=True).stdout
    first, second = printed.splitlines()
    assert "IP 10.77.0.1 > 10.77.0.2: ICMP echo request" in first
    assert "IP6 ::1 > ::2: ICMP6, echo request" in second
