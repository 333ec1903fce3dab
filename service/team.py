"""What the workers of one service count together; a single one counts in the same way."""

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ConfigurationError

PID, STREAMS, CONNECTIONS, IN_PROCESS, IN_KERNEL = "pid", "streams", "connections", "user", "kernel"
"""What each worker counts: its process, its streams and connections, and the bytes that these
hold in the process and in the kernel; beside them its streams of each token."""
_OF_EACH = (PID, STREAMS, CONNECTIONS, IN_PROCESS, IN_KERNEL)
COUNT_BYTES = 8


@dataclass
class Team:
    """A table of counts in memory that all workers share, a row for each.

    A worker writes its own row only; a limit holds for the sum of all rows. So what a worker
    that died had counted is taken back by clearing its row.

    number: which row is this process's; -1, that of none, for who makes the table. size: rows.
    tokens: the names that streams are counted under. folder: where the workers meet; None when
    there is one.
    """

    number: int = 0
    size: int = 1
    tokens: Sequence[str] = ()
    folder: Path | None = None
    _columns: dict[str, int] = field(init=False, repr=False)
    _cells: memoryview = field(init=False, repr=False)
    _lock: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        names = [*_OF_EACH, *(of_token(token) for token in self.tokens)]
        self._columns = {name: place for place, name in enumerate(names)}
        length = self.size * len(names) * COUNT_BYTES
        if self.folder is None:
            memory = mmap.mmap(-1, length)
        else:
            try:
                # A folder that is locked is left alone by systemd-tmpfiles, however old it is.
                fcntl.flock(os.open(self.folder, os.O_RDONLY), fcntl.LOCK_SH)
                flags = os.O_RDWR | (os.O_CREAT if self.number < 0 else 0)
                self._lock = os.open(self.folder / "counts", flags, 0o600)
            except FileNotFoundError:  # with a new one, limits would no longer hold for all
                raise ConfigurationError(
                    f"what the workers count together, in {self.folder}, was removed",
                    hint="restart the service, and see what cleans the folder of temporary files",
                ) from None
            os.truncate(self._lock, length)
            memory = mmap.mmap(self._lock, length)
        self._cells = memoryview(memory).cast("q")

    def _row(self, number: int) -> int:
        return number * len(self._columns)

    def set(self, column: str, value: int) -> None:
        """Write into this worker's row."""
        self._cells[self._row(self.number) + self._columns[column]] = value

    def add(self, column: str, change: int) -> None:
        """Count up or down in this worker's row."""
        self._cells[self._row(self.number) + self._columns[column]] += change

    def own(self, column: str) -> int:
        """What this worker has counted."""
        return self._cells[self._row(self.number) + self._columns[column]]

    def each(self, column: str) -> list[int]:
        """What each worker has counted."""
        return self._cells[self._columns[column] :: len(self._columns)].tolist()

    def total(self, column: str) -> int:
        """What all workers have counted together."""
        return sum(self.each(column))

    def pids(self) -> list[int]:
        """The processes of the workers that run."""
        return [pid for pid in self.each(PID) if pid]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other worker is in here: for looking at a total and then adding to it.

        Held for microseconds. The kernel lets go of the lock of a process that dies.
        """
        if self._lock is None:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def strike(self, number: int) -> None:
        """Clear the row of a worker that is no more."""
        start = self._row(number)
        for cell in range(start, start + len(self._columns)):
            self._cells[cell] = 0


def of_token(token: str) -> str:
    """The column of a token's streams; no other column's name has a space."""
    return f"token {token}"
