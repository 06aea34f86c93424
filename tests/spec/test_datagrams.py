"""Opens the recorded datagrams with the tables of docs/protocol.md and nothing of the library.

The decoder knows what a client has: its ticket and its private keys. Sizes, fields, labels, kinds
and types come from the page; only HMAC, X25519, the AEADs and MessagePack come from elsewhere.
"""

import base64
import hashlib
import hmac
import io
import json
import re
import runpy
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

VECTORS = Path(__file__).parents[1] / "vectors"
RECORDED = json.loads((VECTORS / "datagrams.json").read_text())
CLIENTS: dict[str, dict[str, Any]] = {client["name"]: client for client in RECORDED["clients"]}

ONE_WAY = 0.025
"""Seconds that a datagram of the recording is under way."""

CIPHERS = {"AES-128-GCM": AESGCM, "ChaCha20-Poly1305": ChaCha20Poly1305}
INTEGERS = {"integer": 2**62, "32-bit integer": 2**32, "64-bit integer": 2**64}
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "float": (float,), "map": (dict,), "bytes": (bytes,),
    "16 bytes": (bytes,), "32 bytes": (bytes,), "address": (list, type(None)),
    "int": (int,), "str": (str,), "any": (object,),
}  # fmt: skip

Frame = dict[str, Any]


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def read_array(rows: list[dict[str, str]], data: bytes) -> dict[str, Any]:
    """A MessagePack array whose elements are the rows of a table with `field` and `type`."""
    values = msgpack.unpackb(data)
    named = {row["field"]: value for row, value in zip(rows, values, strict=True)}
    for row in rows:
        assert type(named[row["field"]]) in TYPES[row["type"]], row
        size = re.match(r"(\d+) bytes", row["type"])
        assert size is None or len(named[row["field"]]) == int(size[1])
    return named


def read_text_form(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Decoder:
    """One client's view: it opens both what the client sent and what it got."""

    def __init__(self, tables: Any, client: dict[str, Any]) -> None:
        self._tables = tables
        self._privates = [bytes.fromhex(key) for key in client["client_private_keys"]]
        ticket = read_array(tables["Ticket"], read_text_form(client["ticket"]))
        self.tickets = {ticket["sealed"]: ticket}
        self._flights: dict[bytes, dict[str, Any]] = {}
        self._secrets: dict[bytes, tuple[int, bytes, str]] = {}
        """Phase, traffic secret and AEAD, by the connection ID in the header."""
        self._clients: dict[bytes, bytes] = {}
        """The client's connection ID by the server's."""
        self.updates = 0

    def open(self, datagram: bytes) -> tuple[dict[str, Any], bytes]:
        """The header's and clear part's fields, and the plaintext."""
        fields, start = self._cut(datagram, self._tables["Header"], 0)
        (first,) = fields["first byte"]
        for row in self._tables["First byte"]:
            high, _, low = row["bits"].partition("-")
            low = low or high
            fields[row["field"]] = first >> int(low) & (2 << int(high) - int(low)) - 1
        kind = self._row("Kinds", "kind", str(fields["kind"]))
        fields["kind"] = kind["name"]
        clear = self._tables[kind["name"]]
        more, end = self._cut(datagram, clear, start)
        authenticated = all(row["associated data"] != "no" for row in clear)
        aad = datagram[: end if authenticated else start]
        fields |= more
        plaintext = self._decrypt(fields, aad, datagram[end:])
        destination = fields["connection ID"]
        fields["connection"] = self._clients.get(destination, destination)
        return fields, plaintext

    def _row(self, heading: str, column: str, value: str) -> dict[str, str]:
        return next(row for row in self._tables[heading] if row[column] == value)

    def _cut(self, data: bytes, rows: list[dict[str, str]], start: int) -> tuple[dict[str, Any], int]:
        """Fields one after the other; a size may be the value of an earlier field."""
        fields: dict[str, Any] = {}
        for row in rows:
            if row["size"] == "rest":
                break
            size = int(row["size"]) if row["size"].isdigit() else int.from_bytes(fields[row["size"]], "big")
            fields[row["field"]] = data[start : start + size]
            start += size
        return fields, start

    def _decrypt(self, fields: dict[str, Any], aad: bytes, ciphertext: bytes) -> bytes:
        destination = fields["connection ID"]
        if fields["kind"] == "INITIAL":
            self._learn_flight(fields)
            flight = self._flights[destination]
            secret, aead = self._derive("c0", flight), flight["aead"]
        elif fields["kind"] == "REFUSED":
            flight = self._flights[destination]
            cipher = CIPHERS[flight["aead"]](self._derive("refused", flight))
            return cipher.decrypt(fields["nonce"], ciphertext, aad)
        else:
            if fields["kind"] == "REPLY":
                self._learn_session(fields)
            secret, aead = self._current(destination, fields["key phase"])
        cipher = CIPHERS[aead](self._expand(secret, "key", aead))
        iv = int.from_bytes(self._expand(secret, "iv", aead), "big")
        nonce = iv ^ int.from_bytes(fields["packet number"], "big")
        return cipher.decrypt(nonce.to_bytes(12, "big"), ciphertext, aad)

    def _learn_flight(self, fields: dict[str, Any]) -> None:
        ticket = self.tickets[fields["sealed ticket"]]
        share = fields["client share"]
        known = {
            "client share": share,
            "ticket secret": ticket["secret"],
            "sealed": ticket["sealed"],
            "aead": self._row("AEADs", "number", str(ticket["aead"]))["name"],
        }
        assert self._flights.setdefault(fields["connection ID"], known) == known

    def _learn_session(self, fields: dict[str, Any]) -> None:
        client_id, server_id = fields["connection ID"], fields["server connection ID"]
        flight = self._flights[client_id]
        if server_id in self._secrets:
            return
        self._clients[server_id] = client_id
        privates = map(X25519PrivateKey.from_private_bytes, self._privates)
        (own,) = [key for key in privates if key.public_key().public_bytes_raw() == flight["client share"]]
        result = own.exchange(X25519PublicKey.from_public_bytes(fields["server share"]))
        known = flight | {"server share": fields["server share"], "X25519 result": result}
        self._secrets[server_id] = (0, self._derive("c1", known), flight["aead"])
        self._secrets[client_id] = (0, self._derive("s1", known), flight["aead"])

    def _current(self, destination: bytes, phase: int) -> tuple[bytes, str]:
        known, secret, aead = self._secrets[destination]
        if phase != known:
            secret = self._expand(secret, "next", aead)
            self._secrets[destination] = phase, secret, aead
            self.updates += 1
        return secret, aead

    def _derive(self, name: str, known: dict[str, Any]) -> bytes:
        root = self._row("Roots", "name", self._row("Labels", "name", name)["from"])
        salt, inputs = (b"".join(known[part] for part in root[column].split(", ")) for column in ("salt", "input"))
        return self._expand(hmac_sha256(salt, inputs), name, known["aead"], sealed=known["sealed"])

    def _expand(self, secret: bytes, name: str, aead: str, *, sealed: bytes = b"") -> bytes:
        label = self._row("Labels", "name", name)
        cipher = self._row("AEADs", "name", aead)
        version = int(self._row("First byte", "field", "version")["meaning"])
        info = label["label"].strip("`").encode()
        if label["context"] == "yes":
            info += bytes([version, int(cipher["number"])]) + hashlib.sha256(sealed).digest()
        size = cipher["key size"] if label["size"] == "key size" else label["size"]
        return hmac_sha256(secret, info + b"\x01")[: int(size)]

    def frames(self, plaintext: bytes) -> list[Frame]:
        frames = [self._frame(item) for item in msgpack.unpackb(plaintext.lstrip(b"\0"))]
        for frame in frames:
            if frame["frame"] == "TICKET":
                ticket = read_array(self._tables["Ticket"], frame["ticket"])
                self.tickets[ticket["sealed"]] = ticket
        return frames

    def _frame(self, item: list[Any]) -> Frame:
        name = self._row("Frame types", "type", str(item.pop(0)))["name"]
        frame: Frame = {"frame": name}
        for row in self._tables["Frame fields"]:
            if row["frame"] != name:
                continue
            if row["type"] == "entries":
                frame[row["field"]] = []
                while item and isinstance(item[0], list):
                    frame[row["field"]].append(item.pop(0))
            elif row["present"] == "always" or item:
                frame[row["field"]] = self._field(row["type"], item.pop(0))
        assert item == [], f"{name} has more fields than the page says"
        return frame

    def _field(self, kind: str, value: Any) -> Any:
        if kind in INTEGERS:
            assert type(value) is int
            assert 0 <= value < INTEGERS[kind]
        elif kind == "text":
            assert type(value) is str
        else:
            assert type(value) is bytes
            assert kind in ("bytes", f"{len(value)} bytes")
        return value


class Opened:
    """A recorded datagram and what the decoder made of it."""

    def __init__(self, decoder: Decoder, recorded: dict[str, Any]) -> None:
        self.recorded = recorded
        self.sender = recorded["from"]
        self.datagram = bytes.fromhex(recorded["datagram"])
        self.fields, self.plaintext = decoder.open(self.datagram)
        is_refusal = self.fields["kind"] == "REFUSED"
        self.frames = [] if is_refusal else decoder.frames(self.plaintext)

    def has(self, *names: str) -> bool:
        return any(frame["frame"] in names for frame in self.frames)


class Recording:
    """All datagrams of one client, both ways, in the order in which they were sent."""

    def __init__(self, tables: Any, name: str) -> None:
        self.decoder = Decoder(tables, CLIENTS[name])
        self.datagrams = [Opened(self.decoder, recorded) for recorded in CLIENTS[name]["datagrams"]]
        self.connections = list(dict.fromkeys(opened.fields["connection"] for opened in self.datagrams))

    def arrived(self, sender: str) -> list[Opened]:
        return [opened for opened in self.datagrams if opened.sender == sender and opened.recorded["arrived"]]

    def frames(self, sender: str, name: str) -> list[Frame]:
        """The frames of that type which arrived from that side."""
        frames = [frame for opened in self.arrived(sender) for frame in opened.frames]
        return [frame for frame in frames if frame["frame"] == name]

    def tokens(self, sender: str, stream: int) -> list[Frame]:
        return [frame for frame in self.frames(sender, "TOKENS") if frame["stream"] == stream]

    def log(self, sender: str, stream: int) -> bytes:
        """The log of that side from what arrived, in order of offsets."""
        log = b""
        for frame in sorted(self.tokens(sender, stream), key=lambda frame: frame["base"]):
            assert frame["base"] <= len(log), "a hole stays"
            log += frame["data"][len(log) - frame["base"] :]
        return log


@pytest.fixture(scope="module", params=list(CLIENTS))
def any_recording(tables: Any, request: pytest.FixtureRequest) -> Recording:
    return Recording(tables, request.param)


@pytest.fixture(scope="module")
def recording(tables: Any) -> Recording:
    return Recording(tables, "a conversation")


def with_hexadecimal(frame: Frame) -> Frame:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in frame.items()}


def test_every_datagram_opens_to_the_frames_beside_it(any_recording: Recording) -> None:
    for opened in any_recording.datagrams:
        if "refusal" in opened.recorded:
            assert list(opened.plaintext) == [opened.recorded["refusal"]]
        else:
            assert [with_hexadecimal(frame) for frame in opened.frames] == opened.recorded["frames"]


def test_the_recording_is_what_the_library_does_now() -> None:
    assert runpy.run_path(str(VECTORS / "record.py"))["datagram_vectors"]() == RECORDED


def test_every_kind_and_every_frame_is_in_the_recording(tables: Any) -> None:
    recordings = [Recording(tables, name) for name in CLIENTS]
    opened = [datagram for recording in recordings for datagram in recording.datagrams]
    assert {datagram.fields["kind"] for datagram in opened} == {row["name"] for row in tables["Kinds"]}
    frames = {frame["frame"] for datagram in opened for frame in datagram.frames}
    assert frames == {row["name"] for row in tables["Frame types"]}


def test_frames_come_from_the_side_that_may_send_them(tables: Any, any_recording: Recording) -> None:
    allowed = {row["name"]: row["from"] for row in tables["Frame types"]}
    for opened in any_recording.datagrams:
        for frame in opened.frames:
            assert allowed[frame["frame"]] in ("both", opened.sender)


def code_of(tables: Any, heading: str, name: str) -> int:
    return next(int(row["code"]) for row in tables[heading] if row["name"] == name)


def number_of(opened: Opened) -> int:
    return int.from_bytes(opened.fields["packet number"], "big")


def test_packet_numbers_follow_one_sequence_across_all_kinds_and_keys(any_recording: Recording) -> None:
    for sender in ("client", "server"):
        for connection in any_recording.connections:
            sent = [
                opened
                for opened in any_recording.datagrams
                if (opened.sender, opened.fields["connection"]) == (sender, connection)
                and opened.fields["kind"] != "REFUSED"
            ]
            numbers = [number_of(opened) for opened in sent]
            assert numbers == sorted(set(numbers))
            # An hour of keep-alives is left out of the record.
            before = [number for number, opened in zip(numbers, sent, strict=True) if opened.recorded["at"] < 6]
            assert before == list(range(len(before)))


def test_sizes_and_padding(any_recording: Recording) -> None:
    for opened in any_recording.datagrams:
        assert len(opened.datagram) <= 1200
        if opened.fields["kind"] == "INITIAL":
            assert len(opened.datagram) == 1200
        elif opened.fields["kind"] == "REFUSED":
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
        assert all(isinstance(named[name], TYPES[kind]) for name, kind in fields)
        events.append((row["name"], named))
    return events


def test_a_whole_turn_reads_as_it_was_written(tables: Any, recording: Recording) -> None:
    assert read_events(tables, recording.log("client", 0)) == [
        ("ROLE", {"role": "user"}),
        "Why is the sky blue? Un mot, s’il te plaît.",
    ]
    events = read_events(tables, recording.log("server", 0))
    text = [event.encode() if isinstance(event, str) else event for event in events if not isinstance(event, tuple)]
    assert b"".join(text).decode() == "Rayleigh scattering: — bleu"
    assert [event for event in events if isinstance(event, tuple)] == [
        ("ROLE", {"role": "assistant"}),
        ("REASONING", {"text": "Short waves scatter more."}),
        ("TOOL_CALL", {"index": 0, "id": "call-1", "name": "spectrum", "arguments": '{"nm": 450}'}),
        ("CUSTOM", {"name": "source", "data": {"page": 7, "score": 0.5}}),
        ("USAGE", {"prompt_tokens": 21, "completion_tokens": 9}),
        ("FINISH", {"reason": "stop"}),
    ]


def test_each_fin_has_the_length_and_the_digest_of_its_log(any_recording: Recording) -> None:
    for sender in ("client", "server"):
        for frame in any_recording.frames(sender, "TOKENS"):
            if "length" in frame:
                log = any_recording.log(sender, frame["stream"])
                assert frame["base"] + len(frame["data"]) == frame["length"] == len(log)
                assert frame["digest"] == int.from_bytes(hashlib.sha256(log).digest()[:8], "big")


def test_every_datagram_that_arrives_renders_alone(recording: Recording) -> None:
    # One datagram of each of the first two turns was lost.
    assert [opened.recorded["arrived"] for opened in recording.datagrams].count(False) >= 2
    for stream in range(5):
        held = 0
        for frame in recording.tokens("server", stream):
            assert frame["base"] <= held
            held = max(held, frame["base"] + len(frame["data"]))


def test_acknowledgments_name_what_is_missing(recording: Recording) -> None:
    connection = recording.connections[0]
    sent = [opened for opened in recording.datagrams if opened.fields["connection"] == connection]
    bitmaps = set[int]()
    for opened in sent:
        for ack in opened.frames:
            if ack["frame"] != "ACK":
                continue
            at, largest = opened.recorded["at"], ack["largest"]
            arrived = {
                number_of(other)
                for other in sent
                if other.sender != opened.sender
                and other.recorded["arrived"]
                # Of two that come at the same time, the first may be acknowledged alone.
                and (other.recorded["at"] + ONE_WAY, number_of(other)) <= (at + 1e-6, largest)
            }
            assert largest == max(arrived)
            before = range(largest - 1, max(largest - 65, -1), -1)
            assert ack["missing"] == sum(1 << i for i, number in enumerate(before) if number not in arrived)
            bitmaps.add(ack["missing"])
    assert len(bitmaps) > 3


@pytest.mark.parametrize(("sender", "receiver"), [("client", "server"), ("server", "client")])
@pytest.mark.parametrize("name", ["a conversation", "ChaCha20-Poly1305"])
def test_each_end_is_acknowledged_as_one_byte_more(tables: Any, name: str, sender: str, receiver: str) -> None:
    recording = Recording(tables, name)
    frames = recording.frames(sender, "TOKENS") + recording.frames(sender, "RESET")
    ends = {frame["stream"]: frame["length"] for frame in frames if "length" in frame}
    acked = {entry[0]: entry[1] for ack in recording.frames(receiver, "ACK") for entry in ack["streams"]}
    assert acked == {stream: length + 1 for stream, length in ends.items()}


def test_gap_fills_and_probes_ask_for_an_acknowledgment(recording: Recording) -> None:
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


def test_a_stop_is_answered_by_a_reset(tables: Any, recording: Recording) -> None:
    stopped = {frame["stream"] for frame in recording.frames("client", "STOP")}
    resets = {frame["stream"]: frame for frame in recording.frames("server", "RESET")}
    assert stopped == set(resets) == {1}
    assert resets[1]["code"] == code_of(tables, "Reset codes", "STOPPED")


def test_a_challenge_is_sent_to_both_addresses_and_answered_from_one(recording: Recording) -> None:
    challenges = [
        frame["data"] for opened in recording.datagrams for frame in opened.frames if frame["frame"] == "PATH_CHALLENGE"
    ]
    assert len(set(challenges)) == 2
    responses = {frame["data"] for frame in recording.frames("client", "PATH_RESPONSE")}
    assert len(responses) == 1
    assert responses < set(challenges)


def test_a_resumption(tables: Any, recording: Recording) -> None:
    old, new = recording.connections
    (first, *_) = [opened for opened in recording.datagrams if opened.fields["connection"] == new]
    assert first.fields["kind"] == "INITIAL"
    assert number_of(first) == 0
    assert not first.has("TOKENS")
    (resume,) = [frame for frame in first.frames if frame["frame"] == "RESUME"]
    held = 0
    for opened in recording.arrived("server"):
        for frame in opened.frames:
            if frame["frame"] == "TOKENS" and frame["stream"] == resume["stream"]:
                if opened.recorded["at"] + ONE_WAY <= first.recorded["at"]:
                    held = frame["base"] + len(frame["data"])
    assert resume["offset"] == held
    welcomes = [
        frame for opened in recording.arrived("server") for frame in opened.frames
        if frame["frame"] == "WELCOME" and opened.fields["connection"] == new
    ]  # fmt: skip
    assert {frame["next_stream"] for frame in welcomes} == {resume["stream"] + 1}
    (close,) = recording.frames("server", "CLOSE")
    assert close["code"] == code_of(tables, "Close codes", "SUPERSEDED")


def test_both_directions_change_their_keys(recording: Recording) -> None:
    assert recording.decoder.updates == 2
    assert {opened.fields["key phase"] for opened in recording.datagrams[-20:]} == {1}


def test_a_used_ticket_is_refused(tables: Any) -> None:
    refused = [opened for opened in Recording(tables, "a used ticket").datagrams if opened.sender == "server"]
    assert {opened.fields["kind"] for opened in refused} == {"REFUSED"}
    assert {tuple(opened.plaintext) for opened in refused} == {(code_of(tables, "Refusal codes", "USED"),)}


def test_sealed_tickets(tables: Any, recording: Recording) -> None:
    keys = {bytes.fromhex(key_id): bytes.fromhex(key) for key_id, key in RECORDED["sealing_keys"]}
    kinds = []
    for sealed, ticket in recording.decoder.tickets.items():
        key_id, nonce, ciphertext = sealed[:4], sealed[4:16], sealed[16:]
        plaintext = AESGCM(keys[key_id]).decrypt(nonce, ciphertext, key_id)
        opened = read_array(tables["Sealed ticket"], plaintext)
        assert all(opened[name] == ticket[name] for name in ("format", "id", "secret", "aead", "lifetime"))
        assert opened["claims"] == {"sub": "user-17"}
        assert len(opened["group"]) == (16 if opened["kind"] else 0)
        kinds.append((opened["kind"], opened["lifetime"]))
    # One for first use, then one on each connection.
    assert kinds == [(0, 60.0), (1, 86_400.0), (1, 86_400.0)]
