"""The recorded datagrams, opened with the tables of docs/protocol.md alone, follow its rules."""

import hashlib
import io
import json
import re
import runpy
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parents[1] / "vectors"

ONE_WAY = 0.025
"""Seconds that a datagram of the recording is under way."""

PYTHON_TYPES: dict[str, type] = {"int": int, "str": str, "any": object}


def with_hexadecimal(frame: dict[str, Any]) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in frame.items()}


def test_every_datagram_opens_to_the_frames_beside_it(any_recording: Any) -> None:
    for opened in any_recording.datagrams:
        if "refusal" in opened.recorded:
            assert list(opened.plaintext) == [opened.recorded["refusal"]]
        else:
            assert [with_hexadecimal(frame) for frame in opened.frames] == opened.recorded["frames"]


def test_the_frames_written_out_on_the_page(tables: Any, recording: Any) -> None:
    written = re.findall(r"^((?:[0-9a-f]{2} ){4,}[0-9a-f]{2})\b", tables.text, re.MULTILINE)
    frames = [recording.decoder.frames(bytes.fromhex(line)) for line in written]
    entries = [[0, 50, 262194]]
    ack = {"frame": "ACK", "largest": 12, "delay_us": 20_000, "missing": 0, "streams": entries}
    assert frames == [
        [{"frame": "TOKENS", "stream": 0, "base": 40, "data": b"efg"}],
        [ack | {"connection_limit": 1_572_864}],
    ]


def test_the_recording_is_what_the_library_does_now() -> None:
    recorded = json.loads((VECTORS / "datagrams.json").read_text())
    assert runpy.run_path(str(VECTORS / "record.py"))["datagram_vectors"]() == recorded


def test_every_kind_and_every_frame_is_in_a_recording(
    tables: Any, recording: Any, other_recording: Any, refused_recording: Any
) -> None:
    opened = recording.datagrams + other_recording.datagrams + refused_recording.datagrams
    assert {datagram.kind for datagram in opened} == {row["name"] for row in tables["Kinds"]}
    frames = {frame["frame"] for datagram in opened for frame in datagram.frames}
    assert frames == {row["name"] for row in tables["Frame types"]}


def test_frames_come_from_the_side_that_may_send_them(tables: Any, any_recording: Any) -> None:
    allowed = {row["name"]: row["from"] for row in tables["Frame types"]}
    for opened in any_recording.datagrams:
        for frame in opened.frames:
            assert allowed[frame["frame"]] in ("both", opened.sender)


def code_of(tables: Any, heading: str, name: str) -> int:
    return next(int(row["code"]) for row in tables[heading] if row["name"] == name)


def test_packet_numbers_follow_one_sequence_across_all_kinds_and_keys(any_recording: Any) -> None:
    for sender in ("client", "server"):
        for connection in any_recording.connections:
            sent = [
                opened
                for opened in any_recording.datagrams
                if (opened.sender, opened.fields["connection"]) == (sender, connection)
                and opened.kind != "REFUSED"
            ]
            numbers = [opened.number for opened in sent]
            assert numbers == sorted(set(numbers))
            # Later on, an hour of PINGs is left out of the record.
            before = [number for number, opened in zip(numbers, sent, strict=True) if opened.at < 6]
            assert before == list(range(len(before)))


def test_sizes_and_padding(any_recording: Any) -> None:
    for opened in any_recording.datagrams:
        assert len(opened.datagram) <= 1200
        if opened.kind == "INITIAL":
            assert len(opened.datagram) == 1200
        elif opened.kind == "REFUSED":
            assert len(opened.datagram) == 42
        elif opened.has("TOKENS", "RESET"):
            assert len(opened.plaintext) % 64 == 0 or len(opened.datagram) == 1200
        else:
            assert opened.plaintext[0] != 0


def read_events(tables: Any, log: bytes) -> list[Any]:
    """The log's events by the table: text as it is, the others as (name, fields)."""
    events = list[Any]()
    for value in msgpack.Unpacker(io.BytesIO(log)):
        if isinstance(value, (str, bytes)):
            events.append(value)
            continue
        row = next(row for row in tables["Events"] if row["kind"] == str(value[0]))
        fields = re.findall(r"`(\w+): (\w+)`", row["fields"])
        named = dict(zip([name for name, _ in fields], value[1:], strict=True))
        assert all(isinstance(named[name], PYTHON_TYPES[kind]) for name, kind in fields)
        events.append((row["name"], named))
    return events


def test_a_whole_turn_reads_as_it_was_written(tables: Any, recording: Any) -> None:
    assert read_events(tables, recording.log("client", 0)) == [
        ("ROLE", {"role": "user"}),
        "Why is the sky blue? Répondez…",
    ]
    events = read_events(tables, recording.log("server", 0))
    text = [
        event.encode() if isinstance(event, str) else event
        for event in events
        if not isinstance(event, tuple)
    ]
    assert b"".join(text).decode() == "Rayleigh scattering: — bleu"
    assert [event for event in events if isinstance(event, tuple)] == [
        ("ROLE", {"role": "assistant"}),
        ("REASONING", {"text": "Short waves scatter more."}),
        ("TOOL_CALL", {"index": 0, "id": "call-1", "name": "spectrum", "arguments": '{"nm": 450}'}),
        ("CUSTOM", {"name": "source", "data": {"page": 7, "score": 0.5}}),
        ("USAGE", {"prompt_tokens": 21, "completion_tokens": 9}),
        ("FINISH", {"reason": "stop"}),
    ]


def test_each_fin_has_the_length_and_the_digest_of_its_log(any_recording: Any) -> None:
    for sender in ("client", "server"):
        for frame in any_recording.frames(sender, "TOKENS"):
            if "length" in frame:
                log = any_recording.log(sender, frame["stream"])
                assert frame["base"] + len(frame["data"]) == frame["length"] == len(log)
                assert frame["digest"] == int.from_bytes(hashlib.sha256(log).digest()[:8], "big")


def test_every_datagram_that_arrives_renders_alone(recording: Any) -> None:
    # One datagram of each of the first two turns was lost.
    assert [opened.recorded["arrived"] for opened in recording.datagrams].count(False) >= 2
    for stream in range(5):
        held = 0
        for frame in recording.tokens("server", stream):
            assert frame["base"] <= held
            held = max(held, frame["base"] + len(frame["data"]))


def test_acknowledgments_name_what_is_missing(recording: Any) -> None:
    connection = recording.connections[0]
    sent = [opened for opened in recording.datagrams if opened.fields["connection"] == connection]
    bitmaps = set[int]()
    for opened in sent:
        for ack in opened.frames:
            if ack["frame"] != "ACK":
                continue
            at, largest = opened.at, ack["largest"]
            arrived = {
                other.number
                for other in sent
                if other.sender != opened.sender
                and other.recorded["arrived"]
                # Of two that come at the same time, the first may be acknowledged alone.
                and (round(other.at + ONE_WAY, 6), other.number) <= (at, largest)
            }
            assert largest == max(arrived)
            before = range(largest - 1, max(largest - 65, -1), -1)
            assert ack["missing"] == sum(1 << i for i, number in enumerate(before) if number not in arrived)
            bitmaps.add(ack["missing"])
    assert len(bitmaps) > 3


@pytest.mark.parametrize(("sender", "receiver"), [("client", "server"), ("server", "client")])
def test_each_end_is_acknowledged_as_one_byte_more(
    recording: Any, other_recording: Any, sender: str, receiver: str
) -> None:
    for each in (recording, other_recording):
        frames = each.frames(sender, "TOKENS") + each.frames(sender, "RESET")
        ends = {frame["stream"]: frame["length"] for frame in frames if "length" in frame}
        acked = {entry[0]: entry[1] for ack in each.frames(receiver, "ACK") for entry in ack["streams"]}
        assert acked == {stream: length + 1 for stream, length in ends.items()}


def test_gap_fills_and_probes_ask_for_an_acknowledgment(recording: Any) -> None:
    sent = dict[tuple[str, int], int]()
    copies = 0
    for opened in recording.datagrams:
        for frame in opened.frames:
            if frame["frame"] == "TOKENS" and opened.fields["connection"] == recording.connections[0]:
                stop = frame["base"] + len(frame["data"]) + ("length" in frame)
                key = opened.sender, frame["stream"]
                has_new = stop > sent.get(key, 0)
                if not has_new and not opened.has("RESET"):
                    assert opened.fields["ack now"] == 1
                    copies += 1
                sent[key] = max(stop, sent.get(key, 0))
    assert copies > 5


def test_a_stop_is_answered_by_a_reset(tables: Any, recording: Any) -> None:
    stopped = {frame["stream"] for frame in recording.frames("client", "STOP")}
    resets = {frame["stream"]: frame for frame in recording.frames("server", "RESET")}
    assert stopped == set(resets) == {1}
    assert resets[1]["code"] == code_of(tables, "Reset codes", "STOPPED")


def test_both_addresses_are_challenged_and_the_new_one_answers(recording: Any) -> None:
    frames = [frame for opened in recording.datagrams for frame in opened.frames]
    challenges = {frame["data"] for frame in frames if frame["frame"] == "PATH_CHALLENGE"}
    assert len(challenges) == 2
    responses = {frame["data"] for frame in recording.frames("client", "PATH_RESPONSE")}
    assert len(responses) == 1
    assert responses < challenges


def bytes_held(recording: Any, stream: int, at: float) -> int:
    """What the client holds of an answer at that time."""
    came = [opened for opened in recording.arrived("server") if opened.at + ONE_WAY <= at]
    frames = [frame for opened in came for frame in opened.frames if frame["frame"] == "TOKENS"]
    return max(frame["base"] + len(frame["data"]) for frame in frames if frame["stream"] == stream)


def test_a_resumption(tables: Any, recording: Any) -> None:
    new = recording.connections[1]
    on_new = [opened for opened in recording.datagrams if opened.fields["connection"] == new]
    first = on_new[0]
    assert (first.kind, first.number) == ("INITIAL", 0)
    assert not first.has("TOKENS")
    (resume,) = [frame for frame in first.frames if frame["frame"] == "RESUME"]
    assert resume["offset"] == bytes_held(recording, resume["stream"], first.at) > 0
    frames = [frame for opened in on_new for frame in opened.frames]
    welcomes = {frame["next_stream"] for frame in frames if frame["frame"] == "WELCOME"}
    assert welcomes == {resume["stream"] + 1}
    (close,) = recording.frames("server", "CLOSE")
    assert close["code"] == code_of(tables, "Close codes", "SUPERSEDED")


def test_both_directions_change_their_keys(recording: Any) -> None:
    assert recording.decoder.updates == 2
    assert {opened.fields["key phase"] for opened in recording.datagrams[-20:]} == {1}


def test_a_used_ticket_is_refused(tables: Any, refused_recording: Any) -> None:
    refused = refused_recording.arrived("server")
    assert {opened.kind for opened in refused} == {"REFUSED"}
    assert {tuple(opened.plaintext) for opened in refused} == {(code_of(tables, "Refusal codes", "USED"),)}


def test_sealed_tickets(recording: Any) -> None:
    recorded = json.loads((VECTORS / "datagrams.json").read_text())
    keys = {bytes.fromhex(key_id): bytes.fromhex(key) for key_id, key in recorded["sealing_keys"]}
    kinds = []
    for sealed, ticket in recording.decoder.tickets.items():
        key_id, nonce, ciphertext = sealed[:4], sealed[4:16], sealed[16:]
        plaintext = AESGCM(keys[key_id]).decrypt(nonce, ciphertext, key_id)
        opened = recording.decoder.read_array("Sealed ticket", plaintext)
        assert all(opened[name] == ticket[name] for name in ("format", "id", "secret", "aead", "lifetime"))
        assert opened["claims"] == {"sub": "user-17"}
        assert len(opened["group"]) == (16 if opened["kind"] else 0)
        kinds.append((opened["kind"], opened["lifetime"]))
    # One for first use, then one on each connection.
    assert kinds == [(0, 60.0), (1, 86_400.0), (1, 86_400.0)]
