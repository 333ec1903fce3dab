"""A SQLite file that another program has made: opened to be read, and never written to."""

import asyncio
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import apsw

from ...errors import ConfigurationError, StoreError
from ...settings import Settings
from .connections import Connections
from .file import journal_of, log_of
from .sql import rows

READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
NO_RIGHTS = (apsw.CantOpenError, apsw.ReadOnlyError)
"""What SQLite raises where it would have to write something before it can read."""


class StrangersFile(Connections):
    """Threads that read a file, and leave no other files behind that were not there."""

    def _close(self) -> None:
        super()._close()
        _remove_empty_log(self.path)


async def open_strangers(path: Path, settings: Settings) -> Connections:
    """Threads that read the file; ConfigurationError when it cannot be read.

    A file with a write-ahead log wants to be opened with two files beside it. Where these cannot be
    made, as on a file system that is read-only, SQLite is told that nobody writes: were somebody to
    write all the same, it would be noticed, and what is read would be a fault.
    """
    address = f"file:{quote(str(path))}?mode=ro"
    found = await _try(path, settings, address)
    if isinstance(found, StoreError) and isinstance(found.__cause__, NO_RIGHTS):
        for beside in (log_of(path), journal_of(path)):
            if await asyncio.to_thread(beside.exists):
                raise ConfigurationError(
                    f"{path} was left in the middle of a write, which {beside.name} is to mend",
                    hint="open it once with the program that it belongs to, as a user who may "
                    "write to it and its folder",
                )
        found = await _try(path, settings, address + "&immutable=1", fixed=True)
    if isinstance(found, StoreError):
        raise ConfigurationError(
            found.message,
            hint="is it a database, whole, not encrypted or locked, and may this user read it?",
        )
    return found


async def _try(
    path: Path, settings: Settings, address: str, *, fixed: bool = False
) -> Connections | StoreError:
    connections = StrangersFile(path, settings.read_threads, address, READ_ONLY)

    def look(connection: apsw.Connection) -> None:
        rows(connection, "SELECT count(*) FROM sqlite_schema")
        connections.opened(log_may_change=not fixed, fixed=fixed)

    try:
        await connections.read(look)
    except StoreError as fault:
        await connections.close()
        return fault
    return connections


def _remove_empty_log(path: Path) -> None:
    """Have SQLite remove a log without a word in it, and its index; never raises.

    They are made when a file is opened to be read, too, but only whoever may write removes them
    again, as the last one who closes it. With an empty log nothing is written to the file.
    """
    with suppress(OSError, apsw.Error):
        if log_of(path).stat().st_size == 0:
            with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as last:
                rows(last, "SELECT 1 FROM sqlite_schema LIMIT 1")
