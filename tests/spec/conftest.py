"""Reads the tables of docs/protocol.md, which is all that these tests know about the protocol."""

from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"

Row = dict[str, str]


class Tables:
    """The tables of the page, by the heading above them; a row is its cells by column."""

    def __init__(self, text: str) -> None:
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


@pytest.fixture(scope="session")
def tables() -> Tables:
    return Tables(PAGE.read_text("utf-8"))
