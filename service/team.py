"""What the workers of one service count together; a single one counts in the same way."""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from .errors import ConfigurationError

PID, STREAMS, CONNECTIONS, IN_PROCESS, IN_KERNEL = "pid", "streams", "connections", "user", "kernel"
"""What each worker counts: its process, its streams and connections, and the bytes that these
hold in the process and in the kernel; beside them its streams of each token."""
_FIXED = {name: at for at, name in enumerate((PID, STREAMS, CONNECTIONS, IN_PROCESS, IN_KERNEL))}
TOKEN_COLUMNS = 4_096
"""Tokens whose streams are counted at the same time. Twice as many as a token file may have: a
revoked one counts until its last stream has ended."""
_WIDTH = len(_FIXED) + TOKEN_COLUMNS
COUNT_BYTES = 8


@dataclass
class Team:
    """A table of counts in memory that all workers share, a row for each.

    A worker writes its own row only; a limit holds for the sum of all rows. So what a worker
    that died had counted is taken back by clearing its row.

    Tokens come and go while the service runs. So a token's column is not fixed: whoever counts
    for it first takes one for it, and writes into a last row, of all workers, whose it is. It
    stays the token's as long as one of its streams is counted there, in whichever worker.

    number: which row is this process's; -1, that of none, for who makes the table. size: rows.
    folder: where the workers meet; None when there is one.
    """

    number: int = 0
    size: int = 1
    folder: Path | None = None
    _of_tokens: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _cells: memoryview = field(init=False, repr=False)
    _owners: memoryview = field(init=False, repr=False)
    _lock: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        length = (self.size + 1) * _WIDTH * COUNT_BYTES
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
        self._owners = self._cells[self.size * _WIDTH :]

    def _column(self, name: str) -> int:
        """Where a count stands in a row.

        For a token nobody else may be in `alone`, unless this worker counts a stream of it.
        """
        if name in _FIXED:
            return _FIXED[name]
        owner = int.from_bytes(blake2b(name.encode(), digest_size=COUNT_BYTES).digest()) >> 1 or 1
        at = self._of_tokens.get(name, 0)
        if self._owners[at] == owner:
            return at
        owners = self._owners.tolist()
        if owner in owners:
            at = owners.index(owner)
        else:
            at = next(
                at for at in range(len(_FIXED), _WIDTH) if not owners[at] or not any(self._each(at))
            )
            self._owners[at] = owner
        self._of_tokens[name] = at
        return at

    def _each(self, column: int) -> list[int]:
        return self._cells[column : self.size * _WIDTH : _WIDTH].tolist()

    def set(self, column: str, value: int) -> None:
        """Write into this worker's row."""
        self._cells[self.number * _WIDTH + self._column(column)] = value

    def add(self, column: str, change: int) -> None:
        """Count up or down in this worker's row."""
        self._cells[self.number * _WIDTH + self._column(column)] += change

    def own(self, column: str) -> int:
        """What this worker has counted."""
        return self._cells[self.number * _WIDTH + self._column(column)]

    def each(self, column: str) -> list[int]:
        """What each worker has counted."""
        return self._each(self._column(column))

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
        for cell in range(number * _WIDTH, (number + 1) * _WIDTH):
            self._cells[cell] = 0


def of_token(token: str) -> str:
    """The name of the column of a token's streams; no other column's has a space."""
    return f"token {token}"
