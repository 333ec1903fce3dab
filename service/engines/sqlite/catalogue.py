"""Which tables and views a SQLite file has, and by which key each can be read."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import apsw

from ...relation import Column, Key, Kind, Relation
from .sql import literal, name, rows

SCHEMA = "main"
KEY_COLUMNS = 5
"""Most columns in a key; it is what a stream keeps between two pages, and stands in addresses."""
ROWID_NAMES = ("rowid", "_rowid_", "oid")
"""What SQLite calls the number of a row, unless a column has the name."""
SORTED_MODULES = ("fts3", "fts4", "fts5")
"""Modules of virtual tables that have their rows in the order of their numbers."""
NO_KEY = (
    "a unique index makes one, over up to five columns that are NOT NULL, all ascending or all "
    "descending"
)
NO_KEY_VIEW = "name columns that identify its rows: --key {0}=COLUMN"


class _Index(NamedTuple):
    """An index of a table: its name, where it comes from, and the columns that it orders.

    terms: the SQL of each, by which it is ordered.
    """

    name: str
    origin: str
    columns: tuple[str, ...]
    terms: tuple[str, ...]
    ascending: bool


def relations(
    connection: apsw.Connection, keys: Mapping[str, Sequence[str]] = {}
) -> list[Relation]:
    """All tables and views but SQLite's own, in the order of their names.

    keys: columns that identify the rows of a relation, by its name, where somebody knows better.
    """
    counts = _row_counts(connection)
    found = []
    for _, table, kind, _, without_rowid, strict in sorted(_pragma(connection, "table_list")):
        if kind not in ("table", "view", "virtual") or table.lower().startswith("sqlite_"):
            continue
        try:
            columns, primary = _columns(connection, table, kind, without_rowid, strict)
        except apsw.Error:  # a view of what is there no longer, or a module that is not loaded
            continue
        if not columns:
            continue
        key = _given_key(keys.get(table, ()), columns)
        if key is None and kind != "view":
            key = _key(connection, _Table(table, kind, columns, primary, bool(without_rowid)))
        found.append(
            Relation(
                address=table,
                schema=SCHEMA,
                name=table,
                kind="virtual table" if kind == "virtual" else kind,
                columns=tuple(columns),
                key=key,
                no_key="" if key else (NO_KEY if kind == "table" else NO_KEY_VIEW).format(table),
                rows=counts.get(table),
                hidden=tuple(
                    Column(column, "INTEGER", Kind.INTEGER, nullable=False, exact=True)
                    for column in (key.columns if key else ())
                    if column not in {each.name for each in columns}
                ),
            )
        )
    return found


def _columns(
    connection: apsw.Connection, table: str, kind: str, without_rowid: bool, strict: bool
) -> tuple[list[Column], list[str]]:
    """The columns of a table, and the names of those of its primary key, in its order."""
    columns, primary = [], {}
    # Only another name of the row's number is never NULL by itself: it has no index of its own.
    has_index = _has_primary_index(connection, table)
    for _, column, declared, not_null, _, primary_at, hidden in _pragma(
        connection, "table_xinfo", table
    ):
        if hidden == 1:  # of a virtual table: no value, but an argument
            continue
        is_row_number = primary_at and declared.upper() == "INTEGER" and not has_index
        nullable = not (not_null or is_row_number or (primary_at and (without_rowid or strict)))
        # So SQLite calls a column of a view that has no type.
        type_ = "" if kind == "view" and declared == "BLOB" else declared
        # A strict table holds each column to its type; what is generated is not looked at.
        exact = is_row_number or (strict and not hidden and declared.upper() != "ANY")
        columns.append(Column(column, type_, kind_of(type_), nullable, bool(exact)))
        if primary_at:
            primary[primary_at] = column
    return columns, [primary[at] for at in sorted(primary)]


def _has_primary_index(connection: apsw.Connection, table: str) -> bool:
    return any(origin == "pk" for *_, origin, _ in _pragma(connection, "index_list", table))


KINDS = (
    ("INT", Kind.INTEGER),
    ("CHAR", Kind.TEXT),
    ("CLOB", Kind.TEXT),
    ("TEXT", Kind.TEXT),
    ("BLOB", Kind.BYTES),
    ("REAL", Kind.FLOAT),
    ("FLOA", Kind.FLOAT),
    ("DOUB", Kind.FLOAT),
    ("JSON", Kind.JSON),
    ("DATE", Kind.TIME),
    ("TIME", Kind.TIME),
    ("BOOL", Kind.INTEGER),
)
"""What a declared type has in it, and the kind that it is then; the first that is found counts.

The first eight are SQLite's own rules (https://www.sqlite.org/datatype3.html, section 3.1). The
others it takes for numbers; a DATE or a JSON is declared to be one all the same."""


def kind_of(declared: str) -> Kind:
    """How the values of a column are written that was declared as this."""
    declared = declared.upper()
    if declared in ("", "ANY") or ("INT" in declared and "TEXT" in declared):
        return Kind.ANYTHING
    return next((kind for word, kind in KINDS if word in declared), Kind.DECIMAL)


def _given_key(names: Sequence[str], columns: Sequence[Column]) -> Key | None:
    """The key that somebody has named, if there are such columns."""
    if not names or not set(names) <= {column.name for column in columns}:
        return None
    return Key(tuple(names), "named with --key", tuple(map(name, names)))


class _Table(NamedTuple):
    """What is known of a table before its key is."""

    name: str
    kind: str
    columns: list[Column]
    primary: list[str]
    without_rowid: bool


def _key(connection: apsw.Connection, of: _Table) -> Key | None:
    """The key that a table is read by: its primary key, a unique index, or its rows' numbers."""
    table, kind, columns, primary, without_rowid = of
    by_name = {column.name: column for column in columns}
    indexes = [] if kind == "virtual" else _unique_indexes(connection, table)
    own = [index for index in indexes if index.origin == "pk"]
    if len(primary) == 1 and not own and not without_rowid and kind == "table":
        # INTEGER PRIMARY KEY is another name of the row's number: the table itself is its index.
        return Key((primary[0],), "primary key", (name(primary[0]),), "NOT INDEXED", ascending=True)
    for index in own + sorted(indexes, key=lambda index: len(index.columns)):
        if any(by_name[column].nullable for column in index.columns if column in by_name):
            continue
        if not set(index.columns) <= set(by_name) or len(index.columns) > KEY_COLUMNS:
            continue
        source = "primary key" if index.origin == "pk" else f"unique index {index.name}"
        access = f"INDEXED BY {name(index.name)}"
        return Key(index.columns, source, index.terms, access, index.ascending)
    if without_rowid or (kind == "virtual" and not _is_sorted(connection, table)):
        return None
    taken = {column.lower() for column in by_name}
    for rowid in ROWID_NAMES:
        if rowid not in taken:
            ordinary = kind == "table"
            access = "NOT INDEXED" if ordinary else ""
            return Key((rowid,), "number of the row", (rowid,), access, ascending=ordinary)
    return None


def _is_sorted(connection: apsw.Connection, table: str) -> bool:
    statement = f"SELECT sql FROM sqlite_schema WHERE name = {literal(table)}"
    sql = str(rows(connection, statement)[0][0]).lower()
    module = sql.partition(" using ")[2].strip().partition("(")[0].strip()
    return module in SORTED_MODULES


def _unique_indexes(connection: apsw.Connection, table: str) -> list[_Index]:
    """The unique indexes of a table that order all its rows, by columns, all in one direction."""
    collations = {each.upper() for _, each in rows(connection, "PRAGMA collation_list")}
    found = []
    for _, index, unique, origin, partial in _pragma(connection, "index_list", table):
        if partial or not unique:
            continue
        parts = [
            (column, descending, coll)
            for _, _, column, descending, coll, in_key in _pragma(connection, "index_xinfo", index)
            if in_key
        ]
        if any(column is None or coll.upper() not in collations for column, _, coll in parts):
            continue  # an expression, or an order that this program does not know
        if len({descending for _, descending, _ in parts}) > 1:
            continue
        terms = tuple(f"{name(column)} COLLATE {name(coll)}" for column, _, coll in parts)
        names = tuple(column for column, _, _ in parts)
        found.append(_Index(index, origin, names, terms, not parts[0][1]))
    return found


def _pragma(connection: apsw.Connection, what: str, of: str | None = None) -> list[Any]:
    """What SQLite tells of the file. As a statement: a table may have the name of the function."""
    return rows(connection, f"PRAGMA main.{what}" + ("" if of is None else f"({name(of)})"))


def _row_counts(connection: apsw.Connection) -> dict[str, int]:
    """About how many rows each table has, where ANALYZE has counted them."""
    counts: dict[str, int] = {}
    with suppress(apsw.Error):
        for table, stat in rows(connection, "SELECT tbl, stat FROM sqlite_stat1"):
            with suppress(ValueError):
                counts[table] = int(str(stat).split(" ", 1)[0])
    return counts
