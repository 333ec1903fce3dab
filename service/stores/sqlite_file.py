"""Which SQLite file an address names, and whether that file still stands under its name."""

import os
from pathlib import Path

from ..errors import ConfigurationError

Identity = tuple[int, int]
"""What tells a file from another one of the same name: its device and its number there."""

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


def identity_of(path: Path) -> Identity | None:
    """The file that has this name now; None when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
