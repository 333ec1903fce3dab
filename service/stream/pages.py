"""The pages of one stream: read ahead while the client keeps up, dropped when it does not."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from ..engines import Reader
from ..engines.ranges import rows_for
from ..query import Cursor, KeyValues, Page, Query, Range
from .flow import Flow
from .large_rows import LargeRows, Share

PAGES_A_TRIP = 32
"""Most pages that one call to the engine brings back: a call costs some hundred microseconds
in all, and 32 pages of 16 KiB make that small beside the reading itself."""
TRIPS_AHEAD = 5
"""Calls to the engine under way for a fast client, so that no reader waits for its turn."""
ROWS_A_TRIP = 40_000
"""Most rows that one call looks at, so that it takes milliseconds however rare a match is."""
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
    """A call to the engine, under way; where it ends is known as soon as it is cut.

    rows: how many each of its ranges covers. count: how many ranges it may have. paid: pages of it
    that are out of the read-ahead. ranges: empty until it is cut.
    """

    def __init__(self, after: KeyValues | None, rows: int, count: int, paid: int) -> None:
        self.after = after
        self.rows = rows
        self.count = count
        self.paid = paid
        self.ranges: list[Range] = []
        self.reading: asyncio.Task[list[Page | None]]


class _Row:
    """A row longer than a page, and how much of it has been handed out."""

    def __init__(self, page: Page, cursor: Cursor, share: Share) -> None:
        """cursor: where to go on behind it."""
        self.cursor = cursor
        self._rows = page.rows
        self._data = memoryview(page.data)
        self._share = share

    @property
    def done(self) -> bool:
        """Whether all of it was handed out."""
        return not self._data

    def next(self, size: int) -> Page:
        """The next `size` bytes of it; the last ones count the row."""
        piece, self._data = bytes(self._data[:size]), self._data[size:]
        return Page(self._rows if self.done else 0, piece)

    def end(self) -> None:
        """Nobody needs the rest of it."""
        self._share.end()


class Pages:
    """The pages of one query, in order.

    Between two pages the cursor is all that counts: a page that was read but not handed
    out can be dropped, and is read again later, as the table is by then.
    """

    def __init__(
        self, reader: Reader, query: Query, cursor: Cursor, budgets: Budgets, flow: Flow
    ) -> None:
        self._reader = reader
        self._query = query
        self._ahead, self._large_rows = budgets
        self._flow = flow
        self._cursor: Cursor | None = None if query.until is None else cursor
        self._rows = cursor.rows
        self._depth = 1
        self._ready: deque[tuple[Page, Cursor]] = deque()
        self._paid = 0
        self._trips: deque[_Trip] = deque()
        self._row: _Row | None = None
        self._next_is_large = False

    async def next(self) -> Page | None:
        """What is to be written next, or None behind the last page. Raises what the engine raises.

        It is as long as two pages at most, and a copy: holding it holds nothing else. A row that
        is longer comes in pieces; the last one of them counts it.
        """
        await self.load()
        if self._row is not None:
            piece = self._row.next(PAGES_A_WRITE * self._ahead.page_bytes)
            if self._row.done:
                self._cursor = self._unless_done(self._row.cursor)
                self._end_row()
            return piece
        if not self._ready:
            return None
        count = PAGES_A_WRITE if self._depth == PAGES_A_TRIP else 1
        taken = [self._ready.popleft() for _ in range(min(count, len(self._ready)))]
        self._cursor = self._unless_done(taken[-1][1])
        data = b"".join([page.data for page, _ in taken])
        return Page(sum([page.rows for page, _ in taken]), data)

    async def load(self, *, wait: bool = True) -> None:
        """Have the next page at hand, so that what fails, fails now.

        wait: also when the next row is longer than a page, and others hold the memory for it.
        """
        while self._cursor is not None and not (self._ready or self._row):
            if not self._next_is_large:
                await self._load_pages(self._cursor)
            elif not await self._load_row(self._cursor, wait):
                return
            # A client that is always ready must not keep the others from their turn.
            await asyncio.sleep(0)

    def _unless_done(self, cursor: Cursor) -> Cursor | None:
        """The cursor, or None when there is nothing to be delivered behind it."""
        return None if cursor.after == self._query.until or cursor.left == 0 else cursor

    # Pages: one call brings many, and several calls are under way for a fast client.

    async def _load_pages(self, cursor: Cursor) -> None:
        if not self._trips:
            self._set_out(cursor)
        trip = self._trips[0]
        # Let it finish when nobody waits any more: to call it off would cost the database more.
        pages = await asyncio.shield(trip.reading)
        self._trips.popleft()
        self._ahead.give_back(self._paid)
        self._paid = trip.paid
        if not trip.ranges:
            self._cursor = None
            return
        self._take_in(trip, pages, cursor)
        if self._ready:
            following = self._unless_done(self._ready[-1][1])
            if following and self._depth > 1 and not self._trips:
                self._set_out(following)
            self._set_out_behind()
            self._depth = min(self._depth * 2, PAGES_A_TRIP)

    def _take_in(self, trip: _Trip, pages: Sequence[Page | None], cursor: Cursor) -> None:
        """Have the pages of a call ready, and learn from them how many rows the next ones take."""
        found: list[Page] = []
        for range_, page in zip(trip.ranges, pages, strict=False):
            if page is None or (cursor.left is not None and page.rows > cursor.left):
                # What comes behind was cut for rows that are shorter, or is beyond the limit.
                self._abandon()
                break
            left = None if cursor.left is None else cursor.left - page.rows
            cursor = Cursor(range_.until, left, trip.rows)
            found.append(page)
            self._ready.append((page, cursor))
        self._rows = rows_for(trip.rows, found, self._ahead.page_bytes)
        if pages[-1] is None:
            self._rows = max(1, min(self._rows, trip.rows // 2))
        self._next_is_large = not found and trip.rows == 1

    def _set_out(self, cursor: Cursor) -> None:
        """Read what is needed next: its first page is the stream's own, and not paid for."""
        paid = self._ahead.take(self._wanted() - 1)
        self._start(_Trip(cursor.after, self._rows, 1 + paid, paid), cursor.left)

    def _set_out_behind(self) -> None:
        """Read on behind the last call, as soon as it is known where that one ends.

        How many rows of a limit are left is known only when it is done; then there is none ahead.
        """
        last = self._trips[-1] if self._trips else None
        if last is None or not last.ranges or self._depth == 1 or self._query.limit is not None:
            return
        end = last.ranges[-1].until
        if len(self._trips) < TRIPS_AHEAD and end != self._query.until:
            paid = self._ahead.take(self._wanted())
            if paid:
                self._start(_Trip(end, self._rows, paid, paid), None)

    def _wanted(self) -> int:
        return max(1, min(self._depth, ROWS_A_TRIP // self._rows))

    def _start(self, trip: _Trip, left: int | None) -> None:
        self._trips.append(trip)
        trip.reading = asyncio.create_task(self._read(trip, left))

    async def _read(self, trip: _Trip, left: int | None) -> list[Page | None]:
        trip.ranges = await self._reader.cut(self._query, trip.after, trip.rows, trip.count)
        if self._trips and self._trips[-1] is trip:
            self._set_out_behind()
        return await self._reader.read(self._query, trip.ranges, left) if trip.ranges else []

    # Rows longer than a page: one at a time, out of a budget of their own.

    async def _load_row(self, cursor: Cursor, wait: bool) -> bool:
        """Read one row, however long, once there is memory for the longest that there may be.

        False when others have it, and nobody is to wait.
        """
        share = self._large_rows.take_now(self._flow)
        if share is None:
            if not wait:
                return False
            share = await self._large_rows.take(self._flow)
        reading = asyncio.create_task(self._read_row(cursor))
        try:
            found = await asyncio.shield(reading)
        except BaseException:
            _when_done(reading, share.end)
            raise
        if found is None:
            share.end()
            self._cursor = None
            return True
        page, behind = found
        if len(page.data) > self._ahead.page_bytes:
            share.shrink(len(page.data))
            self._row = _Row(page, behind, share)
            self._ahead.freed.set()  # reading it took it several times
        else:  # the next row is short again
            share.end()
            self._ready.append((page, behind))
            self._next_is_large = False
        return True

    async def _read_row(self, cursor: Cursor) -> tuple[Page, Cursor] | None:
        ranges = await self._reader.cut(self._query, cursor.after, 1, 1)
        if not ranges:
            return None
        async with self._large_rows.reading:
            page = await self._reader.read_row(self._query, ranges[0])
        left = None if cursor.left is None else cursor.left - page.rows
        return page, Cursor(ranges[0].until, left, 1)

    def _end_row(self) -> None:
        if self._row is not None:
            self._row.end()
            self._row = None

    # Letting go.

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
            _when_done(trip.reading, partial(self._ahead.give_back, trip.paid))


def _when_done(reading: asyncio.Task[Any], pay_back: Callable[[], None]) -> None:
    """Pay back what a call to the engine takes, once it is done, though nobody waits for it."""

    def done(task: asyncio.Task[Any]) -> None:
        pay_back()
        if not task.cancelled():
            task.exception()  # it is met again if the same page is read again

    reading.add_done_callback(done)
