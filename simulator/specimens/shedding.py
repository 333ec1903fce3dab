"""Awaits every write, but not for long: a client that takes nothing for a while is reset."""

import asyncio
import socket
import struct

from . import chunks
from .bounded import bound_kernel

PATIENCE = 0.5
"""Seconds without room for the next chunk until a client counts as too slow."""


async def answer(writer: asyncio.StreamWriter, size: int) -> None:
    bound_kernel(writer)
    writer.transport.set_write_buffer_limits(0)
    for chunk in chunks(size):
        writer.write(chunk)
        try:
            await asyncio.wait_for(writer.drain(), PATIENCE)
        except TimeoutError:
            linger = struct.pack("ii", 1, 0)
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return
