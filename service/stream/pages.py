"""The pages of one stream: read ahead while the client keeps up, dropped when it does not."""

import asyncio
from collections import deque

from ..stores import Store
from ..table import Cursor, Page, Query

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
    """The pages that all streams together may hold ahead of what they are sending.

    dropped: set when some were dropped, so that their memory can be given back.
    """

    def __init__(self, pages: int) -> None:
        self.free = pages
        self.dropped = asyncio.Event()

    def take(self, wanted: int) -> int:
        """As many pages as wanted, but no more than a part of what is free: others come, too."""
        granted = min(wanted, self.free // SHARE)
        self.free -= granted
        return granted

    def give_back(self, pages: int) -> None:
        self.free += pages


class _Trip:
    """One call to the store, under way; its pages are paid for out of the read-ahead."""

    def __init__(self, store: Store, query: Query, cursor: Cursor, paid: int, count: int) -> None:
        self.cursor = cursor
        self.paid = paid
        self.end = cursor.after + count * cursor.span
        self.task = asyncio.create_task(store.read_pages(query, cursor, count))


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
        self._trips: deque[_Trip] = deque()
        self._depth = 1

    async def next(self) -> Page | None:
        """The next page, or None behind the last one. Raises what the store raises.

        Its data is a copy of its own: holding it holds nothing else.
        """
        await self.load()
        if not self._ready:
            return None
        count = PAGES_A_WRITE if self._depth == PAGES_A_TRIP else 1
        taken = [self._ready.popleft() for _ in range(min(count, len(self._ready)))]
        self._cursor = taken[-1].next_cursor
        data = b"".join([page.data for page in taken])
        return Page(data, sum([page.rows for page in taken]), self._cursor)

    async def load(self) -> None:
        """Have the next page at hand, so that what fails, fails now."""
        if self._ready or self._cursor is None:
            return
        if not self._trips:
            self._set_out(self._cursor)
        trip = self._trips[0]
        # Let it finish when nobody waits any more: to call it off would cost the database more.
        self._ready.extend(await asyncio.shield(trip.task))
        self._trips.popleft()
        self._ahead.give_back(self._paid)
        self._paid = trip.paid
        self._read_ahead(self._ready[-1].next_cursor)
        self._depth = min(self._depth * 2, PAGES_A_TRIP)
        # A client that is always ready must not keep the others from their turn.
        await asyncio.sleep(0)

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
            self._set_out(following._replace(after=end))

    def _set_out(self, cursor: Cursor) -> None:
        # The first page is the stream's own, whatever the others have left over.
        wanted = max(1, min(self._depth, IDS_A_TRIP // cursor.span))
        paid = self._ahead.take(wanted - 1)
        self._trips.append(_Trip(self._store, self._query, cursor, paid, 1 + paid))

    def drop(self) -> None:
        """Let go of all that has been read ahead."""
        if self._ready or self._trips:
            self._ahead.dropped.set()
        self._ready.clear()
        self._ahead.give_back(self._paid)
        self._paid = 0
        self._depth = 1
        self._abandon()

    def _abandon(self) -> None:
        """Nobody wants these pages any more: pay them back once they are no longer held."""
        while self._trips:
            trip = self._trips.popleft()

            def done(task: asyncio.Task[list[Page]], paid: int = trip.paid) -> None:
                self._ahead.give_back(paid)
                if not task.cancelled():
                    task.exception()  # it is met again if the same page is read again

            trip.task.add_done_callback(done)
