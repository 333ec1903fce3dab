"""Tasks in PostgreSQL: pages by COPY from a replica or the primary, writes to the primary.

The order of `seq`. A sequence hands out numbers in an order in which transactions need not
commit: a reader that has seen 8 and asks for what is behind it would miss 7, were that to
commit later. So `seq` does not come from a sequence. Each transaction that writes first adds to
the one row of the table `clock`, and holds its lock until it has committed. Whoever gets a higher
number got it behind that lock, and so commits later: the order of `seq` is the order of commits,
on the primary, in the log, and on every replica that replays it. Ids are drawn behind the same
lock, so they come in that order, too. The price: transactions that write commit one at a time.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import asyncpg
from asyncpg.pool import PoolConnectionProxy as Connection

from ..errors import StoreError
from ..settings import Settings
from ..table import Cursor, Extent, NewTask, Page, Query, ServerState, Task
from . import not_found
from .postgres_lines import pages_statement, parts
from .postgres_server import Server
from .postgres_servers import BehindError, Servers
from .trips import Found, Trip, behind_gap, gap_from

WRITERS = 2
"""Connections that write: one commits while the next one is on its way; more would only wait."""
FILL_ROWS = 50_000
"""Rows that `fill` commits at a time; other writers wait for as long."""

_TICK = "UPDATE clock SET seq = seq + $1 RETURNING seq"
_TICK_FOR_TASK = (
    "UPDATE clock SET seq = seq + 1 WHERE EXISTS (SELECT FROM task WHERE id = $1) RETURNING seq"
)
_COLUMNS = "id, title, priority, status"


class PostgresStore:
    """A Store in PostgreSQL 14 or newer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers = Servers(settings)
        self._writer = Server(settings.database, settings, size=WRITERS, writes=True)

    @classmethod
    async def open(cls, settings: Settings) -> "PostgresStore":
        """Connect, and make or check the tables; ConfigurationError if unfit."""
        store = cls(settings)
        try:
            await store._servers.open()
            store._writer.identity = store._servers.primary.identity
            await store._writer.open()
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        await asyncio.gather(self._writer.close(), self._servers.close())

    async def ping(self) -> None:
        await self._servers.ping()

    def servers(self) -> list[ServerState]:
        return self._servers.states()

    # Reading: a connection is held for one trip, a transaction for one statement.

    async def extent(self, *, latest: bool = False) -> Extent:
        async def work(connection: Connection) -> Extent:
            statement = "SELECT coalesce((SELECT max(id) FROM task), 0), seq FROM clock"
            found = await connection.fetchrow(statement)
            if found is None:
                raise StoreError("the table 'clock' is empty", hint="restore it from a backup")
            return Extent(*found)

        return await self._servers.read(work, primary=latest)

    async def read_pages(self, query: Query, cursor: Cursor, count: int) -> list[Page]:
        async def work(connection: Connection) -> list[Page]:
            trip: Trip | None = Trip.of(query, cursor, count, self._settings)
            while trip is not None:
                if pages := trip.pages(await _found(connection, trip)):
                    return await _past_gap(connection, query, pages)
                trip = trip.smaller()
            return []

        return await self._servers.read(work)

    async def read_row(self, query: Query, cursor: Cursor) -> Page:
        async def work(connection: Connection) -> Page:
            trip = Trip.of_row(query, cursor, self._settings)
            page = trip.page(await _found(connection, trip))
            return (await _past_gap(connection, query, [page]))[0]

        return await self._servers.read(work)

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


async def _found(connection: Connection, trip: Trip) -> Found:
    """What the trip finds on this server; nothing when the server refuses to hold that much.

    Raises BehindError when the server has not yet come as far as the stream's start.
    """
    chunks: list[bytes] = []

    async def keep(chunk: bytes) -> None:
        chunks.append(chunk)

    try:
        await connection.copy_from_query(pages_statement(trip), output=keep, format="binary")
    except asyncpg.ProgramLimitExceededError:  # a gigabyte is the longest value that there is
        return []
    found = list(parts(b"".join(chunks)))
    if found[0].seq < trip.query.since:
        raise BehindError(
            f"the server has come to change {found[0].seq}, the stream began at {trip.query.since}",
            hint="was it restored, or has a late replica taken over? Start the export again",
        )
    return [(part.rows, part.lines) for part in found]


async def _past_gap(connection: Connection, query: Query, pages: list[Page]) -> list[Page]:
    """The same pages; when they found no row, followed by what comes next, however far away."""
    if (gap := gap_from(pages)) is None:
        return pages
    statement = "SELECT coalesce(min(id) - 1, $1) FROM task WHERE id > $2"
    return behind_gap(pages, await connection.fetchval(statement, query.until, gap))


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
