"""The table that Weir streams: its columns, its limits, and what may be asked of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

COLUMNS = ("id", "title", "priority", "status")
STATUSES = ("pending", "in-progress", "completed")
DEFAULT_STATUS = STATUSES[0]
TITLE_CHARACTERS = 2_000
"""Unicode code points in the longest title; its longest line is 12,064 bytes of NDJSON
(2,000 control characters of six bytes each), so every legal row fits a page of 16 KiB."""
PRIORITY_LOWEST, PRIORITY_HIGHEST = 1, 10
ID_HIGHEST = 2**63 - 1


class Format(StrEnum):
    """How a row becomes bytes."""

    CSV = "csv"
    EXCEL = "excel"
    NDJSON = "ndjson"


class NewTask(NamedTuple):
    """A task before the store has given it an id."""

    title: str
    priority: int
    status: str


class Task(NamedTuple):
    """A stored task."""

    id: int
    title: str
    priority: int
    status: str


class Extent(NamedTuple):
    """How far the table reaches now: its highest id and the newest change's `seq`."""

    last_id: int
    last_seq: int


class ServerState(NamedTuple):
    """How one of several database servers is.

    role: primary or replica. fit: it is read from. lag: seconds that it is behind.
    reason: why it is not read from, or "".
    """

    name: str
    role: str
    fit: bool
    lag: float
    reason: str


@dataclass(frozen=True, slots=True)
class Query:
    """Which rows, in ascending order of id, and how each becomes a line.

    until: the highest id delivered, fixed when the stream starts, so that it ends.
    since: the `seq` that the table had reached then. A copy of the database that has not
        yet come so far may lack rows, and is not read.
    """

    format: Format
    columns: tuple[str, ...] = COLUMNS
    status: str | None = None
    min_priority: int | None = None
    max_priority: int | None = None
    until: int = ID_HIGHEST
    since: int = 0


class Cursor(NamedTuple):
    """Where the next page starts. It is all the state that a stream has between two pages.

    after: the last id that was delivered or passed over.
    left: rows that may still be delivered; None is all.
    span: how many ids the next page should cover, learnt from the size of the last ones.
    """

    after: int = 0
    left: int | None = None
    span: int = 128


class Page(NamedTuple):
    """Consecutive rows, encoded. next_cursor is None behind the last row.

    data is a view of what several pages may share: copy what is to outlive the others.
    """

    data: bytes | memoryview
    rows: int
    next_cursor: Cursor | None
