"""Writes without draining: what the client does not take piles up in the process."""

import asyncio

from . import chunks


async def answer(writer: asyncio.StreamWriter, size: int) -> None:
    for chunk in chunks(size):
        writer.write(chunk)
        await asyncio.sleep(0)  # others get their turn; nobody waits for the client
    await writer.drain()
