"""One SQLite file: threads with a connection each, and whether it is still the file that it was."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw

from ...errors import StoreError
from .file import OpenFile
from .log import WriteAheadLog

if not apsw.connections():
    # SQLite counts its memory under one lock, which threads that read at the same time spend
    # as much time on as on reading. It can be told to leave that only while it is shut down.
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)
    apsw.initialize()

T = TypeVar("T")

BUSY_MILLISECONDS = 10_000
"""How long a read, or the start, waits for another program's lock before it fails."""


class Connections:
    """Threads that read a file, and one that writes to it, each with a connection of its own.

    Public methods run on the event loop, their work in threads.

    log: the file's write-ahead log, where it is ours to keep small.
    """

    def __init__(self, path: Path, threads: int, address: str, flags: int) -> None:
        """address: what SQLite is told to open, and flags: how (SQLITE_OPEN_...)."""
        self.path = path
        self.log = WriteAheadLog(path)
        self._address = address
        self._flags = flags | apsw.SQLITE_OPEN_NOMUTEX
        self._readers = ThreadPoolExecutor(threads, "weir-read")
        self._writer = ThreadPoolExecutor(1, "weir-write")
        self._local = threading.local()
        self._file: OpenFile | None = None
        self._open: list[apsw.Connection] = []

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` in a thread that reads; a fault of SQLite's comes out as a StoreError."""
        return await self._in(self._readers, work)

    def write(self, work: Callable[[apsw.Connection], T]) -> Awaitable[T]:
        """Run `work` in the thread that writes.

        Its turn is fixed when this returns: before whatever is asked for later.
        """
        return self._in(self._writer, work)

    def write_later(self, work: Callable[[], None]) -> None:
        """Run what nobody waits for in the thread that writes."""
        self._writer.submit(work)

    def opened(self, *, log_may_change: bool = False, fixed: bool = False) -> None:
        """From now on another file of that name is a fault; for the rest see OpenFile."""
        self._file = OpenFile(self.path, log_may_change=log_may_change, fixed=fixed)

    def _in(self, pool: ThreadPoolExecutor, work: Callable[[apsw.Connection], T]) -> Awaitable[T]:
        def run() -> T:
            try:
                return work(self._connection())
            except apsw.Error as fault:
                raise StoreError(
                    f"{self.path}: {fault}", hint="is the file whole, its disk not full?"
                ) from fault
            except UnicodeDecodeError as fault:
                raise StoreError(
                    f"{self.path}: {fault.object[:100]!r}, a text of a key or a name, is not valid "
                    "UTF-8",
                    hint="mend it with the program that it belongs to",
                ) from None

        return asyncio.get_running_loop().run_in_executor(pool, run)

    def _connection(self) -> apsw.Connection:
        """This thread's connection, opened at first use, if its file is still the one there."""
        self._check_file()
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            flags = self._flags
            if self._file is not None:
                flags &= ~apsw.SQLITE_OPEN_CREATE
            connection = apsw.Connection(self._address, flags=flags)
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            self._local.connection = connection
            self._open.append(connection)
        return connection

    def _check_file(self) -> None:
        """Nothing is read from a file that others do not see, or written to it."""
        if self._file is not None and (fault := self._file.fault()):
            self._writer.submit(self._let_go)
            raise StoreError(
                f"{self.path} {fault}",
                hint="restart the service; the next time, stop it before its file is moved",
            )

    def _let_go(self) -> None:
        """Leave no log under its name when the file has lost its own."""
        if self._file is not None and self._file.fault() and self._file.has_log():
            self.log.leave_none()

    async def close(self) -> None:
        """Finish what is running and let go of the file."""
        for pool in (self._readers, self._writer):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._let_go()
        while self._open:
            connection = self._open.pop()
            if self._file is not None and self._file.replaced:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.close()


@contextmanager
def transaction(connection: apsw.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
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
