"""The loop that all of Weir is about."""

from collections.abc import Awaitable, Callable

from .pages import Pages
from .stream import Stream


async def pump(stream: Stream, pages: Pages, write: Callable[[bytes], Awaitable[None]]) -> None:
    """Read a page, send it, wait until the client has taken it; until there is none left.

    While the client is slow no thread and no connection of the store is held, and no page
    but what the socket has not yet taken of the last one.
    """
    while (page := await pages.next()) is not None:
        if page.data:
            await write(bytes(page.data))
        stream.count(page.rows, len(page.data))
        del page
        await stream.flow.room(slow=pages.drop)
