"""Pages of any relation in a SQLite file: ranges asked of an index, lines made by SQLite."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import apsw

from ...errors import InvalidTextError, RowTooLargeError, StoreError
from ...query import KeyValues, Page, Query, Range, Start
from ...relation import Relation
from ...settings import Settings
from ..ranges import ROWS_HIGHEST
from .connections import Connections
from .sql import rows as fetch
from .statements import (
    HEAD_BYTES,
    SEQ_BYTES,
    fence_statement,
    filter_values,
    key_of,
    last_statement,
    pages_statement,
    row_statement,
)
from .values import readings, written

LONGEST = 2**31 - 1
"""SQLite's own limit for a value, in bytes."""
STATEMENT_BYTES = 4
"""Most bytes that a character of a statement's text takes."""
NO_CLOCK = "0"
"""How far a database has come that does not count its changes."""


class SQLiteReader:
    """A Reader: a thread is held for one call, a transaction for one statement."""

    def __init__(
        self,
        connections: Connections,
        check: Callable[[apsw.Connection, Query], None],
        settings: Settings,
        clock: str = NO_CLOCK,
    ) -> None:
        """check: raises StoreError when a relation is no longer what it was when it was asked for.
        clock: SQL that says how far the database has come, growing with each change."""
        self._connections = connections
        self._check = check
        self._clock = clock
        self._page_bytes = int(settings.page_bytes)
        self._row_bytes = max(self._page_bytes, int(settings.row_bytes))

    async def start(self, query: Query, *, latest: bool = False) -> Start:
        keys: list[KeyValues] = []
        if query.after is not None:
            pairs = zip(query.relation.key_columns, query.after, strict=True)
            keys = list(product(*(readings(column, text) for column, text in pairs)))
        filter_values(query)  # what is wrong with them is told before the first byte
        statement = last_statement(query, self._clock)

        def work(connection: apsw.Connection) -> Start:
            self._check(connection, query)
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, LONGEST)
            after = _the_one_that_is(connection, query, keys) if keys else None
            seq, *until = fetch(connection, statement)[0]
            return Start(after, None if None in until else tuple(until), seq)

        return await self._connections.read(work)

    async def cut(
        self, query: Query, after: KeyValues | None, rows: int, count: int
    ) -> list[Range]:
        first, following = (fence_statement(query, first=first) for first in (True, False))
        until = query.until
        assert until is not None

        def work(connection: apsw.Connection) -> list[Range]:
            self._check(connection, query)
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, LONGEST)
            ranges: list[Range] = []
            at = after
            while at != until and len(ranges) < count:
                statement, behind = (first, ()) if at is None else (following, at)
                found = fetch(connection, statement, (*behind, *until, rows - 1))
                fence = found[0] if found else until
                ranges.append(Range(at, fence))
                at = fence
            return ranges

        return await self._connections.read(work)

    async def read(
        self, query: Query, ranges: Sequence[Range], left: int | None
    ) -> list[Page | None]:
        def work(connection: apsw.Connection) -> list[Page | None]:
            self._check(connection, query)
            pages: list[Page | None] = []
            # The first range of all has no key before it, and so a statement of its own.
            for some in (ranges[:1], ranges[1:]) if ranges[0].after is None else (ranges,):
                pages += self._pages(connection, query, some, left)
                if pages[-1] is None:
                    break
            return pages

        return await self._connections.read(work)

    async def read_row(self, query: Query, range_: Range) -> Page:
        def work(connection: apsw.Connection) -> Page:
            self._check(connection, query)
            found = self._found(connection, query, [range_], None, self._row_bytes)
            if found is None:
                raise RowTooLargeError(
                    f"{query.relation.address}: the row with the key {shown(range_.until)} is "
                    f"longer than {self._row_bytes} bytes",
                    hint="shorten it, leave out a column, or raise --row-bytes",
                )
            return found[0]

        return await self._connections.read(work)

    def shown(self, relation: Relation, key: KeyValues) -> tuple[str, ...]:
        return tuple(map(written, relation.key_columns, key))

    def _pages(
        self, connection: apsw.Connection, query: Query, ranges: Sequence[Range], left: int | None
    ) -> list[Page | None]:
        """The pages of these ranges, up to the first that is too long, which is None."""
        if not ranges:
            return []
        found = self._found(connection, query, ranges, left, self._page_bytes)
        if found is not None:
            return list(found)
        if len(ranges) == 1:
            return [None]
        # Some page is too long, and SQLite does not say which: they are read one by one.
        pages: list[Page | None] = []
        for each in ranges:
            pages += self._pages(connection, query, [each], left)
            if pages[-1] is None:
                break
        return pages

    def _found(
        self,
        connection: apsw.Connection,
        query: Query,
        ranges: Sequence[Range],
        left: int | None,
        most: int,
    ) -> list[Page] | None:
        """The pages of these ranges; None when one is longer than `most` bytes."""
        pages = self._fetched(connection, query, ranges, left, most)
        if pages is None or query.relation.counted:  # of ours each text was checked when it came
            return pages
        for range_, page in zip(ranges, pages, strict=True):
            if not _is_text(page):
                key = self._key_of_no_text(connection, query, range_)
                raise InvalidTextError(
                    f"{query.relation.address}: the row with the key {shown(key)} has a text that "
                    "is not valid UTF-8",
                    hint="mend it, or leave out its column with columns=",
                )
        return pages

    def _key_of_no_text(
        self, connection: apsw.Connection, query: Query, range_: Range
    ) -> KeyValues:
        """The key of the row whose text is none, looked for by halves."""
        after, until = range_
        rows = ROWS_HIGHEST
        while True:
            rows = max(1, rows // 2)
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, LONGEST)
            statement = fence_statement(query, first=after is None)
            found = fetch(connection, statement, (*(after or ()), *until, rows - 1))
            if not found or found[0] == until:
                if rows == 1:
                    return until
                continue
            pages = self._fetched(
                connection, query, [Range(after, found[0])], None, self._row_bytes
            )
            if pages is None or _is_text(pages[0]):
                after = found[0]
            else:
                until = found[0]

    def _fetched(
        self,
        connection: apsw.Connection,
        query: Query,
        ranges: Sequence[Range],
        left: int | None,
        most: int,
    ) -> list[Page] | None:
        """The same, whatever stands in them: SQLite takes any bytes for text."""
        wide = connection.pragma("encoding") != "UTF-8"
        statement = pages_statement(
            query.shape,
            self._clock,
            len(ranges),
            first=ranges[0].after is None,
            limited=left is not None,
            wide=wide,
        )
        longest = SEQ_BYTES + (HEAD_BYTES + most) * len(ranges)
        # The limit holds for the text of the statement, too, which has all columns in it.
        longest = max(longest * (2 if wide else 1), len(statement) * STATEMENT_BYTES)
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, longest)
        bindings: list[Any] = []
        for each in ranges:
            bindings += [*(each.after or (None,) * len(each.until)), *each.until]
        bindings += filter_values(query)
        if left is not None:
            bindings.append(left)
        try:
            found = fetch(connection, statement, bindings)
        except apsw.TooBigError:
            return None
        if wide:
            texts = [row[0] for row in found]
            seq = int(texts[0][:SEQ_BYTES])
            pages = [
                Page(int(text[SEQ_BYTES : SEQ_BYTES + 8]), text[SEQ_BYTES + HEAD_BYTES :].encode())
                for text in texts
            ]
        else:
            blob = found[0][0]
            seq = int(blob[:SEQ_BYTES])
            pages = list(_split(blob))
        if seq < query.since:
            raise StoreError(
                f"the database has come to change {seq}, the stream began at {query.since}",
                hint="was it restored from a backup? Start the export again",
            )
        return pages if all(len(page.data) <= most for page in pages) else None


def _the_one_that_is(
    connection: apsw.Connection, query: Query, keys: Sequence[KeyValues]
) -> KeyValues:
    """The first of these keys that a row has; the first of them where none has, or none is sought.

    Without an index each would be looked for in all rows.
    """
    if len(keys) > 1 and key_of(query).access:
        statement = row_statement(query)
        return next((key for key in keys if fetch(connection, statement, key)), keys[0])
    return keys[0]


def _split(blob: bytes) -> Iterator[Page]:
    """Each page of a blob, its lines as a view: nothing is copied."""
    view, start = memoryview(blob), SEQ_BYTES
    while start < len(blob):
        lines = start + HEAD_BYTES
        rows, size = int(blob[start : start + 8]), int(blob[start + 8 : lines])
        yield Page(rows, view[lines : lines + size])
        start = lines + size


def _is_text(page: Page) -> bool:
    try:
        str(page.data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def shown(key: KeyValues) -> str:
    """A key as messages show it."""
    return ", ".join(repr(value)[:100] for value in key)
