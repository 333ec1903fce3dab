"""The pages of one stream: read ahead while the client keeps up, dropped when it does not."""

import asyncio
from collections import deque

from service.stores import Store
from service.table import Cursor, Page, Query

PAGES_A_TRIP = 16
"""Most pages that one trip to the store brings back: a trip costs tens of microseconds,
and 16 pages of 16 KiB make that small beside the reading itself."""


class ReadAhead:
    """The pages that all streams together may hold ahead of what they are sending."""

    def __init__(self, pages: int) -> None:
        self.free = pages

    def take(self, wanted: int) -> int:
        granted = min(wanted, self.free)
        self.free -= granted
        return granted

    def give_back(self, pages: int) -> None:
        self.free += pages


class _Trip:
    """One call to the store, under way; its pages are paid for out of the read-ahead."""

    def __init__(self, store: Store, query: Query, cursor: Cursor, ahead: ReadAhead, depth: int):
        # The first page is the stream's own, whatever the others have left over.
        self.paid = ahead.take(depth - 1)
        self._ahead = ahead
        self.task = asyncio.create_task(store.read_pages(query, cursor, 1 + self.paid))

    def abandon(self) -> None:
        """Nobody wants the pages any more: pay back once they are no longer held."""

        def done(task: asyncio.Task[list[Page]]) -> None:
            self._ahead.give_back(self.paid)
            if not task.cancelled():
                task.exception()  # it is met again if the same page is read again

        self.task.add_done_callback(done)


class Pages:
    """The pages of one query, in order.

    Between two pages the cursor is all that counts: a page that was read but not handed
    out can be dropped, and is read again later, as the table is by then.
    """

    def __init__(self, store: Store, query: Query, cursor: Cursor, ahead: ReadAhead) -> None:
        self._store = store
        self._query = query
        self._ahead = ahead
        self._cursor: Cursor | None = cursor
        self._ready: deque[Page] = deque()
        self._paid = 0
        self._trip: _Trip | None = None
        self._depth = 1

    async def next(self) -> Page | None:
        """The next page, or None behind the last one. Raises what the store raises."""
        await self.load()
        if not self._ready:
            return None
        page = self._ready.popleft()
        self._cursor = page.next_cursor
        return page

    async def load(self) -> None:
        """Have the next page at hand, so that what fails, fails now."""
        if self._ready or self._cursor is None:
            return
        trip = self._trip = self._trip or self._set_out(self._cursor)
        pages = await trip.task
        self._trip = None
        self._ahead.give_back(self._paid)
        self._paid = trip.paid
        self._ready.extend(pages)
        following = pages[-1].next_cursor
        if self._depth > 1 and following is not None:
            self._trip = self._set_out(following)
        self._depth = min(self._depth * 2, PAGES_A_TRIP)
        # A client that is always ready must not keep the others from their turn.
        await asyncio.sleep(0)

    def _set_out(self, cursor: Cursor) -> _Trip:
        return _Trip(self._store, self._query, cursor, self._ahead, self._depth)

    def drop(self) -> None:
        """Let go of all that has been read ahead."""
        self._ready.clear()
        self._ahead.give_back(self._paid)
        self._paid = 0
        self._depth = 1
        if self._trip is not None:
            self._trip.abandon()
            self._trip = None
