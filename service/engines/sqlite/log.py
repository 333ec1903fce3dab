"""SQLite's write-ahead log: started over before it is long, and never at a client's expense."""

from pathlib import Path
from time import monotonic

import apsw
import structlog

from ...settings import MIB
from .file import log_of

log = structlog.get_logger()

PAGE_BYTES = 4_096
"""SQLite's page, what the log is counted in."""
LOG_PAGES = 1_000
"""Database pages in the log from which it is started over, after each write."""
LOG_PAGES_HIGHEST = 2 * LOG_PAGES
"""Pages that the log is promised not to exceed: when it does, the service's log says why. Room
for one large array on top of `LOG_PAGES`."""
READERS_MILLISECONDS = 250
"""How long starting it over waits for readers, while the next writes wait for it. A page is read
within milliseconds, so whoever takes longer is another program."""
RETRY_SECONDS, RETRY_GROWTH = 10.0, 1.25
"""It is tried again when the log has grown by so much, or so much later: soon while it is short,
and however long another program reads, for no more than a fortieth of the time."""


class WriteAheadLog:
    """The log of one file, kept by the one thread that writes to it.

    SQLite's own checkpoint never waits for a reader, and among a thousand streams there is
    always one: the log would grow as long as they read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None
        self._pages = 0
        self._next_pages, self._next_time = LOG_PAGES, 0.0
        self._warned = False
        self._ours = True

    def watch(self, connection: apsw.Connection) -> None:
        """Keep the log small to which this connection writes."""
        # What the log took while another program kept it from starting over is given back.
        connection.pragma("journal_size_limit", LOG_PAGES_HIGHEST * PAGE_BYTES)
        connection.set_wal_hook(self._count)  # in place of SQLite's own checkpoint
        self._connection = connection

    def _count(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages, self._ours = pages, True
        return apsw.SQLITE_OK

    def keep_small(self) -> None:
        """Copy the log into the file and start it over, if it is time to. Never raises.

        To be called when the client has its answer: what was committed is on the disk, whatever
        becomes of the log.
        """
        if self._pages < LOG_PAGES or self._connection is None:
            return
        if self._pages < self._next_pages and monotonic() < self._next_time:
            return
        self._connection.set_busy_timeout(READERS_MILLISECONDS)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            self._try_later()
            if self._pages >= LOG_PAGES_HIGHEST:
                self._warn(
                    "another program reads the database, or writes to it, and does not end its "
                    "transaction",
                    f"`fuser -v {self._path}` names who has it open",
                )
        except apsw.Error as fault:
            self._try_later()
            self._warn(str(fault), "is the file whole, its disk not full?")
        else:
            warned = self._warned
            self._pages, self._next_pages, self._warned = 0, LOG_PAGES, False
            if warned:
                log.info("write-ahead log has started over", file=str(log_of(self._path)))

    def _try_later(self) -> None:
        self._next_pages = int(self._pages * RETRY_GROWTH)
        self._next_time = monotonic() + RETRY_SECONDS

    def _warn(self, reason: str, hint: str) -> None:
        """Say that the log grows, once until it has started over."""
        if self._warned:
            return
        self._warned = True
        log.warning(
            "write-ahead log grows: it cannot start over",
            file=str(log_of(self._path)),
            mib=round(self._pages * PAGE_BYTES / MIB, 1),
            reason=reason,
            hint=hint,
        )

    def leave_none(self) -> None:
        """Put all that the log holds into its file, which has lost its name, and empty it.

        The log keeps its name. SQLite takes a log that lies beside a file for that file's own:
        whoever opens the file that has the name now would have ours mixed into it, and what they
        write there is not to be put into our file either: it is done once. Never raises.
        """
        if self._connection is None or not self._ours:
            return
        self._connection.set_busy_timeout(READERS_MILLISECONDS)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.Error as fault:
            log.error(
                "write-ahead log of a file that was moved, deleted or replaced is left",
                file=str(log_of(self._path)),
                reason=str(fault),
                hint=f"if it is not the log of the {self._path} that is there now, remove it "
                "before anybody opens that",
            )
        else:
            self._ours = False
