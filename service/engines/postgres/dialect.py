"""How a value of each type becomes a cell of CSV or a member of a JSON object, as SQL.

A line is built in two steps. The inner query gives each column as a value that the outer one may
mention several times: `text_of` turns there into text, once, what is not text already. The outer
query puts quotes where they are needed, and all cells together. `concat` and `concat_ws` write any
type by its own output function, which is what COPY does; a cast to text is something else for some
types (inet, char(n), "char").
"""

import json
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from ...query import Format, Query
from ...relation import NUMBERS, Kind
from .literals import identifier, literal
from .tables import PostgresRelation, Type

ARGUMENTS = 90
"""Most arguments of one call; PostgreSQL's own limit is 100."""
NULLABLE = 3
"""From one cell in so many that may be NULL, it is faster to give each comma as an argument than to
turn what is NULL into an empty text, as `concat_ws` leaves out a NULL with its comma."""
CHAINED = 8
"""Up to so many texts are put together faster by ||, which copies all to the left of it again."""
C = 'COLLATE pg_catalog."C"'
"""Bytes are looked for as bytes: faster, and some collations refuse to search in a text."""


class Json(Enum):
    """How the text of a value becomes JSON."""

    BARE = "it is JSON already"
    STRING = "quotes around it; there is never anything to escape"
    BACKSLASH = "the same, but it starts with a backslash"
    ESCAPED = "to_json of the text"
    OWN = "to_json of the value itself, which knows what JSON has no number for"


class Style(NamedTuple):
    """How the values of a type are written.

    text: the SQL that makes text of the column {}, or "" when its own output function does.
    quotes: whether the text may hold what needs quotes in CSV, or be empty.
    """

    kind: Kind
    json: Json
    text: str = ""
    quotes: bool = False


# A line break in JSON stands between tokens, never in a string.
_ONE_LINE = r"replace(replace({}::text, E'\n', ' '), E'\r', ' ')"
_INTEGER = Style(Kind.INTEGER, Json.BARE)
_FLOAT = Style(Kind.FLOAT, Json.OWN)
_TIME = Style(Kind.TIME, Json.STRING)
# Only to_json writes times with a T in them, and "+00:00"; to replace the blank is faster, but
# there is another one before "BC".
_ZONED = Style(Kind.TIME, Json.OWN, """btrim(to_json({})::text, '"')""")
_TIMESTAMP = Style(
    Kind.TIME,
    Json.OWN,
    f"CASE WHEN {{}} < '0001-01-01' THEN {_ZONED.text} ELSE replace({{}}::text, ' ', 'T') END",
)
_WORD = Style(Kind.TEXT, Json.STRING)
_TEXT = Style(Kind.TEXT, Json.ESCAPED, f"({{}} {C})", quotes=True)
_OTHER = Style(
    Kind.TEXT, Json.ESCAPED, f"CASE WHEN {{}} IS NOT NULL THEN concat({{}}) {C} END", quotes=True
)
_NESTED = Style(Kind.JSON, Json.BARE, _ONE_LINE.format("to_json({})"), quotes=True)
STYLES = {
    "int2": _INTEGER,
    "int4": _INTEGER,
    "int8": _INTEGER,
    "oid": _INTEGER,
    "numeric": Style(Kind.DECIMAL, Json.OWN),
    "float4": _FLOAT,
    "float8": _FLOAT,
    "bool": Style(Kind.BOOLEAN, Json.BARE, "{}::text"),
    "date": _TIME,
    "time": _TIME,
    "timetz": _TIME,
    "interval": _TIME,
    "timestamp": _TIMESTAMP,
    "timestamptz": _ZONED,
    "bytea": Style(Kind.BYTES, Json.BACKSLASH),
    "json": Style(Kind.JSON, Json.BARE, _ONE_LINE, quotes=True),
    "jsonb": Style(Kind.JSON, Json.BARE, "{}::text", quotes=True),
    "text": _TEXT,
    "varchar": _TEXT,
    "uuid": _WORD,
    "inet": _WORD,
    "cidr": _WORD,
    "macaddr": _WORD,
    "macaddr8": _WORD,
    "pg_lsn": _WORD,
    "xid": _WORD,
    "xid8": _WORD,
    "cid": _WORD,
}
"""How PostgreSQL's own types are written; whatever is not here is its text."""


def style(type_: Type) -> Style:
    """How values of a type are written."""
    return _NESTED if type_.shape else STYLES.get(type_.name, _OTHER)


# What Excel and its kin take for the start of a formula, some of them only in East Asian locales.
_FORMULA = "('=', '+', '-', '@', '＝', '＋', '－', '＠', E'\\t', E'\\n', E'\\r')"  # noqa: RUF001


class Cell(NamedTuple):
    """One column in a line. name: its alias in the inner query. inner: its value there."""

    name: str
    column: str
    style: Style
    inner: str
    nullable: bool


def cells(query: Query, relation: PostgresRelation, alias: str) -> list[Cell]:
    """What the inner query selects. alias: the relation's, there."""
    found = []
    for number, name in enumerate(query.columns):
        how = style(relation.types[name])
        column = f"{alias}.{identifier(name)}"
        inner = _inner(query, how, column, _as_string(query, relation, name, how))
        nullable = relation.column(name).nullable
        found.append(Cell(f"c{number}", name, how, inner, nullable))
    return found


def _as_string(query: Query, relation: PostgresRelation, name: str, how: Style) -> bool:
    """Whether what would be a number in JSON, or a boolean, is a string there."""
    if how.kind in NUMBERS and query.numbers_as_strings:
        return True
    return relation.string_keys and name in relation.key_names and not how.quotes


def _inner(query: Query, how: Style, column: str, as_string: bool) -> str:
    """The value that the outer query needs."""
    if query.format is Format.NDJSON:
        if how.json is not Json.OWN:
            return how.text.format(*[column] * 3) if how.text else column
        return column if as_string and how.kind in NUMBERS else f"to_json({column})"
    text = how.text
    if query.null and not text:  # each value has to be compared with the word for NULL
        text = _OTHER.text
    text = text.format(*[column] * 3) if text else column
    if query.excel and how.kind is Kind.TEXT and how.quotes:
        return f"CASE WHEN left({text}, 1) IN {_FORMULA} THEN '''' || {text} ELSE {text} END"
    return text


def tested(query: Query, given: Sequence[Cell]) -> str:
    """All texts of a row as one, in the inner query: to look into one is faster than into each.

    It also takes a long text out of where PostgreSQL keeps those, once for all looks. JSON is left
    out, as it has quotes in it nearly always.
    """
    texts = [cell for cell in given if _is_text(cell)]
    if not texts or query.format is not Format.CSV:
        return ""
    if len(texts) > CHAINED:
        return _call("concat(", [cell.inner for cell in texts])
    safe = [f"coalesce({cell.inner}, '')" if cell.nullable else cell.inner for cell in texts]
    return " || ".join([*safe, "''"] if len(texts) == 1 else safe)


def _is_text(cell: Cell) -> bool:
    return cell.style.quotes and cell.style.kind is not Kind.JSON


def _special(text: str) -> str:
    """Whether a text needs quotes in CSV (RFC 4180)."""
    return " OR ".join(
        f"strpos({text}, {mark}) > 0" for mark in ("'\"'", "','", r"E'\n'", r"E'\r'")
    )


def csv_line(query: Query, given: Sequence[Cell], *, plain: bool) -> str:
    """The cells with commas between. plain: no text in this row needs quotes."""
    careful = _cells(query, given, lambda cell: _careful(query, cell))
    if plain:
        return _cells(query, given, lambda cell: cell.name)
    if query.null or len(given) == 1 or not tested(query, given):
        return careful
    simple = _cells(query, given, lambda cell: _simple(query, cell))
    return f"CASE WHEN {_special('tested')} THEN {careful} ELSE {simple} END"


def _cells(query: Query, given: Sequence[Cell], value: Callable[[Cell], str]) -> str:
    """The cells with commas between; a NULL is nothing."""
    if not query.null and NULLABLE * sum(cell.nullable for cell in given) < len(given):
        return _call(
            "concat_ws(',', ",
            [f"concat({value(cell)})" if cell.nullable else value(cell) for cell in given],
        )
    pieces: list[str] = []
    for cell in given:
        null = cell.nullable and query.null
        made = f"coalesce({value(cell)}, {literal(query.null)})" if null else value(cell)
        pieces += ["','", made]
    return _call("concat(", pieces[1:])


def _simple(query: Query, cell: Cell) -> str:
    """A cell whose text holds nothing special; but it may be empty, which is not NULL."""
    if not _is_text(cell):
        return _careful(query, cell)
    return f"CASE WHEN {cell.name} = '' THEN '\"\"' ELSE {cell.name} END"


def _careful(query: Query, cell: Cell) -> str:
    """A cell that may hold anything."""
    name = cell.name
    if not (cell.style.quotes or query.null):
        return name
    test = _special(name)
    if query.null:
        test += f" OR {name} = {literal(query.null)}"
    if len(query.columns) == 1:  # alone in a line it would end what COPY reads
        test += rf" OR {name} = E'\\.'"
    quoted = f"'\"' || replace({name}, '\"', '\"\"') || '\"'"
    return f"CASE WHEN {test} THEN {quoted} WHEN {name} = '' THEN '\"\"' ELSE {name} END"


def json_line(
    query: Query, relation: PostgresRelation, given: Sequence[Cell], *, plain: bool
) -> str:
    """The members with commas between, without the braces. plain: no text needs an escape."""
    pieces: list[str] = []
    constant = ""
    for number, cell in enumerate(given):
        constant += ("," if number else "") + json.dumps(cell.column, ensure_ascii=False) + ":"
        start, value, end = _member(query, relation, cell, plain)
        if cell.nullable and start:
            inside = f"concat({literal(start)}, {value}, {literal(end)})"
            value, start, end = f"CASE WHEN {value} IS NULL THEN 'null' ELSE {inside} END", "", ""
        elif cell.nullable:
            value = f"coalesce({value}::text, 'null')"
        pieces += [literal(constant + start), value]
        constant = end
    return _call("concat(", [*pieces, literal(constant)] if constant else pieces)


def _member(
    query: Query, relation: PostgresRelation, cell: Cell, plain: bool
) -> tuple[str, str, str]:
    """What stands before the value, the value, and what stands behind it."""
    how, name = cell.style, cell.name
    bare = how.json is Json.BARE or how.kind in NUMBERS
    as_string = bare and _as_string(query, relation, cell.column, how)
    if as_string or how.json is Json.STRING or (how.json is Json.ESCAPED and plain):
        return '"', name, '"'
    if how.json is Json.BACKSLASH:
        return '"\\', name, '"'
    return "", f"to_json({name})" if how.json is Json.ESCAPED else name, ""


def _call(start: str, arguments: Sequence[str]) -> str:
    """A call of a function that takes any number of arguments, in pieces of what it can take."""
    while len(arguments) > ARGUMENTS:
        arguments = [
            f"{start}{', '.join(arguments[first : first + ARGUMENTS])})"
            for first in range(0, len(arguments), ARGUMENTS)
        ]
    return f"{start}{', '.join(arguments)})"


def ends(query: Query) -> tuple[str, str]:
    """What starts and what ends each line, as SQL."""
    if query.format is Format.NDJSON:
        return "'{'", r"E'}\n'"
    return "''", r"E'\r\n'" if query.excel else r"E'\n'"
