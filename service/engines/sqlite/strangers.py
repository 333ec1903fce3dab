"""A SQLite file that another program has made: opened to be read, and never written to."""

from pathlib import Path
from urllib.parse import quote

import apsw

from ...errors import ConfigurationError, StoreError
from ...settings import Settings
from .connections import Connections
from .file import log_of

READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


async def open_strangers(path: Path, settings: Settings) -> Connections:
    """Threads that read the file; ConfigurationError when it cannot be read.

    A file with a write-ahead log wants to be opened with two files beside it. Where these cannot be
    made, as on a file system that is read-only, nobody can write either, and SQLite is told so.
    """
    address = f"file:{quote(str(path))}?mode=ro"
    fault = await _try(path, settings, address)
    if isinstance(fault, StoreError) and not log_of(path).exists():
        connections = await _try(path, settings, address + "&immutable=1")
        if isinstance(connections, Connections):
            return connections
    if isinstance(fault, Connections):
        return fault
    raise ConfigurationError(
        fault.message,
        hint="is it a database, whole and not encrypted, and may this user read it?",
    )


async def _try(path: Path, settings: Settings, address: str) -> Connections | StoreError:
    connections = Connections(path, settings.read_threads, address, READ_ONLY)

    def look(connection: apsw.Connection) -> None:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        connections.opened()

    try:
        await connections.read(look)
    except StoreError as fault:
        await connections.close()
        return fault
    return connections
