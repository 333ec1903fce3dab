"""The loop that all of Weir is about, and what it moves bytes between."""

from collections.abc import Callable
from typing import Protocol

from ..query import Page


class Source(Protocol):
    """Where pages come from."""

    async def next(self) -> Page | None:
        """The next page, None behind the last one. A thread or a connection is held in here."""

    def drop(self) -> None:
        """Let go of all that was read ahead, and keep the position only."""


class Sink(Protocol):
    """Where bytes go."""

    async def write(self, data: bytes) -> None:
        """Take these bytes; they are held in here."""

    async def room(self, slow: Callable[[], None]) -> None:
        """Return when there is room for more, perhaps early, never late; nothing is held in here.

        slow: called when that takes a while. One waits at a time.
        """

    async def finish(self) -> None:
        """Say that this was all, and return when the other side has it."""

    def abort(self, reason: str = "") -> None:
        """End it so that nobody takes it for whole."""


async def pump(source: Source, sink: Sink, sent: Callable[[int, int], None]) -> None:
    """Take a page, write it, wait for room; until there is none left.

    While the sink is slow no thread and no connection of the database is held, and no page but what
    the sink has not yet taken of the last one. sent: told the rows and bytes of each page.
    """
    while (page := await source.next()) is not None:
        if page.data:
            await sink.write(bytes(page.data))
        sent(page.rows, len(page.data))
        del page
        await sink.room(source.drop)
