"""Work that only so many may do at once: the next ones wait for their turn, but not for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..errors import RefusedError


@asynccontextmanager
async def slot(
    slots: asyncio.Semaphore, seconds: float, refusal: RefusedError
) -> AsyncIterator[None]:
    """Hold one of the slots; raises `refusal` when none becomes free within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await slots.acquire()
    except TimeoutError:
        raise refusal from None
    try:
        yield
    finally:
        slots.release()
