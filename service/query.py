"""What is asked of a relation, and how far a stream has come. No SQL and no I/O."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from .relation import Relation

KeyValues = tuple[Any, ...]
"""The values of a key's columns in one row, as the engine's driver has them."""


class Format(StrEnum):
    """How a row becomes bytes."""

    CSV = "csv"
    NDJSON = "ndjson"


class Operator(StrEnum):
    """How a filter compares a column with what the client gave."""

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    IN = "in"
    NULL = "null"


class Filter(NamedTuple):
    """One condition on a column.

    parameter: how the client called it, for messages. values: the texts that it gave; one but for
    IN, which has several, and for NULL, whose only one is "true" or "false".
    """

    parameter: str
    column: str
    operator: Operator
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """Which rows of a relation, in ascending order of its key, and how each becomes a line.

    columns: names, in the order in which they are written. filters: all of them hold for a row
    that is delivered. after: the texts of the key behind which to start, as the client gave them,
    or None. limit: most rows; None is all.
    excel: CSV with CRLF line ends, and a quote before what would run as a formula. null: what
    stands for NULL in CSV. numbers_as_strings: in JSON. role: in PostgreSQL, the role under which
    each page is read; "" for the user's own.
    until: the highest key that is delivered, fixed when the stream starts, so that it ends.
    since: what the database had reached then; a copy of it that has not yet come so far may lack
    rows, and is not read. Both come from `Reader.start`.
    """

    relation: Relation
    format: Format
    columns: tuple[str, ...]
    filters: tuple[Filter, ...] = ()
    after: tuple[str, ...] | None = None
    limit: int | None = None
    excel: bool = False
    null: str = ""
    numbers_as_strings: bool = False
    role: str = ""
    until: KeyValues | None = None
    since: Any = None

    @property
    def shape(self) -> "Query":
        """What does not change from stream to stream: what the text of a statement depends on."""
        return replace(self, after=None, limit=None, until=None, since=None)


class Range(NamedTuple):
    """The rows behind the key `after`, None for the first ones, up to and with the key `until`."""

    after: KeyValues | None
    until: KeyValues


class Start(NamedTuple):
    """How things stand when a stream starts.

    after: the key behind which it starts, None for the first row. until: the highest key that there
    is, None when the relation is empty. since: see Query.
    """

    after: KeyValues | None
    until: KeyValues | None
    since: Any


class Cursor(NamedTuple):
    """Where the next page starts. It is all the state that a stream has between two pages.

    after: the last key that was delivered or passed over. left: rows that may still be delivered;
    None is all. rows: how many rows of the relation the next page should cover, whatever passes the
    filters, learnt from the size of the last pages.
    """

    after: KeyValues | None
    left: int | None = None
    rows: int = 128


class Page(NamedTuple):
    """The lines of a range's rows: how many, and their bytes.

    data is a view of what several pages may share: copy what is to outlive the others.
    """

    rows: int
    data: bytes | memoryview
