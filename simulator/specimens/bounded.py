"""Awaits every write, and bounds both buffers: the transport's and the kernel's."""

import asyncio
import socket

from . import CHUNK, chunks


async def answer(writer: asyncio.StreamWriter, size: int) -> None:
    bound_kernel(writer)
    writer.transport.set_write_buffer_limits(0)
    for chunk in chunks(size):
        writer.write(chunk)
        await writer.drain()


def bound_kernel(writer: asyncio.StreamWriter) -> None:
    """Let the kernel take no more while it has so much unsent."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, CHUNK)
