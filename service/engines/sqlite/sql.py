"""What is said to SQLite again and again: names and texts in SQL, and a statement's rows."""

from typing import Any

import apsw


def name(text: str) -> str:
    """An identifier: in double quotes, so that no name is a word of SQL."""
    return '"' + text.replace('"', '""') + '"'


def inner(text: str) -> str:
    """What a column is called outside of the SELECT that reads it.

    SQLite takes their name from columns called TRUE or FALSE there, and would then take the name
    for a text. These get one that no table will have.
    """
    return name(f"\x1f{text}" if text.upper() in ("TRUE", "FALSE") else text)


def literal(text: str) -> str:
    """A string; SQLite takes every character but NUL in one."""
    return "'" + text.replace("'", "''") + "'"


def rows(connection: apsw.Connection, statement: str, values: Any = ()) -> list[Any]:
    """All rows at once: a statement that is not run to its end keeps its transaction open."""
    return connection.execute(statement, values).fetchall()
