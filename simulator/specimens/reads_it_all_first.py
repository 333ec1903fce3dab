"""Reads the whole file into memory, then sends it: as the tutorials warn."""

import asyncio
import tempfile
from functools import cache
from pathlib import Path

from . import chunks

_folder = tempfile.TemporaryDirectory(prefix="weir-specimen-")


async def answer(writer: asyncio.StreamWriter, size: int) -> None:
    body = _file(size).read_bytes()
    writer.write(body)
    await writer.drain()


@cache
def _file(size: int) -> Path:
    path = Path(_folder.name) / str(size)
    with path.open("wb") as file:
        file.writelines(chunks(size))
    return path
