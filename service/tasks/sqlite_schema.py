"""The tables of an SQLite file, their versions, and whether a file has them."""

from pathlib import Path

import apsw

from ..errors import ConfigurationError
from .model import (
    IN_CSV,
    IN_JSON,
    PRIORITY_HIGHEST,
    PRIORITY_LOWEST,
    STATUSES,
    TITLE_CHARACTERS,
)

APPLICATION_ID = 0x57454952
"""`WEIR` in ASCII: marks a file as ours, so that nobody else's is written to."""

SPECIAL = (
    f"(title GLOB '*[,\"' || char(10, 13) || ']*') * {IN_CSV}"
    f" + (title GLOB '*[\"\\' || char(1) || '-' || char(31) || ']*') * {IN_JSON}"
)
"""The two bits of a title. Most titles need neither, and 0 takes no space."""

MIGRATIONS = (
    f"""
CREATE TABLE task (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    title TEXT NOT NULL
        CHECK (length(title) BETWEEN 1 AND {TITLE_CHARACTERS} AND instr(title, char(0)) = 0),
    priority INTEGER NOT NULL CHECK (priority BETWEEN {PRIORITY_LOWEST} AND {PRIORITY_HIGHEST}),
    status TEXT NOT NULL CHECK (status IN {STATUSES}),
    seq INTEGER NOT NULL,
    special INTEGER NOT NULL GENERATED ALWAYS AS ({SPECIAL}) STORED
) STRICT;
CREATE TABLE tombstone (seq INTEGER PRIMARY KEY, id INTEGER NOT NULL) STRICT;
CREATE TABLE clock (seq INTEGER NOT NULL) STRICT;
INSERT INTO clock VALUES (0);
""",
)
"""What takes the schema from each version to the next one; the first makes it."""
TABLES = ("task", "tombstone", "clock")
"""The names of our tables."""


def version_of(connection: apsw.Connection, path: Path) -> int:
    """The schema's version; 0 in an empty file.

    Raises ConfigurationError for a file of another program, or of a later version of Weir.
    """
    version = connection.pragma("user_version")
    if connection.pragma("application_id") == APPLICATION_ID:
        if version > len(MIGRATIONS):
            raise ConfigurationError(
                f"{path} has schema version {version}, newer than {len(MIGRATIONS)}, "
                "the newest that this version of Weir knows",
                hint="run the version of Weir that made it, or a later one",
            )
    elif version or connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
        raise ConfigurationError(
            f"{path} is a database of another program",
            hint="name a new file with --database; it is made when missing",
        )
    return int(version)


def bring_forward(connection: apsw.Connection, path: Path) -> tuple[int, int]:
    """Make the schema, or make it today's, in the write transaction that is open.

    Returns the version that it had before, and today's.
    """
    before = version_of(connection, path)
    for migration in MIGRATIONS[before:]:
        connection.execute(migration)
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", len(MIGRATIONS))
    return before, len(MIGRATIONS)
