"""What the tests here know about the protocol: the tables of docs/protocol.md, and nothing else.

The decoder has what a client has, its ticket and its private keys. Sizes, fields, labels, kinds and
types come from the page; HMAC, X25519, the AEADs and MessagePack from elsewhere; nothing from the
library.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
RECORDED = json.loads((Path(__file__).parents[1] / "vectors" / "datagrams.json").read_text())
CLIENTS: dict[str, dict[str, Any]] = {client["name"]: client for client in RECORDED["clients"]}

CIPHERS = {"AES-128-GCM": AESGCM, "ChaCha20-Poly1305": ChaCha20Poly1305}
INTEGERS = {"integer": 2**62, "32-bit integer": 2**32, "64-bit integer": 2**64}
TICKET_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "float": (float,), "map": (dict,), "bytes": (bytes,),
    "16 bytes": (bytes,), "32 bytes": (bytes,), "address": (list, type(None)),
}  # fmt: skip

Row = dict[str, str]
Frame = dict[str, Any]


class Tables:
    """The tables of the page, by the heading above them; a row is its cells by column."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tables: dict[str, list[list[Row]]] = {}
        heading, block = "", list[str]()
        for line in [*text.splitlines(), ""]:
            if line.startswith("|"):
                block.append(line)
                continue
            if block:
                self._tables.setdefault(heading, []).append(_rows(block))
                block = []
            if line.startswith("#"):
                heading = line.lstrip("#").strip()

    def __getitem__(self, heading: str) -> list[Row]:
        """The first table under that heading."""
        return self._tables[heading][0]

    def with_column(self, column: str) -> Iterator[Row]:
        """All rows of all tables that have this column."""
        for tables in self._tables.values():
            for table in tables:
                yield from (row for row in table if column in row)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _rows(block: list[str]) -> list[Row]:
    columns = _cells(block[0])
    return [dict(zip(columns, _cells(line), strict=True)) for line in block[2:]]


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


class Decoder:
    """One client's view: it opens both what the client sent and what it got."""

    def __init__(self, tables: Tables, client: dict[str, Any]) -> None:
        self._tables = tables
        self._privates = [bytes.fromhex(key) for key in client["client_private_keys"]]
        text = client["ticket"]
        ticket = self.read_array("Ticket", base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
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

    def read_array(self, heading: str, data: bytes) -> dict[str, Any]:
        """A MessagePack array whose elements are the rows of a table with `field` and `type`."""
        values = msgpack.unpackb(data)
        named = dict[str, Any]()
        for row, value in zip(self._tables[heading], values, strict=True):
            size = re.match(r"(\d+) bytes", row["type"])
            assert type(value) in TICKET_TYPES[row["type"]], row
            assert size is None or len(value) == int(size[1])
            named[row["field"]] = value
        return named

    def _row(self, heading: str, column: str, value: str) -> Row:
        return next(row for row in self._tables[heading] if row[column] == value)

    def _cut(self, data: bytes, rows: list[Row], start: int) -> tuple[dict[str, Any], int]:
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
        salt, inputs = (
            b"".join(known[part] for part in root[column].split(", ")) for column in ("salt", "input")
        )
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
                ticket = self.read_array("Ticket", frame["ticket"])
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
        is_refusal = self.kind == "REFUSED"
        self.frames = [] if is_refusal else decoder.frames(self.plaintext)

    @property
    def number(self) -> int:
        return int.from_bytes(self.fields["packet number"], "big")

    @property
    def kind(self) -> str:
        return str(self.fields["kind"])

    @property
    def at(self) -> float:
        return float(self.recorded["at"])

    def has(self, *names: str) -> bool:
        return any(frame["frame"] in names for frame in self.frames)


class Recording:
    """All datagrams of one client, both ways, in the order in which they were sent."""

    def __init__(self, tables: Tables, name: str) -> None:
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


@pytest.fixture(scope="session")
def tables() -> Tables:
    return Tables(PAGE.read_text("utf-8"))


@pytest.fixture(scope="session", params=list(CLIENTS))
def any_recording(tables: Tables, request: pytest.FixtureRequest) -> Recording:
    return Recording(tables, request.param)


@pytest.fixture(scope="session")
def recording(tables: Tables) -> Recording:
    return Recording(tables, "a conversation")


@pytest.fixture(scope="session")
def other_recording(tables: Tables) -> Recording:
    return Recording(tables, "ChaCha20-Poly1305")


@pytest.fixture(scope="session")
def refused_recording(tables: Tables) -> Recording:
    return Recording(tables, "a used ticket")
