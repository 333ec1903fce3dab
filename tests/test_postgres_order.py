"""In PostgreSQL `seq` is the order of commits: who has seen N and asks for more misses nothing."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from random import Random

import aiohttp
import asyncpg
import pytest
from asyncpg.transaction import Transaction

from service.databases import open_database
from service.errors import NotFoundError
from service.settings import Settings
from service.tasks.generate import tasks
from service.tasks.model import NewTask, Task, TaskStore
from tests.conftest import Running, StartService
from tests.databases import POSTGRESQL_ALONE, PostgreSQL
from tests.postgres import Connect

pytestmark = POSTGRESQL_ALONE

TABLE = list(tasks(200, seed=4))
CHANGES = (
    "SELECT seq, id, title, priority, status FROM task"
    " UNION ALL SELECT seq, id, NULL, NULL, NULL FROM tombstone"
)
NEW = {"title": "new", "priority": 1}
WRITES = {
    "create one": ("POST", "", NEW),
    "create many": ("POST", "", [NEW] * 3),
    "update": ("PATCH", "/{}", {"title": "changed"}),
    "delete": ("DELETE", "/{}", None),
}
COPIES, WRITERS_A_COPY, WRITES_A_WRITER = 4, 2, 50


class Follower:
    """Asks again and again for what is behind the highest number that it has seen.

    found: all rows that it was given. looks: how often it was given any.
    """

    def __init__(self, connection: asyncpg.Connection, source: str, number: str = "seq") -> None:
        self._connection = connection
        self._statement = f"SELECT * FROM ({source}) AS s WHERE {number} > $1 ORDER BY {number}"
        self._number = number
        self._last = 0
        self.found: list[asyncpg.Record] = []
        self.looks = 0

    async def look(self) -> None:
        rows = await self._connection.fetch(self._statement, self._last)
        if rows:
            self._last = rows[-1][self._number]
            self.found += rows
            self.looks += 1

    async def follow(self, end: asyncio.Event) -> None:
        """Look until the end, and once behind it."""
        while not end.is_set():
            await self.look()
        await self.look()


def replayed(changes: Iterable[asyncpg.Record]) -> dict[int, Task]:
    """The table that these changes lead to."""
    table: dict[int, Task] = {}
    for _, *task in changes:
        row = Task(*task)
        if row.title is None:
            table.pop(row.id, None)
        else:
            table[row.id] = row
    return table


async def stored(connection: asyncpg.Connection) -> dict[int, Task]:
    """The table as it is."""
    rows = await connection.fetch("SELECT id, title, priority, status FROM task")
    return {row["id"]: Task(*row) for row in rows}


async def wait_for_waiters(
    connection: asyncpg.Connection, count: int, unless: Callable[[], bool] = lambda: False
) -> list[tuple[int, list[int]]]:
    """Return once so many connections of ours wait for a lock: each, and whom it waits for."""
    statement = (
        "SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND application_name = 'weir' AND datname = current_database()"
    )
    for _ in range(400):
        found = [tuple(row) for row in await connection.fetch(statement)]
        if len(found) == count or unless():
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"it is not {count} that wait: {found}")


def write(service: Running, kind: str, task_id: int) -> asyncio.Task[aiohttp.ClientResponse]:
    """A write on its way through a service."""
    method, path, body = WRITES[kind]
    url = f"{service.url}/tasks{path.format(task_id)}"
    return asyncio.create_task(service.client.request(method, url, json=body).__aenter__())


async def obstruct(connection: asyncpg.Connection, task_id: int) -> Transaction:
    """Stop the next write, of whatever kind, when it has its number and has not committed.

    The transaction that is returned has locked the task, and taken the id of the next new one.
    """
    transaction: Transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM task WHERE id = $1 FOR UPDATE", task_id)
    await connection.execute(
        "INSERT INTO task (id, title, priority, status, seq)"
        " SELECT last_value + 1, 'in the way', 1, 'pending', 0 FROM task_id_seq"
    )
    return transaction


@pytest.mark.parametrize("first_succeeds", [True, False], ids=["commits", "fails"])
@pytest.mark.parametrize("first_kind", WRITES)
async def test_no_write_overtakes_one_that_has_its_number(
    start: StartService, connect: Connect, first_kind: str, first_succeeds: bool
) -> None:
    """A write that would commit before one with a lower number waits; a follower has both."""
    one, other = await start(TABLE), await start()
    observer, obstacle = await connect(), await connect()
    changes = Follower(await connect(), CHANGES)
    ids = Follower(await connect(), "SELECT id FROM task", "id")
    for number, second_kind in enumerate(WRITES):
        in_the_way = await obstruct(obstacle, 2 * number + 1)
        first = write(one, first_kind, 2 * number + 1)
        ((holder, _),) = await wait_for_waiters(observer, 1)
        second = write(other, second_kind, 2 * number + 2)
        waiters = dict(await wait_for_waiters(observer, 2, unless=second.done))
        await changes.look()
        await ids.look()
        if not first_succeeds:
            await observer.execute("SELECT pg_cancel_backend($1)", holder)
            assert (await first).status == 503
        await in_the_way.rollback()
        assert (await first).ok == first_succeeds
        assert (await second).ok
        await changes.look()
        await ids.look()

        table = await stored(observer)
        assert replayed(changes.found) == table
        assert {row["id"] for row in ids.found} >= table.keys()
        del waiters[holder]
        assert list(waiters.values()) == [[holder]]


async def test_a_follower_of_a_plain_sequence_misses_a_row(connect: Connect) -> None:
    """The same follower does lose a change where numbers come from a sequence: it can tell."""
    one, other, reader = [await connect() for _ in range(3)]
    await reader.execute("CREATE TABLE plain (seq bigserial PRIMARY KEY, title text)")
    insert = "INSERT INTO plain (title) VALUES ($1) RETURNING seq"
    follower = Follower(reader, "SELECT seq FROM plain")
    first, second = one.transaction(), other.transaction()
    await first.start()
    await second.start()
    assert await one.fetchval(insert, "first") == 1
    assert await other.fetchval(insert, "second") == 2
    await second.commit()
    await follower.look()
    await first.commit()
    await follower.look()
    assert [row["seq"] for row in await reader.fetch("SELECT seq FROM plain ORDER BY seq")] == [
        1,
        2,
    ]
    assert [row["seq"] for row in follower.found] == [2]


async def write_at_random(store: TaskStore, random: Random) -> list[int]:
    """Many writes of every kind, of tasks that others write, too; the ids of the new ones.

    None but those that were there before is deleted: a new one is there to be found.
    """
    created: list[int] = []
    for _ in range(WRITES_A_WRITER):
        old = random.randint(1, len(TABLE))
        with suppress(NotFoundError):
            match random.choice(list(WRITES)):
                case "create one":
                    created += [
                        task.id for task in await store.create([NewTask("a", 1, "pending")])
                    ]
                case "create many":
                    many = [NewTask("b", 2, "completed")] * random.randint(2, 9)
                    created += [task.id for task in await store.create(many)]
                case "update":
                    task_id = random.choice([old, *created])
                    await store.update(task_id, {"priority": random.randint(1, 10)})
                case _:
                    await store.delete(old)
    return created


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_followers_miss_nothing_in_a_race(
    database: PostgreSQL, connect: Connect, isolation: str
) -> None:
    """While several copies of the service write, followers by `seq` and id see all, and no write
    fails, whatever isolation of transactions the database has for its default."""
    await database.fill(TABLE)
    name = database.url.rpartition("/")[2]
    await database.execute(
        f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{isolation}'"
    )
    settings = Settings(database=database.url)
    changes = Follower(await connect(), CHANGES)
    ids = Follower(await connect(), "SELECT id FROM task", "id")
    end = asyncio.Event()
    async with AsyncExitStack() as stack:
        stores = []
        for _ in range(COPIES):
            opened = await open_database(settings)
            stack.push_async_callback(opened.close)
            assert opened.tasks is not None
            stores.append(opened.tasks)
        following = [asyncio.create_task(follower.follow(end)) for follower in (changes, ids)]
        created = await asyncio.gather(
            *(
                write_at_random(store, Random(number))
                for number, store in enumerate(stores * WRITERS_A_COPY)
            )
        )
        end.set()
        await asyncio.gather(*following)

    found = [row["id"] for row in ids.found]
    assert found == sorted(set(found))
    assert set(found) >= {task_id for some in created for task_id in some}
    assert replayed(changes.found) == await stored(await connect())
    assert min(changes.looks, ids.looks) > 10  # or they have not been there in the race
