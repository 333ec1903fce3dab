"""Tasks in a SQLite file of ours: one writer, and on the disk before it is answered."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

import apsw

from ..engines.sqlite.connections import BUSY_MILLISECONDS, Connections, transaction
from ..engines.sqlite.sql import rows
from ..engines.sqlite.strangers import NO_RIGHTS
from ..errors import ConfigurationError, RowTooLargeError, StoreError
from ..query import Format
from ..relation import Relation
from ..settings import Settings
from .model import IN_CSV, NewTask, Task, not_found, relation, say_what_was_made
from .sqlite_schema import APPLICATION_ID, TABLES, bring_forward, version_of

T = TypeVar("T")

CLOCK = "(SELECT coalesce(max(seq), -1) FROM clock)"
"""SQL: how far the file has come. An empty clock has not come as far as any stream's start."""
RELATION: Relation = relation(
    "main",
    ("INTEGER", "TEXT", "INTEGER", "TEXT"),
    "NOT INDEXED",
    {Format.CSV: f"special & {IN_CSV} = 0"},
)
WRITE_SECONDS = 10.0
"""How long a write waits for its turn and for another program's lock, together, before it is given
up. It counts from when the write was asked for: writes that wait behind one another give up
together, not one after another."""
BUSY_PAUSE = 0.02
"""Seconds until a file that another service is just opening is tried again."""
HEAD_BYTES, APPLICATION_ID_AT = 100, 68
"""The head of a database file, and where the number of its program stands there
(https://www.sqlite.org/fileformat.html, section 1.3)."""
FILL_ROWS = 50_000
"""Rows that `fill` commits at a time: some MB of log, and no fsync worth counting."""


def connections_of(path: Path, settings: Settings) -> Connections:
    """Threads and connections to a file that may be written to, and is made when missing."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    return Connections(path, settings.read_threads, str(path), flags)


async def is_strangers(path: Path) -> bool:
    """Whether the file has tables of another program, and so is only read.

    What is no database at all, or cannot be opened, is not: `prepare` says what is wrong with it.
    """

    def look() -> bool:
        if not path.is_file() or not path.stat().st_size:
            return False
        try:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                connection.set_busy_timeout(BUSY_MILLISECONDS)
                if connection.pragma("application_id") == APPLICATION_ID:
                    return False
                return bool(rows(connection, "SELECT 1 FROM sqlite_schema LIMIT 1"))
            finally:
                connection.close()
        except NO_RIGHTS:  # as where the files of its log cannot be made beside it
            return not _has_our_number(path)
        except apsw.Error:
            return False

    return await asyncio.to_thread(look)


def _has_our_number(path: Path) -> bool:
    """The same told from the head of a file that cannot be opened as a database."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return head[APPLICATION_ID_AT:].startswith(APPLICATION_ID.to_bytes(4, "big"))


class SQLiteTasks:
    """A TaskStore in one file."""

    def __init__(self, connections: Connections, settings: Settings) -> None:
        self._connections = connections
        self._path = connections.path
        self._row_bytes = int(settings.row_bytes)

    async def prepare(self) -> None:
        """Make the schema in a new file, or check that the file has ours.

        Raises ConfigurationError when the file is unfit.
        """
        try:
            await self._connections.write(self._prepare)
        except StoreError as fault:
            raise _unfit(self._path, fault.__cause__) from None

    async def read(self, task_id: int) -> Task:
        def work(connection: apsw.Connection) -> Task:
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, self._row_bytes)
            statement = "SELECT id, title, priority, status FROM task WHERE id = ?"
            try:
                found = rows(connection, statement, (task_id,))
            except apsw.TooBigError:
                raise RowTooLargeError(
                    f"task {task_id} is longer than {self._row_bytes} bytes",
                    hint="shorten its title, or raise --row-bytes",
                ) from None
            if not found:
                raise not_found(task_id)
            return Task(*found[0])

        return await self._connections.read(work)

    # Writing: one thread, one transaction a call, on disk before the call returns.

    async def _write(self, changes: int, work: Callable[[apsw.Connection, int], T]) -> T:
        """What `work` returns in a transaction of its own, committed and on the disk.

        `work` gets the connection, and the first of `changes` new values of `seq`: one writer at
        a time makes the order of `seq` the order of commits.
        """
        give_up = monotonic() + WRITE_SECONDS

        def run(connection: apsw.Connection) -> T:
            left = int((give_up - monotonic()) * 1000)
            try:
                if left <= 0:
                    raise apsw.BusyError("its turn came too late")
                connection.set_busy_timeout(left)
                with transaction(connection):
                    statement = "UPDATE clock SET seq = seq + ? RETURNING seq"
                    last = rows(connection, statement, (changes,))[0][0]
                    return work(connection, last - changes + 1)
            except apsw.BusyError:
                raise StoreError(
                    f"{self._path}: a write had to wait for {WRITE_SECONDS:g} seconds, and was "
                    "given up; nothing of it is stored",
                    hint="another program keeps the file locked, or its disk is slow: `fuser -v "
                    f"{self._path}` names who has it open",
                ) from None

        answer = self._connections.write(run)
        # Behind this write and before the next one, which is soon enough, and nobody waits for it.
        self._connections.write_later(self._connections.log.keep_small)
        return await answer

    async def create(self, tasks: Sequence[NewTask]) -> list[Task]:
        def work(connection: apsw.Connection, seq: int) -> list[Task]:
            return [
                Task(_insert(connection, task, number), *task)
                for number, task in enumerate(tasks, seq)
            ]

        return await self._write(len(tasks), work)

    async def update(self, task_id: int, changes: Mapping[str, str | int]) -> Task:
        def work(connection: apsw.Connection, seq: int) -> Task:
            assignments = "".join(f"{column} = :{column}, " for column in changes)
            found = rows(
                connection,
                f"UPDATE task SET {assignments} seq = :seq WHERE id = :id"
                " RETURNING id, title, priority, status",
                {**changes, "seq": seq, "id": task_id},
            )
            if not found:
                raise not_found(task_id)
            return Task(*found[0])

        return await self._write(1, work)

    async def delete(self, task_id: int) -> None:
        def work(connection: apsw.Connection, seq: int) -> None:
            connection.execute("DELETE FROM task WHERE id = ?", (task_id,))
            if not connection.changes():
                raise not_found(task_id)
            connection.execute("INSERT INTO tombstone VALUES (?, ?)", (seq, task_id))

        await self._write(1, work)

    async def fill(self, tasks: Iterable[NewTask]) -> None:
        waiting = iter(tasks)
        while batch := list(islice(waiting, FILL_ROWS)):
            await self._write(len(batch), partial(_append, batch))

    # Opening.

    def _prepare(self, connection: apsw.Connection) -> None:
        """Make the schema in a new file, or check that the file has ours."""
        give_up = monotonic() + BUSY_MILLISECONDS / 1000
        while not self._prepared(connection):
            if monotonic() > give_up:
                raise apsw.BusyError("another program has it locked")
            sleep(BUSY_PAUSE)
        connection.pragma("synchronous", "full")  # what was answered 2xx is on the disk
        self._connections.log.watch(connection)
        self._connections.opened()

    def _prepared(self, connection: apsw.Connection) -> bool:
        """Whether it could be done: SQLite does not wait by itself for one who does the same."""
        try:
            with transaction(connection, "DEFERRED"):  # or it might see half of another's start
                version_of(connection, self._path)  # nobody else's file is written to
            connection.pragma("journal_mode", "wal")
            with transaction(connection):  # fails on a file that cannot be written to
                before, now = bring_forward(connection, self._path)
        except apsw.BusyError:
            return False
        say_what_was_made(str(self._path), before, now, TABLES)
        return True


def _unfit(path: Path, fault: BaseException | None) -> ConfigurationError:
    """Why a file cannot be ours."""
    if isinstance(fault, apsw.NotADBError):
        return ConfigurationError(
            f"{path} is not an SQLite database",
            hint="name another file with --database, or move this one away",
        )
    if isinstance(fault, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError):
        return ConfigurationError(
            f"{path} cannot be opened for writing: {fault}",
            hint="the folder must exist, and the file and its folder be writable",
        )
    return ConfigurationError(
        f"{path}: {fault}", hint="is the file whole, and no other program locking it?"
    )


_INSERT = "INSERT INTO task (title, priority, status, seq) VALUES (?, ?, ?, ?)"


def _insert(connection: apsw.Connection, task: NewTask, seq: int) -> int:
    connection.execute(_INSERT, (*task, seq))
    return connection.last_insert_rowid()


def _append(tasks: Sequence[NewTask], connection: apsw.Connection, seq: int) -> None:
    connection.executemany(_INSERT, ((*task, number) for number, task in enumerate(tasks, seq)))
