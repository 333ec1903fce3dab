"""A PostgreSQL database that another program has made: nothing of ours is in it, or is made."""

import asyncpg

from ...errors import ConfigurationError
from .statements import IDENTITY, POSITION

OLDEST_VERSION = 14
"""The oldest PostgreSQL that this is made for."""


class Strangers:
    """An Origin: told from others by its server's number and its own.

    How far it has come is told by its write-ahead log, which is the same on all copies.
    """

    identity = f"({IDENTITY})"
    position = POSITION

    async def prepare(self, connection: asyncpg.Connection, name: str) -> None:
        await check_version(connection, name)

    async def identify(self, connection: asyncpg.Connection, name: str) -> str:
        await check_version(connection, name)
        return str(await connection.fetchval(f"SELECT {self.identity}"))


async def check_version(connection: asyncpg.Connection, name: str) -> None:
    """Raise ConfigurationError when the server is too old."""
    version = connection.get_server_version()
    if version.major < OLDEST_VERSION:
        raise ConfigurationError(
            f"{name} is PostgreSQL {version.major}; {OLDEST_VERSION} or newer is needed",
            hint="bring the server up to date",
        )
