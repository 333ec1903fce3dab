"""One statement, one trip to the server: results come by COPY in its binary form.

Nothing is prepared, so a pooler between us and the server is no hindrance and a table that was
changed invalidates nothing. The form is described in PostgreSQL's manual, under COPY.
"""

import struct
from collections.abc import Iterator
from typing import Any

import asyncpg

HEADER_BYTES = 19
"""What comes before the first row: a signature of 11 bytes, flags, the length of no extension."""
END = -1
"""What stands in place of a number of fields behind the last row."""
_FIELDS, _LENGTH, _NUMBER = struct.Struct("!h"), struct.Struct("!i"), struct.Struct("!q")

Fields = list[memoryview | None]


async def rows(connection: Any, statement: str) -> Iterator[Fields]:
    """The rows of a statement: bytes for each column, None for NULL; they share one buffer."""
    chunks: list[bytes] = []

    async def keep(chunk: bytes) -> None:
        chunks.append(chunk)

    await connection.copy_from_query(statement, output=keep, format="binary")
    return _parsed(memoryview(b"".join(chunks)))


async def fetch(connection: Any, statement: str) -> list[tuple[str | None, ...]]:
    """All rows of a statement whose columns are texts."""
    return [
        tuple(None if value is None else str(value, "utf-8") for value in fields)
        for fields in await rows(connection, statement)
    ]


async def fetch_one(connection: Any, statement: str) -> tuple[str | None, ...]:
    """The first row of a statement that always has one."""
    return (await fetch(connection, statement))[0]


def number(field: memoryview | None) -> int:
    """A bigint."""
    if field is None:
        raise asyncpg.InternalClientError("a number is missing in what the server sent")
    return int(_NUMBER.unpack(field)[0])


def _parsed(blob: memoryview) -> Iterator[Fields]:
    place = HEADER_BYTES
    while True:
        (count,) = _FIELDS.unpack_from(blob, place)
        place += _FIELDS.size
        if count == END:
            return
        fields: Fields = []
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(blob, place)
            place += _LENGTH.size
            fields.append(None if length < 0 else blob[place : place + length])
            place += max(0, length)
        yield fields
