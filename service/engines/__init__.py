"""The engines: all that is known of a database elsewhere, whichever it is."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ..query import KeyValues, Operator, Page, Query, Range, Start
from ..relation import Relation
from ..settings import Settings

READ_FILES, WRITE_FILES = 3, 3
"""Open files of a connection to SQLite that reads, and of the one that writes: the file, its log,
its index."""
COMPARED = {
    Operator.EQ: "=",
    Operator.NE: "<>",
    Operator.LT: "<",
    Operator.LTE: "<=",
    Operator.GT: ">",
    Operator.GTE: ">=",
}
"""The operators that every engine's SQL has by the same sign."""
OTHER_CONNECTIONS = 3
"""Connections to PostgreSQL beside those that pages are read through: two write, one looks."""


class Reader(Protocol):
    """Reads pages of any relation.

    Each method holds a thread or a connection only until it returns, for some milliseconds; none
    leaves a transaction or a cursor open. All raise StoreError when the database fails.
    """

    async def start(self, query: Query, *, latest: bool = False) -> Start:
        """How things stand now, read at one instant.

        latest: as of all that has been written so far; else a replica's view will do.

        Raises InvalidError, naming the parameter, when a value of a filter or of `after` is none of
        its column's type.
        """

    async def cut(
        self, query: Query, after: KeyValues | None, rows: int, count: int
    ) -> list[Range]:
        """Up to `count` ranges of `rows` rows each, one behind the other, from behind `after`.

        They are asked of the key's index, and count rows before any filter. The last one ends at
        `query.until`, whatever it holds; the list is empty when `after` is there already.
        """

    async def read(
        self, query: Query, ranges: Sequence[Range], left: int | None
    ) -> list[Page | None]:
        """The pages of these ranges, in order, each at most `page_bytes` long.

        The list ends early with None for the first range whose lines are longer. left: most rows in
        each page; None is all.
        """

    async def read_row(self, query: Query, range_: Range) -> Page:
        """The page of a range of one row, which may be longer than a page.

        Raises RowTooLargeError, naming the key, when it is longer than `row_bytes`.
        """

    def shown(self, relation: Relation, key: KeyValues) -> tuple[str, ...]:
        """A key as texts, which `after` takes."""


class ServerState(NamedTuple):
    """How one of several database servers is.

    role: primary or replica. fit: it is read from. lag: seconds that it is behind.
    reason: why it is not read from, or "".
    """

    name: str
    role: str
    fit: bool
    lag: float
    reason: str


class Engine(Protocol):
    """One database that is open."""

    @property
    def reader(self) -> Reader: ...

    async def relations(self) -> Mapping[str, Relation]:
        """All that may be asked for, by address, as the schema is now."""

    async def ping(self) -> None:
        """Return when the database answers."""

    def servers(self) -> list[ServerState]:
        """How each database server is; empty where there is none."""

    async def close(self) -> None:
        """Finish what is running and let go of the database."""


class Appetite(NamedTuple):
    """What an engine takes of a worker's resources.

    readers: calls that may read pages at the same time. files: open files.
    """

    readers: int
    files: int


def appetite(settings: Settings) -> Appetite:
    """What the engine takes that these settings name."""
    if settings.database.startswith("sqlite:"):
        return Appetite(settings.read_threads, settings.read_threads * READ_FILES + WRITE_FILES)
    servers = 1 + len(settings.read_database)
    readers = servers * settings.pool_size
    return Appetite(readers, readers + servers + OTHER_CONNECTIONS)
