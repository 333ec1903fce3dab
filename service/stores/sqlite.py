"""Tasks in one SQLite file: write-ahead log, one writer thread, a few reader threads."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any, ParamSpec, TypeVar

import apsw

from ..errors import ConfigurationError, StoreError
from ..settings import Settings
from ..table import Cursor, Extent, NewTask, Page, Query, ServerState, Task
from . import not_found, row_too_large, say_what_was_made
from .sqlite_file import OpenFile, path_of
from .sqlite_lines import SEQ, pages_statement, parts
from .sqlite_log import WriteAheadLog
from .sqlite_schema import TABLES, bring_forward, version_of
from .trips import Found, Trip, behind_gap, gap_from

if not apsw.connections():
    # SQLite counts its memory under one lock, which threads that read at the same time spend
    # as much time on as on reading. It can be told to leave that only while it is shut down.
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)
    apsw.initialize()

P = ParamSpec("P")
T = TypeVar("T")

BUSY_MILLISECONDS = 10_000
"""How long a read, or the start, waits for another program's lock before it fails."""
WRITE_SECONDS = 10.0
"""How long a write waits for its turn and for another program's lock, together, before it is given
up. It counts from when the write was asked for: writes that wait behind one another give up
together, not one after another."""
BUSY_PAUSE = 0.02
"""Seconds until a file that another service is just opening is tried again."""
COUNT_BYTES = 24
"""What comes with each page: its number of rows, in digits, and two NULs."""
FILL_ROWS = 50_000
"""Rows that `fill` commits at a time: some MB of log, and no fsync worth counting."""


class SQLiteStore:
    """A Store in one file. Public methods run on the event loop, their work in threads."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._readers = ThreadPoolExecutor(settings.read_threads, "weir-read")
        self._writer = ThreadPoolExecutor(1, "weir-write")
        self._local = threading.local()
        self._log = WriteAheadLog(path)
        self._file: OpenFile | None = None
        self._connections: list[apsw.Connection] = []

    @classmethod
    async def open(cls, settings: Settings) -> "SQLiteStore":
        """Open or make the file that `settings.database` names; ConfigurationError if unfit."""
        store = cls(path_of(settings.database), settings)
        try:
            await store._in(store._writer, store._prepare)
        except BaseException:
            await store.close()
            raise
        return store

    def _in(
        self, pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Run `work` in a thread of `pool`; a fault of SQLite's comes out as a StoreError.

        Its turn is fixed when this returns: before whatever is asked for later.
        """

        def run() -> T:
            try:
                return work(*args, **kwargs)
            except apsw.Error as fault:
                raise StoreError(
                    f"{self._path}: {fault}", hint="is the file whole, its disk not full?"
                ) from fault

        return asyncio.get_running_loop().run_in_executor(pool, run)

    def _connection(self) -> apsw.Connection:
        """This thread's connection, opened at first use, if its file is still the one there."""
        self._check_file()
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
            if self._file is None:
                flags |= apsw.SQLITE_OPEN_CREATE
            connection = apsw.Connection(str(self._path), flags=flags)
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    async def close(self) -> None:
        for pool in (self._readers, self._writer):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._let_go()
        while self._connections:
            connection = self._connections.pop()
            if self._file is not None and self._file.replaced:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.close()

    def servers(self) -> list[ServerState]:
        return []

    async def ping(self) -> None:
        def work() -> None:
            self._connection().pragma("schema_version")

        await self._in(self._readers, work)

    def _check_file(self) -> None:
        """Nothing is read from a file that others do not see, or written to it."""
        if self._file is not None and (fault := self._file.fault()):
            with suppress(RuntimeError):  # the store is being closed, and will let go by itself
                self._writer.submit(self._let_go)
            raise StoreError(
                f"{self._path} {fault}",
                hint="restart the service; the next time, stop it before its file is moved",
            )

    def _let_go(self) -> None:
        """Leave no log under its name when the file has lost its own."""
        if self._file is not None and self._file.fault() and self._file.has_log():
            self._log.leave_none()

    # Reading: a thread is held for one trip, a transaction for one statement.

    async def extent(self, *, latest: bool = False) -> Extent:
        def work() -> Extent:
            statement = "SELECT coalesce((SELECT max(id) FROM task), 0), seq FROM clock"
            return Extent(*_rows(self._connection(), statement)[0])

        return await self._in(self._readers, work)

    async def read_pages(self, query: Query, cursor: Cursor, count: int) -> list[Page]:
        return await self._in(self._readers, self._pages, query, cursor, count)

    def _pages(self, query: Query, cursor: Cursor, count: int) -> list[Page]:
        trip: Trip | None = Trip.of(query, cursor, count, self._settings)
        while trip is not None:
            if pages := trip.pages(self._found(trip)):
                return self._past_gap(query, pages)
            trip = trip.smaller()
        return []

    async def read_row(self, query: Query, cursor: Cursor) -> Page:
        def work() -> Page:
            trip = Trip.of_row(query, cursor, self._settings)
            return self._past_gap(query, [trip.page(self._found(trip))])[0]

        return await self._in(self._readers, work)

    def _past_gap(self, query: Query, pages: list[Page]) -> list[Page]:
        gap = gap_from(pages)
        return pages if gap is None else behind_gap(pages, self._before_next(query, gap))

    def _found(self, trip: Trip) -> Found:
        """What the trip finds; nothing when the engine refuses to hold that much."""
        connection, query = self._connection(), trip.query
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, trip.count * (trip.most + COUNT_BYTES))
        values: dict[str, Any] = {
            "after": trip.after,
            "span": trip.span,
            "count": trip.count,
            "until": query.until,
            "left": trip.left,
            "status": query.status,
            "min_priority": query.min_priority,
            "max_priority": query.max_priority,
        }
        try:
            found = _rows(connection, pages_statement(query, trip.left is not None), values)
        except apsw.TooBigError:
            return []
        seq, blob = found[0]
        self._check_seq(seq, query)
        return list(parts(blob))

    def _check_seq(self, seq: int, query: Query) -> None:
        """A file that another one's content was put into may lack rows of the stream."""
        if seq < query.since:
            raise StoreError(
                f"{self._path} has come to change {seq}, the stream began at {query.since}",
                hint="was it restored from a backup? Start the export again",
            )

    def _before_next(self, query: Query, after: int) -> int:
        """Past a gap in the ids, however wide: right before the next row that there is."""
        statement = f"SELECT {SEQ}, coalesce(min(id) - 1, ?) FROM task WHERE id > ?"
        seq, before = _rows(self._connection(), statement, (query.until, after))[0]
        self._check_seq(seq, query)
        return int(before)

    async def read(self, task_id: int) -> Task:
        return await self._in(self._readers, self._read, task_id)

    def _read(self, task_id: int) -> Task:
        connection, most = self._connection(), self._settings.row_bytes
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, most)
        statement = "SELECT id, title, priority, status FROM task WHERE id = ?"
        try:
            found = _rows(connection, statement, (task_id,))
        except apsw.TooBigError:
            raise row_too_large(task_id, most) from None
        if not found:
            raise not_found(task_id)
        return Task(*found[0])

    # Writing: one thread, one transaction a call, on disk before the call returns.

    async def _write(self, changes: int, work: Callable[[apsw.Connection, int], T]) -> T:
        """What `work` returns in a transaction of its own, committed and on the disk.

        `work` gets the connection, and the first of `changes` new values of `seq`: one writer at
        a time makes the order of `seq` the order of commits.
        """
        give_up = monotonic() + WRITE_SECONDS

        def run() -> T:
            connection = self._connection()
            left = int((give_up - monotonic()) * 1000)
            try:
                if left <= 0:
                    raise apsw.BusyError("its turn came too late")
                connection.set_busy_timeout(left)
                with _transaction(connection):
                    statement = "UPDATE clock SET seq = seq + ? RETURNING seq"
                    last = _rows(connection, statement, (changes,))[0][0]
                    return work(connection, last - changes + 1)
            except apsw.BusyError:
                raise StoreError(
                    f"{self._path}: a write had to wait for {WRITE_SECONDS:g} seconds, and was "
                    "given up; nothing of it is stored",
                    hint="another program keeps the file locked, or its disk is slow: `fuser -v "
                    f"{self._path}` names who has it open",
                ) from None

        answer = self._in(self._writer, run)
        # Behind this write and before the next one, which is soon enough, and nobody waits for it.
        self._writer.submit(self._log.keep_small)
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
            found = _rows(
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

    def _prepare(self) -> None:
        """Make the schema in a new file, or check that the file has ours."""
        try:
            connection = self._connection()
            give_up = monotonic() + BUSY_MILLISECONDS / 1000
            while not self._prepared(connection):
                if monotonic() > give_up:
                    raise apsw.BusyError("another program has it locked")
                sleep(BUSY_PAUSE)
            connection.pragma("synchronous", "full")  # what was answered 2xx is on the disk
            self._log.watch(connection)
            self._file = OpenFile(self._path)
        except apsw.NotADBError:
            raise ConfigurationError(
                f"{self._path} is not an SQLite database",
                hint="name another file with --database, or move this one away",
            ) from None
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as fault:
            raise ConfigurationError(
                f"{self._path} cannot be opened for writing: {fault}",
                hint="the folder must exist, and the file and its folder be writable",
            ) from None
        except apsw.Error as fault:
            raise ConfigurationError(
                f"{self._path}: {fault}", hint="is the file whole, and no other program locking it?"
            ) from None

    def _prepared(self, connection: apsw.Connection) -> bool:
        """Whether it could be done: SQLite does not wait by itself for one who does the same."""
        try:
            with _transaction(connection, "DEFERRED"):  # or it might see half of another's start
                version_of(connection, self._path)  # nobody else's file is written to
            connection.pragma("journal_mode", "wal")
            with _transaction(connection):  # fails on a file that cannot be written to
                before, now = bring_forward(connection, self._path)
        except apsw.BusyError:
            return False
        say_what_was_made(str(self._path), before, now, TABLES)
        return True


@contextmanager
def _transaction(connection: apsw.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """A transaction that may write from its first statement on; a DEFERRED one only reads.

    apsw's own (`with connection`) keeps Python's lock while it waits for another program's.
    """
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _rows(connection: apsw.Connection, statement: str, values: Any = ()) -> list[Any]:
    """All rows at once: a statement that is not run to its end keeps its transaction open."""
    return connection.execute(statement, values).fetchall()


_INSERT = "INSERT INTO task (title, priority, status, seq) VALUES (?, ?, ?, ?)"


def _insert(connection: apsw.Connection, task: NewTask, seq: int) -> int:
    connection.execute(_INSERT, (*task, seq))
    return connection.last_insert_rowid()


def _append(tasks: Sequence[NewTask], connection: apsw.Connection, seq: int) -> None:
    connection.executemany(_INSERT, ((*task, number) for number, task in enumerate(tasks, seq)))
