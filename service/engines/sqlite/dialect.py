"""The SQL that turns rows into lines inside SQLite, so that no Python runs for a row.

A column of SQLite may hold a value of any type, whatever it was declared as. So each cell asks with
`typeof` what it has; first for what its declaration says, as that is what it nearly always is.
"""

from collections.abc import Callable

from ...query import Format, Query
from ...relation import NUMBERS, Column, Kind
from .sql import inner, literal

PIECES = 200
"""Columns whose cells stand in one call of a function: SQLite allows a thousand arguments."""

_FORMULA = "'[=+@＝＋－＠' || char(9, 10, 13) || '-]*'"  # noqa: RUF001
"""What a cell begins with that a spreadsheet would run."""

_SPECIAL = ("'\"'", "','", "char(10)", "char(13)")
"""What CSV puts into quotes for."""

EXPECTED = {
    Kind.INTEGER: "integer",
    Kind.DECIMAL: "integer",
    Kind.FLOAT: "real",
    Kind.TEXT: "text",
    Kind.TIME: "text",
    Kind.JSON: "text",
    Kind.BYTES: "blob",
}
"""The type that a value of each kind nearly always has; none for columns without a type."""


def _choose(column: Column, cells: dict[str, str]) -> str:
    """The cell for what the value is, asked for in the order that is the fastest."""
    name_, first = inner(column.name), EXPECTED.get(column.kind, "text")
    if column.exact:
        # What is NULL comes out as it should through the cell of the type, but for its name in CSV.
        null = cells["null"]
        return cells[first] if null in ("''", "NULL") else f"ifnull({cells[first]}, {null})"
    others = " ".join(f"WHEN '{kind}' THEN {sql}" for kind, sql in cells.items() if kind != first)
    return f"iif(typeof({name_}) = '{first}', {cells[first]}, CASE typeof({name_}) {others} END)"


def _number(column: str) -> str:
    """A real; infinity has no other name that all who read it know."""
    return f"iif(abs({column}) = 9e999, iif({column} > 0, 'Infinity', '-Infinity'), {column})"


def _hexadecimal(column: str) -> str:
    return f"lower(hex({column}))"


Quoted = Callable[[str, str], str]


def _quoted(text: str, null: str) -> str:
    """A text as CSV has it (RFC 4180): in quotes where it needs them, and when it is empty.

    So is one that looks like what stands for NULL. No pattern looks for what needs quotes: it would
    end at a NUL.
    """
    special = " OR ".join(f"instr({text}, {each})" for each in _SPECIAL)
    is_null = f" OR {text} = {literal(null)}" if null else ""
    return (
        f"iif({special} OR NOT octet_length({text}){is_null},"
        f" '\"' || replace({text}, '\"', '\"\"') || '\"', {text})"
    )


def _seldom_quoted(text: str, null: str, quote_bytes: int) -> str:
    """The same, faster where few texts need quotes.

    A text that JSON writes as it is has no quote and no line end. That is much faster to find out
    than to look for each of them, and decides for nearly all texts.
    """
    is_null = f" AND {text} <> {literal(null)}" if null else ""
    return (
        f"iif(octet_length({text}) AND NOT instr({text}, ','){is_null}"
        f" AND octet_length(json_quote({text})) = octet_length({text}) + {quote_bytes}, {text},"
        f" {_quoted(text, null)})"
    )


def _csv_cell(column: Column, query: Query, quoted: Quoted) -> str:
    c = inner(column.name)
    text = f"(iif({c} GLOB {_FORMULA}, '''', '') || {c})" if query.excel else c
    cells = {
        "integer": c,
        "real": _number(c),
        "text": quoted(text, query.null),
        # No bytes are told from NULL as an empty text is.
        "blob": f"iif(length({c}) = 0, '\"\"', nullif({_hexadecimal(c)}, ''))",
        "null": literal(query.null),
    }
    return _choose(column, cells)


def _json_value(column: Column, query: Query) -> str:
    c = inner(column.name)
    text = f"iif(json_valid({c}), json({c}), {c})" if column.kind is Kind.JSON else c
    integer, real = c, _number(c)
    key = query.relation.key
    if query.numbers_as_strings and column.kind in (*NUMBERS, Kind.ANYTHING):
        integer, real = f"CAST({c} AS TEXT)", f"CAST({real} AS TEXT)"
    elif query.relation.string_keys and key and column.name in key.columns:
        integer = f"CAST({c} AS TEXT)"
    cells = {
        "integer": integer,
        "real": real,
        "text": text,
        "blob": f"iif({c} IS NULL, NULL, {_hexadecimal(c)})",
        "null": "NULL",
    }
    return _choose(column, cells)


def _csv_line(query: Query, quoted: Quoted) -> str:
    cells = [_csv_cell(query.relation.column(name), query, quoted) for name in query.columns]
    end = "'\r\n'" if query.excel else "'\n'"
    pieces = [", ',', ".join(cells[at : at + PIECES]) for at in range(0, len(cells), PIECES)]
    return " || ',' || ".join(f"concat({piece})" for piece in pieces) + f" || {end}"


def _json_line(query: Query) -> str:
    members = [
        f"{literal(name)}, {_json_value(query.relation.column(name), query)}"
        for name in query.columns
    ]
    pieces = [", ".join(members[at : at + PIECES]) for at in range(0, len(members), PIECES)]
    objects = [f"json_object({piece})" for piece in pieces]
    if len(objects) == 1:
        return f"{objects[0]} || '\n'"
    bare = [f"substr({each}, 2, length({each}) - 2)" for each in objects]
    return "'{' || " + " || ',' || ".join(bare) + " || '}\n'"


def line(query: Query, quote_bytes: int) -> str:
    """The SQL expression of one row's line, its line end included.

    quote_bytes: how long two quotes are in the database's encoding.
    """
    if query.format is Format.NDJSON:
        return _json_line(query)
    plain = query.relation.plain.get(query.format)
    if plain is None or query.excel or query.null or len(query.columns) > PIECES:
        return _csv_line(query, lambda text, null: _seldom_quoted(text, null, quote_bytes))
    template = ",".join("%s" for _ in query.columns)
    cells = ", ".join(map(inner, query.columns))
    return f"iif({plain}, format('{template}\n', {cells}), {_csv_line(query, _quoted)})"
