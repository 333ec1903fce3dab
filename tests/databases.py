"""The databases that the contract is tested on, each as a program beside the service sees it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

from service.databases import open_database
from service.engines import Reader
from service.engines.postgres.reader import PostgresReader
from service.engines.sqlite.reader import SQLiteReader
from service.settings import Settings
from service.tasks.model import NewTask

SQLITE, POSTGRESQL = "sqlite", "postgresql"
EVERY_STORE = pytest.mark.stores(SQLITE, POSTGRESQL)
"""Marks of what runs on which kind of database. The closest one counts; with none it is SQLite."""
SQLITE_ALONE = pytest.mark.stores(SQLITE)
POSTGRESQL_ALONE = pytest.mark.stores(POSTGRESQL)

Values = Sequence[Any]
Rows = list[tuple[Any, ...]]


class Database(ABC):
    """A database of a test's own.

    url: what `--database` gets. reader: the class that reads it. gone: what is said when the
    database is gone.
    """

    reader: type[Reader]
    gone: str

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def execute(self, statement: str, *values: Values) -> Rows:
        """Run a statement, once for each of `values`; all rows.

        Both engines take `$1`, `$2` in their order for values.
        """

    @abstractmethod
    async def lengthen(self, task_id: int, title: str) -> None:
        """Give a task a title, though it be longer than the table allows."""

    @abstractmethod
    async def vanish(self) -> None:
        """Remove the database, whoever uses it."""

    async def insert(self, tasks: Iterable[tuple[int, str]]) -> None:
        """Store titles under ids of their own."""
        await self.execute(
            "INSERT INTO task (id, title, priority, status, seq) VALUES ($1, $2, 1, 'pending', 1)",
            *tasks,
        )

    async def fill(self, tasks: Iterable[NewTask]) -> None:
        """Append tasks as `generate` does; the tables are made when missing."""
        opened = await open_database(Settings(database=self.url))
        try:
            assert opened.tasks is not None
            await opened.tasks.fill(tasks)
        finally:
            await opened.close()


class SQLite(Database):
    """A file; `path` names it."""

    reader = SQLiteReader
    gone = "was moved, deleted or replaced"

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}")
        self.path = path

    async def execute(self, statement: str, *values: Values) -> Rows:
        def work() -> Rows:
            with closing(apsw.Connection(str(self.path))) as connection:
                connection.set_busy_timeout(10_000)
                return [
                    row
                    for some in values or [()]
                    for row in connection.execute(statement, some).fetchall()
                ]

        return await asyncio.to_thread(work)

    async def lengthen(self, task_id: int, title: str) -> None:
        await self.execute(
            "PRAGMA ignore_check_constraints = 1; UPDATE task SET title = $1 WHERE id = $2",
            (title, task_id),
        )

    async def vanish(self) -> None:
        await asyncio.to_thread(self.path.unlink)

    def log_bytes(self) -> int:
        """The size of the write-ahead log."""
        return self.path.with_name(self.path.name + "-wal").stat().st_size


class PostgreSQL(Database):
    """A database on a server, from which `drop` removes it."""

    reader = PostgresReader
    gone = "does not exist"

    def __init__(self, url: str, drop: Callable[[], None]) -> None:
        super().__init__(url)
        self._drop = drop

    async def execute(self, statement: str, *values: Values) -> Rows:
        connection = await asyncpg.connect(self.url)
        try:
            async with connection.transaction():
                return [
                    tuple(row)
                    for some in values or [()]
                    for row in await connection.fetch(statement, *some)
                ]
        finally:
            await connection.close()

    async def lengthen(self, task_id: int, title: str) -> None:
        await self.execute("ALTER TABLE task DROP CONSTRAINT IF EXISTS task_title_check")
        await self.execute("UPDATE task SET title = $1 WHERE id = $2", (title, task_id))

    async def vanish(self) -> None:
        await asyncio.to_thread(self._drop)
