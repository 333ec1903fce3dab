"""Awaits every write, but leaves the kernel's buffer to its autotuning: megabytes for each."""

import asyncio

from . import chunks


async def answer(writer: asyncio.StreamWriter, size: int) -> None:
    writer.transport.set_write_buffer_limits(0)
    for chunk in chunks(size):
        writer.write(chunk)
        await writer.drain()
