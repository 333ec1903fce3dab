"""The engines: what streams know of a database, whichever it is."""

from collections.abc import Sequence
from typing import Protocol

from ..query import KeyValues, Page, Query, Range, Start
from ..relation import Relation


class Reader(Protocol):
    """Reads pages of any relation.

    Each method holds a thread or a connection only until it returns, for some milliseconds; none
    leaves a transaction or a cursor open. All raise StoreError when the database fails.
    """

    async def start(self, query: Query) -> Start:
        """How things stand now, read at one instant.

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


class Catalogue(Protocol):
    """The relations of a database that may be asked for."""

    async def relations(self) -> Sequence[Relation]:
        """All of them as they are now, by address; read again only when the schema has changed."""
