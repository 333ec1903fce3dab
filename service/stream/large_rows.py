"""Memory for rows that are longer than a page: one budget, which all streams share.

What a single stream may hold has to be small, as there are ten thousand. A row of a megabyte
cannot be part of it. So it is paid for out of a budget of its own: a stream that gets none waits,
and holds nothing while it does. Who holds some and does not move gives way when others wait.
"""

import asyncio
from collections import deque
from time import monotonic

from .flow import Flow

LOOK_SECONDS = 1.0
"""Seconds between two looks at whether somebody holds on to memory and does not move."""


class Share:
    """The part of the budget that one row takes: as large as a row may be, until its size is known.

    flow: the connection that it is read for.
    """

    __slots__ = ("_rows", "bytes", "flow")

    def __init__(self, rows: "LargeRows", flow: Flow, size: int) -> None:
        self._rows = rows
        self.flow = flow
        self.bytes = size

    def shrink(self, size: int) -> None:
        """Keep `size` bytes, as long as the row is, and give back what it does not need."""
        freed, self.bytes = self.bytes - size, size
        self._rows.take_back(self, freed)

    def end(self) -> None:
        """Give back all of it; the row is held no longer."""
        self.shrink(0)


class LargeRows:
    """The budget: who has a share of it, who waits for one, and who has to give way."""

    def __init__(self, budget: int, row_bytes: int, timeout: float) -> None:
        """budget: bytes in all. row_bytes: the longest row. timeout: seconds without a byte
        acknowledged until a share is taken from its stream, when another one waits for it."""
        self.reading = asyncio.Lock()
        """Held while a row is read, which takes it several times: one at a time is in the bound."""
        self._free = budget
        self._row_bytes = row_bytes
        self._timeout = timeout
        self._shares: set[Share] = set()
        self._waiting: deque[tuple[Flow, asyncio.Future[Share]]] = deque()

    def take_now(self, flow: Flow) -> Share | None:
        """A share, if there is one without waiting."""
        if self._waiting or self._free < self._row_bytes:
            return None
        return self._give(flow)

    async def take(self, flow: Flow) -> Share:
        """A share as soon as there is one; those who wait get theirs in the order they came in."""
        if share := self.take_now(flow):
            return share
        future: asyncio.Future[Share] = asyncio.get_running_loop().create_future()
        waiter = flow, future
        self._waiting.append(waiter)
        try:
            while not (await asyncio.wait([future], timeout=LOOK_SECONDS))[0]:
                if self._waiting[0] is waiter:
                    self._evict()
        except asyncio.CancelledError:
            if future.done():
                future.result().end()
            else:
                self._waiting.remove(waiter)
                self._hand_out()
            raise
        return future.result()

    def take_back(self, share: Share, size: int) -> None:
        """Some bytes of a share are free again; those of a share that has none left, all are."""
        self._free += size
        if not share.bytes:
            self._shares.discard(share)
        self._hand_out()

    def _give(self, flow: Flow) -> Share:
        self._free -= self._row_bytes
        share = Share(self, flow, self._row_bytes)
        self._shares.add(share)
        return share

    def _hand_out(self) -> None:
        while self._waiting and self._free >= self._row_bytes:
            flow, future = self._waiting.popleft()
            future.set_result(self._give(flow))

    def _evict(self) -> None:
        """Reset those who have not moved for too long, the stillest first, one for each waiter."""
        now = monotonic()
        still = [(share.flow.still_for(now), share) for share in self._shares]
        still.sort(key=lambda pair: pair[0], reverse=True)
        for seconds, share in still[: len(self._waiting)]:
            if seconds >= self._timeout:
                share.flow.abort("stalled")
