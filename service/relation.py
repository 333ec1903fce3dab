"""What a table is: its name, its columns with their types, its key. No SQL and no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class Kind(StrEnum):
    """How the values of a column are written, told by its declared type alone.

    In CSV a value is its text. In JSON integers, decimals and floats are numbers with all their
    digits, but NaN and infinities, which JSON lacks, are strings. A boolean is true or false, a
    time is ISO 8601, bytes are hexadecimal, and JSON stands as it is, in both formats. Anything is
    for SQLite's columns without a type: each value is written as what it is.
    """

    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    TEXT = "text"
    TIME = "time"
    BYTES = "bytes"
    JSON = "json"
    ANYTHING = "anything"


NUMBERS = (Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT)
"""Kinds that `numbers=string` puts into quotes in JSON: JavaScript has 53 bits for a number."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column. type: as the database calls it. kind: how its values are written.

    exact: every value is of the type or NULL, as the database makes sure; SQLite mostly does not.
    """

    name: str
    type: str
    kind: Kind
    nullable: bool = True
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """Columns that identify a row, and in whose order a stream comes.

    columns: their names, in the order of the index. source: what makes them unique, in words.
    terms: the SQL of each, as the index orders it. access: what makes the engine go along it.
    ascending: whether going along it gives the rows in their order, without being asked for it.
    """

    columns: tuple[str, ...]
    source: str
    terms: tuple[str, ...] = ()
    access: str = ""
    ascending: bool = False


@dataclass(frozen=True, eq=False)
class Relation:
    """A table or a view that can be asked for.

    address: how it is called in a path, `orders` or `sales.orders`. schema: where it is; "main" in
    SQLite. kind: "table", "view" or what else the engine calls it. key: None where nothing orders
    its rows; then `no_key` says what would. rows: about how many, None where nobody knows.
    plain: for a format, an SQL condition that holds for rows none of whose texts needs a quote or
    an escape there; it spares the engine looking at each of them.
    hidden: columns that are there only when they are asked for, as SQLite's numbers of rows are.
    string_keys: whether the key's columns are strings in JSON, as the ids of `tasks` are.
    counted: whether its changes are counted, so that one can ask what has come behind an export.
    """

    address: str
    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]
    key: Key | None
    no_key: str = ""
    rows: int | None = None
    plain: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[Column, ...] = ()
    string_keys: bool = False
    counted: bool = False

    def column(self, name: str) -> Column:
        """The column of this name, or KeyError."""
        return self._by_name[name]

    @property
    def key_columns(self) -> tuple[Column, ...]:
        """The columns of the key."""
        return tuple(map(self.column, self.key.columns)) if self.key else ()

    def same(self, other: "Relation | None") -> bool:
        """Whether lines of the one fit behind lines of the other."""
        return other is not None and (self.columns, self.key) == (other.columns, other.key)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns, in their order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def _by_name(self) -> dict[str, Column]:
        return {column.name: column for column in (*self.columns, *self.hidden)}
