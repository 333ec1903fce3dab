"""The tables of an SQLite file, and what marks the file as ours."""

from service.stores.sqlite_lines import SPECIAL
from service.table import PRIORITY_HIGHEST, PRIORITY_LOWEST, STATUSES, TITLE_CHARACTERS

APPLICATION_ID = 0x57454952
"""`WEIR` in ASCII: marks a file as ours, so that nobody else's is written to."""
SCHEMA_VERSION = 1
SCHEMA = f"""
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
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
