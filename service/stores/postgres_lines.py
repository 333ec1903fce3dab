"""The SQL that turns rows into lines inside PostgreSQL, so that no Python runs for a row."""

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from ..table import Format, Query
from .lines import IN_CSV, IN_JSON, Shape
from .trips import Trip

SPECIAL = (
    f"""(title COLLATE "C" ~ E'[,"\\n\\r]')::int * {IN_CSV}"""
    f""" + (title COLLATE "C" ~ E'["\\\\\\\\\\x01-\\x1f]')::int * {IN_JSON}"""
)
"""The two bits of a title, a stored column: asked once, when the title is written."""

_DEFUSED = (
    "CASE WHEN left(title, 1) IN"
    " ('=', '+', '-', '@', '＝', '＋', '－', '＠', E'\\t', E'\\n', E'\\r')"  # noqa: RUF001
    " THEN '''' || title ELSE title END"
)


def _quoted(title: str) -> str:
    return f"""'"' || replace({title}, '"', '""') || '"'"""


_CELLS = {"id": "%s", "priority": "%s", "status": "%s"}
_MEMBERS = {"id": '"id":"%s"', "priority": '"priority":%s', "status": '"status":"%s"'}
_SHAPES = {
    Format.CSV: Shape("''", "E'\\n'", _CELLS, IN_CSV, ("%s", "title"), ("%s", _quoted("title"))),
    Format.EXCEL: Shape(
        "''", "E'\\r\\n'", _CELLS, IN_CSV, ("%s", _DEFUSED), ("%s", _quoted(f"({_DEFUSED})"))
    ),
    Format.NDJSON: Shape(
        "'{'",
        "E'}\\n'",
        _MEMBERS,
        IN_JSON,
        ('"title":"%s"', "title"),
        ('"title":%s', "to_json(title)"),
    ),
}


def _row(shape: Shape, columns: Sequence[str], title: tuple[str, str]) -> str:
    """The SQL expression of one row's cells with commas between, in as few pieces as can be."""
    template, values = shape.row(columns, title)
    first, *others = template.split("%s")
    if not first and set(others[:-1]) <= {","}:  # each piece costs as much as a value
        return f"concat_ws(',', {', '.join(values)})"
    pieces = [f"'{first}'"]
    for value, piece in zip(values, others, strict=True):
        pieces += [value, f"'{piece}'"]
    return " || ".join(piece for piece in pieces if piece != "''")


@cache
def _lines(form: Format, columns: tuple[str, ...]) -> str:
    """The SQL expression of the lines of all rows, their line ends included."""
    shape = _SHAPES[form]
    # To choose between two whole rows is faster than to choose between two titles.
    row = (
        f"CASE WHEN special & {shape.bit} = 0 THEN {_row(shape, columns, shape.plain)}"
        f" ELSE {_row(shape, columns, shape.special)} END"
    )
    between = f"{shape.end} || {shape.start}"  # a constant: two pieces less for each row
    return f"coalesce({shape.start} || string_agg({row}, {between}) || {shape.end}, '')"


def _filters(query: Query) -> str:
    conditions = ""
    if query.status is not None:
        conditions += " AND status = '" + query.status.replace("'", "''") + "'"
    if query.min_priority is not None:
        conditions += f" AND priority >= {query.min_priority:d}"
    if query.max_priority is not None:
        conditions += f" AND priority <= {query.max_priority:d}"
    return conditions


def pages_statement(trip: Trip) -> str:
    """A query for COPY: a row for each page of the trip, in order, all as of one instant.

    Its columns: the `seq` that this server has reached, the page's number of rows, and its
    lines, or NULL where they are longer than `trip.most` bytes. COPY takes no parameters, so
    the values stand in the text.
    """
    query = trip.query
    last = trip.after + (trip.count - 1) * trip.span
    limit = "" if trip.left is None else f" LIMIT {trip.left:d}"
    rows = (
        f"SELECT * FROM task WHERE id > start AND id <= start + least({trip.span:d}, "
        f"{query.until:d} - start){_filters(query)} ORDER BY id{limit}"
    )
    page = (
        f"SELECT count(*) AS rows, {_lines(query.format, query.columns)} AS lines"
        f" FROM ({rows}) AS row"
    )
    return (
        # -1: an empty clock has not come as far as any stream's start.
        "SELECT coalesce((SELECT seq FROM clock), -1), rows,"
        f" CASE WHEN octet_length(lines) <= {trip.most:d} THEN lines END"
        f" FROM generate_series({trip.after:d}::bigint, {last:d}::bigint, {trip.span:d}::bigint)"
        f" AS start, LATERAL ({page}) AS page ORDER BY start"
    )


class Part(NamedTuple):
    """What COPY says of one page."""

    seq: int
    rows: int
    lines: memoryview | None


HEADER_BYTES = 19
"""What comes before the first row: a signature of 11 bytes, flags, the length of no extension.
The binary format is described in PostgreSQL's manual, under COPY."""
_ROW, _LENGTH = struct.Struct("!hiqiq"), struct.Struct("!i")
_FIELDS = 3


def parts(blob: bytes) -> Iterator[Part]:
    """Each row that COPY sent in its binary form; the lines are views: nothing is copied."""
    view, place = memoryview(blob), HEADER_BYTES
    while blob[place : place + 2] == _FIELDS.to_bytes(2, "big"):
        _, _, seq, _, rows = _ROW.unpack_from(blob, place)
        place += _ROW.size
        (length,) = _LENGTH.unpack_from(blob, place)
        place += _LENGTH.size
        yield Part(seq, rows, None if length < 0 else view[place : place + length])
        place += max(0, length)
