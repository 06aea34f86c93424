"""Opens the recorded datagrams with the tables of docs/protocol.md and nothing of the library.

The decoder knows what a client has: its ticket and its private keys. Sizes, fields, labels, kinds
and types come from the page; only HMAC, X25519, the AEADs and MessagePack come from elsewhere.
"""

import base64
import hashlib
import hmac
import json
import re
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

VECTORS = Path(__file__).parents[1] / "vectors"
RECORDED = json.loads((VECTORS / "datagrams.json").read_text())
CLIENTS: dict[str, dict[str, Any]] = {client["name"]: client for client in RECORDED["clients"]}

CIPHERS = {"AES-128-GCM": AESGCM, "ChaCha20-Poly1305": ChaCha20Poly1305}
INTEGERS = {"integer": 2**62, "32-bit integer": 2**32, "64-bit integer": 2**64}
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "float": (float,), "map": (dict,), "bytes": (bytes,),
    "16 bytes": (bytes,), "32 bytes": (bytes,), "address": (list, type(None)),
    "int": (int,), "str": (str,), "any": (object,),
}  # fmt: skip

Frame = dict[str, Any]
Keys = dict[str, bytes]


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
        return fields, self._decrypt(fields, aad, datagram[end:])

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
    def __init__(self, tables: Any, name: str) -> None:
        self.decoder = Decoder(tables, CLIENTS[name])
        self.datagrams = [Opened(self.decoder, recorded) for recorded in CLIENTS[name]["datagrams"]]

    def frames(self, sender: str, name: str) -> list[Frame]:
        """The frames of that type which arrived from that side."""
        return [
            frame
            for opened in self.datagrams
            if opened.sender == sender and opened.recorded["arrived"]
            for frame in opened.frames
            if frame["frame"] == name
        ]

    def log(self, sender: str, stream: int) -> bytes:
        """The log of that side, put together from what arrived; holes are not allowed to stay."""
        log = b""
        frames = [frame for frame in self.frames(sender, "TOKENS") if frame["stream"] == stream]
        for frame in sorted(frames, key=lambda frame: frame["base"]):
            assert frame["base"] <= len(log)
            log += frame["data"][len(log) - frame["base"] :]
        return log

    def fin(self, sender: str, stream: int) -> Frame:
        ends = [frame for frame in self.frames(sender, "TOKENS") if "length" in frame]
        return next(frame for frame in ends if frame["stream"] == stream)


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


def test_packet_numbers_follow_one_sequence_across_all_kinds_and_keys(any_recording: Recording) -> None:
    gap_in_the_record = 3600
    for sender in ("client", "server"):
        previous = dict[bytes, tuple[int, float]]()
        for opened in any_recording.datagrams:
            if opened.sender != sender or opened.fields["kind"] == "REFUSED":
                continue
            key = opened.fields["client share"] if "client share" in opened.fields else opened_by(opened)
            number, at = int.from_bytes(opened.fields["packet number"], "big"), opened.recorded["at"]
            assert number == 0 or key in previous
            last, last_at = previous.get(key, (-1, at))
            assert number > last
            assert number == last + 1 or at - last_at > gap_in_the_record
            previous[key] = number, at
