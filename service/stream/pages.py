"""The pages of one stream: read ahead while the client keeps up, dropped when it does not."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ..stores import Store
from ..table import Cursor, Page, Query
from .flow import Flow
from .large_rows import LargeRows, Share

PAGES_A_TRIP = 32
"""Most pages that one call to the store brings back: a call costs some hundred microseconds
in all, and 32 pages of 16 KiB make that small beside the reading itself."""
TRIPS_AHEAD = 5
"""Calls to the store under way for a fast client, so that no reader waits for its turn."""
IDS_A_TRIP = 40_000
"""Most ids that one call looks at, so that it takes milliseconds however rare a match is."""
SHARE = 4
"""A call takes no more than one in so many of the free pages."""
PAGES_A_WRITE = 2
"""Pages that a fast client gets in one write; half the work, and within the bound."""


class ReadAhead:
    """The memory that all streams together may hold ahead of what they are sending.

    It is counted in pages, none of which has more than `page_bytes`.

    page_bytes: bytes in a page at most. freed: set when memory was freed that is worth being given
    back to the system.
    """

    def __init__(self, size: int, page_bytes: int) -> None:
        """size: bytes in all."""
        self.free = size // page_bytes
        self.page_bytes = page_bytes
        self.freed = asyncio.Event()

    def take(self, wanted: int) -> int:
        """As many pages as wanted, but no more than a part of what is free: others come, too."""
        granted = min(wanted, self.free // SHARE)
        self.free -= granted
        return granted

    def give_back(self, pages: int) -> None:
        self.free += pages


class Budgets(NamedTuple):
    """The memory that all streams of a worker share."""

    read_ahead: ReadAhead
    large_rows: LargeRows


class _Trip:
    """One call to the store, under way; `paid` of its pages are out of the read-ahead."""

    def __init__(self, store: Store, query: Query, cursor: Cursor, paid: int, count: int) -> None:
        self.cursor = cursor
        self.paid = paid
        self.end = cursor.after + count * cursor.span
        self.task = asyncio.create_task(store.read_pages(query, cursor, count))


class _Row:
    """A row longer than a page, and how much of it has been handed out."""

    def __init__(self, page: Page, share: Share) -> None:
        self._data = memoryview(page.data)
        self._page = page
        self._share = share

    def next(self, size: int) -> tuple[Page, bool]:
        """The next `size` bytes of it, and whether they are the last ones."""
        piece, self._data = bytes(self._data[:size]), self._data[size:]
        if self._data:
            return Page(piece, 0, self._page.next_cursor), False
        return Page(piece, self._page.rows, self._page.next_cursor), True

    def end(self) -> None:
        """Nobody needs the rest of it."""
        self._share.end()


class Pages:
    """The pages of one query, in order.

    Between two pages the cursor is all that counts: a page that was read but not handed
    out can be dropped, and is read again later, as the table is by then.
    """

    def __init__(
        self,
        store: Store,
        query: Query,
        cursor: Cursor,
        budgets: Budgets,
        flow: Flow,
    ) -> None:
        self._store = store
        self._query = query
        self._ahead, self._large_rows = budgets
        self._flow = flow
        self._cursor: Cursor | None = cursor
        self._ready: deque[Page] = deque()
        self._paid = 0
        self._trips: deque[_Trip] = deque()
        self._depth = 1
        self._row: _Row | None = None
        self._next_is_large = False

    async def next(self) -> Page | None:
        """What is to be written next, or None behind the last page. Raises what the store raises.

        It is as long as two pages at most, and a copy: holding it holds nothing else. A row that
        is longer comes in pieces; the last one of them counts it.
        """
        await self.load()
        if self._row is not None:
            piece, last = self._row.next(PAGES_A_WRITE * self._ahead.page_bytes)
            if last:
                self._end_row()
                self._cursor = piece.next_cursor
            return piece
        if not self._ready:
            return None
        count = PAGES_A_WRITE if self._depth == PAGES_A_TRIP else 1
        taken = [self._ready.popleft() for _ in range(min(count, len(self._ready)))]
        self._cursor = taken[-1].next_cursor
        data = b"".join([page.data for page in taken])
        return Page(data, sum([page.rows for page in taken]), self._cursor)

    async def load(self, *, wait: bool = True) -> None:
        """Have the next page at hand, so that what fails, fails now.

        wait: also when the next row is longer than a page, and others hold the memory for it.
        """
        if self._row or self._ready or self._cursor is None:
            return
        if not self._next_is_large:
            await self._load_pages(self._cursor)
        if self._next_is_large:
            await self._load_row(self._cursor, wait)

    async def _load_pages(self, cursor: Cursor) -> None:
        if not self._trips:
            self._set_out(cursor)
        trip = self._trips[0]
        # Let it finish when nobody waits any more: to call it off would cost the database more.
        self._ready.extend(await asyncio.shield(trip.task))
        self._trips.popleft()
        self._ahead.give_back(self._paid)
        self._paid = trip.paid
        if not self._ready:
            self._abandon()
            self._next_is_large = True
            return
        self._read_ahead(self._ready[-1].next_cursor)
        self._depth = min(self._depth * 2, PAGES_A_TRIP)
        # A client that is always ready must not keep the others from their turn.
        await asyncio.sleep(0)

    async def _load_row(self, cursor: Cursor, wait: bool) -> None:
        """Read one row, however long, once there is memory for the longest that there may be."""
        share = self._large_rows.take_now(self._flow)
        if share is None:
            if not wait:
                return
            share = await self._large_rows.take(self._flow)
        reading = asyncio.create_task(self._store.read_row(self._query, cursor))
        try:
            page = await asyncio.shield(reading)
        except BaseException:
            _when_done(reading, share.end)
            raise
        if len(page.data) > self._ahead.page_bytes:
            share.shrink(len(page.data))
            self._row = _Row(page, share)
            self._ahead.freed.set()  # reading it took it several times
        else:  # the next row is short again, or there is none
            self._ready.append(page)
            share.end()
            self._next_is_large = False
        await asyncio.sleep(0)

    def _end_row(self) -> None:
        if self._row is not None:
            self._row.end()
            self._row = None

    def _read_ahead(self, following: Cursor | None) -> None:
        """Have the next calls under way; where they start is a guess but for the first."""
        if self._trips and (following is None or self._trips[0].cursor.after != following.after):
            self._abandon()  # the call before them was cut short, or found a gap
        if following is None or self._depth == 1:
            return
        if not self._trips:
            self._set_out(following)
        # How many rows of a limit are left is known only when the call before is done.
        while len(self._trips) < TRIPS_AHEAD and following.left is None:
            end = self._trips[-1].end
            if end >= self._query.until:
                break
            cursor = following._replace(after=end)
            paid = self._ahead.take(self._wanted(cursor))
            if not paid:
                break
            self._trips.append(_Trip(self._store, self._query, cursor, paid, paid))

    def _set_out(self, cursor: Cursor) -> None:
        """Read what is needed next: its first page is the stream's own, and not paid for."""
        paid = self._ahead.take(self._wanted(cursor) - 1)
        self._trips.append(_Trip(self._store, self._query, cursor, paid, 1 + paid))

    def _wanted(self, cursor: Cursor) -> int:
        return max(1, min(self._depth, IDS_A_TRIP // cursor.span))

    def drop(self) -> None:
        """Let go of all that has been read ahead; of a long row the rest has still to be sent."""
        if self._ready or self._trips:
            self._ahead.freed.set()
        self._ready.clear()
        self._ahead.give_back(self._paid)
        self._paid = 0
        self._depth = 1
        self._abandon()

    def close(self) -> None:
        """Let go of everything."""
        if self._row is not None:
            self._ahead.freed.set()
        self.drop()
        self._end_row()

    def _abandon(self) -> None:
        """Nobody wants these pages any more: pay them back once they are no longer held."""
        while self._trips:
            trip = self._trips.popleft()
            _when_done(trip.task, partial(self._ahead.give_back, trip.paid))


def _when_done(reading: asyncio.Task[Any], pay_back: Callable[[], None]) -> None:
    """Pay back what a call to the store takes, once it is done, though nobody waits for it."""

    def done(task: asyncio.Task[Any]) -> None:
        pay_back()
        if not task.cancelled():
            task.exception()  # it is met again if the same page is read again

    reading.add_done_callback(done)
