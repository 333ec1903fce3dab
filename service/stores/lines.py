"""What a line is made of in each format, whatever the SQL that makes it."""

from collections.abc import Sequence
from typing import NamedTuple

IN_CSV, IN_JSON = 1, 2
"""Bits of a title's `special`: it needs quotes in CSV (RFC 4180), escapes in JSON (RFC 8259)."""


class Shape(NamedTuple):
    """How a format writes a line: its start and end, its cells, and the title among them.

    cells are templates. plain and special are a template and the value that goes there, for a
    title without and with the bit `bit` of `special`.
    """

    start: str
    end: str
    cells: dict[str, str]
    bit: int
    plain: tuple[str, str]
    special: tuple[str, str]

    def row(self, columns: Sequence[str], title: tuple[str, str]) -> tuple[str, list[str]]:
        """The template of a line's cells with commas between them, and its values."""
        template, value = title
        cells = self.cells | {"title": template}
        values = [value if column == "title" else column for column in columns]
        return ",".join(cells[column] for column in columns), values
