"""A task: its columns and limits, and what a store of tasks does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from ..errors import NotFoundError
from ..relation import Column, Key, Kind, Relation

log = structlog.get_logger()

ADDRESS, TABLE = "tasks", "task"
"""What tasks are called in a path, and what their table is called in the database."""
COLUMNS = ("id", "title", "priority", "status")
STATUSES = ("pending", "in-progress", "completed")
DEFAULT_STATUS = STATUSES[0]
TITLE_CHARACTERS = 2_000
"""Unicode code points in the longest title; its longest line is 12,064 bytes of NDJSON
(2,000 control characters of six bytes each), so every legal row fits a page of 16 KiB."""
PRIORITY_LOWEST, PRIORITY_HIGHEST = 1, 10
ID_HIGHEST = 2**63 - 1
IN_CSV, IN_JSON = 1, 2
"""Bits of a title's `special`, a stored column that only the engine reads: it needs quotes in CSV
(RFC 4180), escapes in JSON (RFC 8259). Asked once, when the title is written."""


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


class TaskStore(Protocol):
    """Single tasks. All methods raise StoreError when the database fails."""

    async def create(self, tasks: Sequence[NewTask]) -> list[Task]:
        """Store all tasks or none; durable when it returns."""

    async def read(self, task_id: int) -> Task:
        """One task, or NotFoundError."""

    async def update(self, task_id: int, changes: Mapping[str, str | int]) -> Task:
        """Set the named columns of one task; durable when it returns."""

    async def delete(self, task_id: int) -> None:
        """Delete one task and leave a tombstone; durable when it returns."""

    async def fill(self, tasks: Iterable[NewTask]) -> None:
        """Append many tasks, in batches; each is stored whole, in its order, or not at all."""


def relation(schema: str, types: Sequence[str], access: str, plain: Mapping[str, str]) -> Relation:
    """The table of tasks as streams see it; its id is a string in JSON, as the tutorial has it.

    types: of the four columns, as the engine calls them. access and plain: see Key and Relation.
    """
    kinds = (Kind.INTEGER, Kind.TEXT, Kind.INTEGER, Kind.TEXT)
    columns = tuple(
        Column(name, type_, kind, nullable=False, exact=True)
        for name, type_, kind in zip(COLUMNS, types, kinds, strict=True)
    )
    return Relation(
        address=ADDRESS,
        schema=schema,
        name=TABLE,
        kind="table",
        columns=columns,
        key=Key(("id",), "primary key", ("id",), access, ascending=True),
        plain=plain,
        string_keys=True,
        counted=True,
    )


def not_found(task_id: int) -> NotFoundError:
    """There is no such task."""
    return NotFoundError(
        f"there is no task {task_id}", hint="GET /tasks lists those that there are"
    )


def say_what_was_made(name: str, before: int, now: int, tables: Iterable[str]) -> None:
    """Log what the start has changed in a database, if anything: somebody may miss it, or wonder.

    before, now: versions of the schema; 0 is none. name: how the database is called.
    """
    if before == 0:
        log.info("tables made", database=name, tables=", ".join(tables))
    elif before < now:
        log.info("schema brought forward", database=name, before=before, now=now)
