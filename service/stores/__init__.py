"""The stores: where tasks live. This package holds the only SQL."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from ..errors import ConfigurationError, NotFoundError, RowTooLargeError
from ..settings import Settings, without_password
from ..table import Cursor, Extent, NewTask, Page, Query, ServerState, Task

__all__ = ["Store", "open_store"]

log = structlog.get_logger()


class Store(Protocol):
    """A table of tasks.

    Each method holds a thread or a connection only until it returns; none leaves a
    transaction or a cursor open. All raise StoreError when the database fails.
    """

    async def extent(self, *, latest: bool = False) -> Extent:
        """The highest id and the newest `seq`, read at one instant.

        latest: all that has been written so far; else a replica's view will do.
        """

    async def read_pages(self, query: Query, cursor: Cursor, count: int) -> list[Page]:
        """Up to `count` consecutive pages of `cursor.span` ids each, behind `cursor.after`.

        A page's data is at most `page_bytes` long: the first page shrinks until it is, and the
        last one is the one before one that is not. No page at all: the next row alone is longer,
        and `read_row` reads it.
        Nothing is read from a server that has not come as far as `query.since`.
        """

    async def read_row(self, query: Query, cursor: Cursor) -> Page:
        """The page of the one id behind `cursor.after`, at most `row_bytes` long.

        Raises RowTooLargeError, naming the id, when the row is longer than that.
        """

    async def create(self, tasks: Sequence[NewTask]) -> list[Task]:
        """Store all tasks or none; durable when it returns."""

    async def read(self, task_id: int) -> Task:
        """One task, or NotFoundError."""

    async def update(self, task_id: int, changes: Mapping[str, str | int]) -> Task:
        """Set the named columns of one task; durable when it returns."""

    async def delete(self, task_id: int) -> None:
        """Delete one task and leave a tombstone; durable when it returns."""

    async def fill(self, tasks: Iterable[NewTask]) -> None:
        """Append many tasks, in batches; each is stored whole, in its order, or not at all."""

    async def ping(self) -> None:
        """Return when the database answers."""

    def servers(self) -> list[ServerState]:
        """How each database server is; empty where there is none."""

    async def close(self) -> None:
        """Finish what is running and let go of the database."""


READ_FILES, WRITE_FILES = 3, 3
"""Open files of a connection to SQLite that reads, and of the one that writes: the file, its log,
its index."""
OTHER_CONNECTIONS = 3
"""Connections to PostgreSQL beside those that pages are read through: two write, one looks."""


class Appetite(NamedTuple):
    """What a store takes of a worker's resources.

    readers: calls that may read pages at the same time. files: open files.
    """

    readers: int
    files: int


def appetite(settings: Settings) -> Appetite:
    """What the store that these settings name takes."""
    if settings.database.startswith("sqlite:"):
        return Appetite(settings.read_threads, settings.read_threads * READ_FILES + WRITE_FILES)
    servers = 1 + len(settings.read_database)
    readers = servers * settings.pool_size
    return Appetite(readers, readers + servers + OTHER_CONNECTIONS)


def not_found(task_id: int) -> NotFoundError:
    """There is no such task."""
    return NotFoundError(
        f"there is no task {task_id}", hint="GET /tasks lists those that there are"
    )


def row_too_large(task_id: int, row_bytes: int) -> RowTooLargeError:
    """A task is longer than any row may be: another program has put it there."""
    return RowTooLargeError(
        f"task {task_id} is longer than {row_bytes} bytes",
        hint="shorten its title, or raise --row-bytes",
    )


def say_what_was_made(name: str, before: int, now: int, tables: Iterable[str]) -> None:
    """Log what the start has changed in a database, if anything: somebody may miss it, or wonder.

    before, now: versions of the schema; 0 is none. name: how the database is called.
    """
    if before == 0:
        log.info("tables made", database=name, tables=", ".join(tables))
    elif before < now:
        log.info("schema brought forward", database=name, before=before, now=now)


async def open_store(settings: Settings) -> Store:
    """The store that `settings.database` names, its schema made or checked.

    Raises ConfigurationError when the address is not understood or the database is unfit.
    """
    scheme, separator, _ = settings.database.partition("://")
    if separator and scheme == "sqlite":
        from .sqlite import SQLiteStore

        if settings.read_database:
            raise ConfigurationError(
                "an SQLite file has no replicas",
                hint="leave out --read-database, or use postgresql://... for both",
            )
        return await SQLiteStore.open(settings)
    if separator and scheme in ("postgresql", "postgres"):
        from .postgres import PostgresStore

        return await PostgresStore.open(settings)
    raise ConfigurationError(
        f"database {without_password(settings.database)!r} is not an address that is understood",
        hint="use sqlite:///file.db (relative), sqlite:////path/to/file.db (absolute) "
        "or postgresql://user:password@host:5432/database",
    )
