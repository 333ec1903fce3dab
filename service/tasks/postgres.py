"""Tasks in a PostgreSQL database of ours: read from any copy, written to the primary.

The order of `seq`. A sequence hands out numbers in an order in which transactions need not
commit: a reader that has seen 8 and asks for what is behind it would miss 7, were that to
commit later. So `seq` does not come from a sequence. Each transaction that writes first adds to
the one row of the table `clock`, and holds its lock until it has committed. Whoever gets a higher
number got it behind that lock, and so commits later: the order of `seq` is the order of commits,
on the primary, in the log, and on every replica that replays it. Ids are drawn behind the same
lock, so they come in that order, too. The price: transactions that write commit one at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import asyncpg
from asyncpg.pool import PoolConnectionProxy as Connection

from ..engines.postgres.catalogue import PostgresCatalogue
from ..engines.postgres.server import Server
from ..engines.postgres.servers import Servers
from ..engines.postgres.tables import PostgresRelation
from ..query import Format
from ..relation import Relation
from ..settings import Settings
from .model import ADDRESS, COLUMNS, IN_CSV, IN_JSON, TABLE, NewTask, Task, not_found
from .postgres_schema import Ours

WRITERS = 2
"""Connections that write: one commits while the next one is on its way; more would only wait."""
FILL_ROWS = 50_000
"""Rows that `fill` commits at a time; other writers wait for as long."""

_TICK = "UPDATE clock SET seq = seq + $1 RETURNING seq"
_TICK_FOR_TASK = (
    "UPDATE clock SET seq = seq + 1 WHERE EXISTS (SELECT FROM task WHERE id = $1) RETURNING seq"
)
_COLUMNS = "id, title, priority, status"


class OurCatalogue:
    """The table of tasks alone, as streams see it."""

    def __init__(self, servers: Servers) -> None:
        self._found = PostgresCatalogue(servers)
        self.forget = self._found.forget
        self._table: PostgresRelation | None = None
        self._relations: Mapping[str, Relation] = {}

    async def relations(self) -> Mapping[str, Relation]:
        table = (await self._found.relations()).get(TABLE)
        if table is not self._table:
            self._table = table
            self._relations = {} if table is None else {ADDRESS: _as_streamed(table)}
        return self._relations


def _as_streamed(table: PostgresRelation) -> PostgresRelation:
    """The table without the columns that are ours alone; its id is a string, as in the tutorial."""
    return replace(
        table,
        address=ADDRESS,
        columns=tuple(table.column(name) for name in COLUMNS),
        plain={
            Format.CSV: f"special & {IN_CSV} = 0",
            Format.NDJSON: f"special & {IN_JSON} = 0",
        },
        string_keys=True,
        counted=True,
    )


class PostgresTasks:
    """A TaskStore in PostgreSQL 14 or newer."""

    def __init__(self, servers: Servers, settings: Settings) -> None:
        """servers: what is read from; the primary among them is written to."""
        self._servers = servers
        self._writer = Server(settings.database, settings, Ours(), size=WRITERS, writes=True)

    async def open(self) -> None:
        """Be ready to write; the servers that are read from must be open."""
        self._writer.identity = self._servers.primary.identity
        await self._writer.open()

    async def close(self) -> None:
        """Let go of the connections that write."""
        await self._writer.close()

    async def read(self, task_id: int) -> Task:
        async def work(connection: Connection) -> asyncpg.Record | None:
            return await connection.fetchrow(f"SELECT {_COLUMNS} FROM task WHERE id = $1", task_id)

        found = await self._servers.read(work, primary=True)
        if found is None:
            raise not_found(task_id)
        return Task(*found)

    # Writing: one transaction a call, on the primary's disk before the call returns.

    async def create(self, tasks: Sequence[NewTask]) -> list[Task]:
        async with self._writer.connection() as connection:
            if len(tasks) == 1:
                statement = (
                    f"WITH tick AS ({_TICK}) INSERT INTO task (title, priority, status, seq)"
                    " SELECT $2, $3, $4, seq FROM tick RETURNING id"
                )
                ids = [await connection.fetchval(statement, 1, *tasks[0])]
            else:
                ids = await _append(connection, tasks)
        return [Task(task_id, *task) for task_id, task in zip(ids, tasks, strict=True)]

    async def update(self, task_id: int, changes: Mapping[str, str | int]) -> Task:
        assignments = "".join(f"{name} = ${place}, " for place, name in enumerate(changes, 2))
        statement = (
            f"WITH tick AS ({_TICK_FOR_TASK}) UPDATE task SET {assignments} seq = tick.seq"
            f" FROM tick WHERE id = $1 RETURNING {_COLUMNS}"
        )
        async with self._writer.connection() as connection:
            found = await connection.fetchrow(statement, task_id, *changes.values())
        if found is None:
            raise not_found(task_id)
        return Task(*found)

    async def delete(self, task_id: int) -> None:
        statement = (
            f"WITH tick AS ({_TICK_FOR_TASK}),"
            " gone AS (DELETE FROM task USING tick WHERE id = $1 RETURNING id)"
            " INSERT INTO tombstone SELECT tick.seq, gone.id FROM tick, gone RETURNING id"
        )
        async with self._writer.connection() as connection:
            if await connection.fetchval(statement, task_id) is None:
                raise not_found(task_id)

    async def fill(self, tasks: Iterable[NewTask]) -> None:
        waiting = iter(tasks)
        while batch := list(islice(waiting, FILL_ROWS)):
            async with self._writer.connection() as connection:
                await _append(connection, batch)


async def _append(connection: Connection, tasks: Sequence[NewTask]) -> list[int]:
    """Store the tasks through COPY, in one transaction; their ids, in order."""
    async with connection.transaction():
        numbers = await connection.fetch(
            f"WITH tick AS ({_TICK}) SELECT seq, nextval("
            "(SELECT pg_get_serial_sequence('task', 'id')::regclass)"
            ") FROM tick, generate_series(1, $1)",
            len(tasks),
        )
        ids = [number for _, number in numbers]
        first = numbers[-1][0] - len(tasks) + 1
        await connection.copy_records_to_table(
            "task",
            records=(
                (task_id, *task, seq)
                for seq, (task_id, task) in enumerate(zip(ids, tasks, strict=True), first)
            ),
            columns=("id", "title", "priority", "status", "seq"),
        )
    return ids
