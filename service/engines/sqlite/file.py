"""Which SQLite file an address names, and whether it is still there once it is open."""

import os
from pathlib import Path

from ...errors import ConfigurationError

_HINT = "use sqlite:///file.db (relative) or sqlite:////path/to/file.db (absolute)"


def path_of(address: str) -> Path:
    """The file that `sqlite:///...` names; ConfigurationError for what is no name of a file.

    Only a plain path is understood, and taken letter by letter: other programs' ways to put
    more into an address would otherwise end up, unnoticed, in the name of a new file.
    """
    rest = address.removeprefix("sqlite://")
    name = rest[1:]
    if not rest.startswith("/") or not name:
        raise ConfigurationError(f"database {address!r} names no file", hint=_HINT)
    if "?" in name:
        raise ConfigurationError(
            f"database {address!r} has parameters behind its ?, and none is understood",
            hint="leave out all from the ? on; a file whose name has a ? has to be renamed. Weir "
            "writes to its file: there is no mode=ro",
        )
    if Path(name).name.startswith((":", "file:")):
        raise ConfigurationError(
            f"database {address!r} names no file: of SQLite's own names neither :memory: nor "
            "file: is understood",
            hint=_HINT + "; under /dev/shm a file is kept in memory",
        )
    return Path(name)


class OpenFile:
    """A database file and its log as they were opened, told from others that get their names.

    SQLite itself does not ask: it goes on with a file that was deleted or replaced, and what it
    writes there is lost. What is open keeps its number, so no other file can have the same.

    fixed: nobody is to change it, as SQLite was told; else only its log has to stay what it was,
    and not even that where the log is a stranger's (`log_may_change`), whom SQLite follows.
    replaced: another file had its name. That lasts: SQLite takes a log for that of whatever file
    has the name beside it, so whoever opened the other one has used ours, and left it unfit.
    """

    def __init__(self, path: Path, *, log_may_change: bool = False, fixed: bool = False) -> None:
        self.replaced = False
        self._path, self._log_path = path, log_of(path)
        self._log_may_change, self._fixed = log_may_change, fixed
        self._file, self._log = _identity(path, fixed), _identity(self._log_path)

    def fault(self) -> str:
        """What is wrong with it now, or ""; a few microseconds."""
        found = _identity(self._path, self._fixed)
        if found is not None and found != self._file:
            self.replaced = True
        if self.replaced or found is None:
            changed = "changed, " if self._fixed else ""
            return f"was {changed}moved, deleted or replaced since it was opened"
        return (
            ""
            if self._log_may_change or self.has_log()
            else "has lost its write-ahead log since it was opened"
        )

    def has_log(self) -> bool:
        """Whether the log that has the log's name is the one that was opened."""
        return _identity(self._log_path) == self._log


def journal_of(path: Path) -> Path:
    """What takes a write back that was not finished, where there is no write-ahead log."""
    return path.with_name(path.name + "-journal")


def log_of(path: Path) -> Path:
    """The write-ahead log of a database file."""
    return path.with_name(path.name + "-wal")


def _identity(path: Path, content: bool = False) -> tuple[int, ...] | None:
    """What tells a file from another one of the same name; None when there is none.

    content: and from itself as it was before it was written to.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    found = status.st_dev, status.st_ino
    return (*found, status.st_mtime_ns, status.st_size) if content else found
