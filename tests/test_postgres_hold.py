"""What exports and writes hold in PostgreSQL: nothing while a client is slow, no lock for long."""

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime

import aiohttp
import asyncpg
import pytest

from service.engines.postgres.server import Server
from service.engines.postgres.strangers import Strangers
from service.settings import KIB, Settings
from service.tasks.generate import tasks
from service.tasks.postgres import WRITERS
from tests.conftest import (
    AUTHORIZATION,
    Logged,
    Running,
    StartProcess,
    StartService,
    faults,
    request_bytes,
    small_reader,
)
from tests.databases import POSTGRESQL_ALONE, PostgreSQL
from tests.postgres import Connect

pytestmark = POSTGRESQL_ALONE

EXPORT = "/tasks/export.csv"
TABLE = list(tasks(30_000, seed=8))
"""An export of 1.4 MB, far larger than what a reader that stops is sent."""
STALLED, RESUMED = 1_000, 5
STALLED_SECONDS = 1
"""A client for which so long nothing could be written has stopped."""
MOST_CONNECTIONS = Settings().pool_size + WRITERS + 1
"""What one worker may have open: for pages, for writes, and one that looks after the server."""
UPDATED, DELETED = (15_001, 20_000), (25_001, 30_000)
"""First and last id; no reader that has stopped has come near them."""
DEAD = 10_000
LIMITS = {"statement_timeout": 0.5, "reconnect_timeout": 0.5}
STATED_SECONDS = sum(LIMITS.values())
"""A read is begun again until `reconnect_timeout` is over; its last try may begin just before."""
SPARE_SECONDS = 5
"""What a machine may take that others use, too."""

OURS = (
    "SELECT pid, state, backend_xmin, backend_xid, query_start, wait_event_type"
    " FROM pg_stat_activity WHERE application_name = 'weir' AND datname = current_database()"
)


@pytest.fixture
def client() -> Iterator[ExitStack]:
    """Keeps the sockets of a test's readers until its end, and room for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        yield stack


def ask_for_export(port: int, client: ExitStack) -> socket.socket:
    """A reader with a small window that has asked for the export, to be sent without chunks."""
    request = request_bytes(EXPORT).replace(b"HTTP/1.1", b"HTTP/1.0")
    return client.enter_context(small_reader(port, request))


async def read_to_the_end(reader: socket.socket) -> bytes:
    """The body; ConnectionResetError when the peer reset."""
    loop, parts = asyncio.get_running_loop(), []
    while part := await loop.sock_recv(reader, 64 * KIB):
        parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    assert b" 200 OK" in head
    return body


async def wait_for_stalled(session: aiohttp.ClientSession, url: str, count: int) -> None:
    """Return once so many streams have sent rows and have waited for their clients for long."""
    for _ in range(400):
        async with session.get(url + "/streams") as answer:
            streams = json.loads(await answer.read())["streams"]
        stalled = [s for s in streams if s["rows"] and s["waiting_seconds"] > STALLED_SECONDS]
        if len(stalled) == len(streams) == count:
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"it is not {count} that wait: {len(streams)}, {streams[:3]}")


async def holding(observer: asyncpg.Connection) -> list[asyncpg.Record]:
    """Connections of ours that do anything, or hold a transaction or a snapshot."""
    condition = "state <> 'idle' OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL"
    return list(await observer.fetch(f"{OURS} AND ({condition})"))


async def dead_rows(observer: asyncpg.Connection, wanted: str) -> int:
    """How many rows PostgreSQL counts as dead, once a condition on its count is met."""
    for _ in range(400):
        dead: int | None = await observer.fetchval(
            f"SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'task' AND {wanted}"
        )
        if dead is not None:
            return dead
        await asyncio.sleep(0.05)
    raise AssertionError(f"the count does not come to {wanted}")


async def left_by_vacuum(database: PostgreSQL, observer: asyncpg.Connection) -> int:
    """How many dead rows VACUUM has to leave, of those that this makes before."""
    await observer.execute("ALTER TABLE task SET (autovacuum_enabled = off)")
    # In one statement: a later one could remove what an earlier one has left on its pages.
    await database.execute(
        "WITH changed AS (UPDATE task SET title = 'changed' WHERE id BETWEEN $1 AND $2)"
        " DELETE FROM task WHERE id BETWEEN $3 AND $4",
        (*UPDATED, *DELETED),
    )
    assert await dead_rows(observer, f"n_dead_tup >= {DEAD}") == DEAD
    await observer.execute("VACUUM task")
    return await dead_rows(observer, "vacuum_count > 0")


@pytest.mark.timeout(240)  # on a machine that is busy with much else
async def test_stalled_exports_hold_nothing(
    database: PostgreSQL, spawn: StartProcess, connect: Connect, client: ExitStack
) -> None:
    """A thousand stalled exports keep no connection busy, no snapshot, and no dead row alive;
    those that read on get the whole table as it is by then."""
    await database.fill(TABLE)
    service = spawn()
    observer = await connect()
    readers = [ask_for_export(service.port, client) for _ in range(STALLED)]
    async with aiohttp.ClientSession(headers=AUTHORIZATION) as session:
        await wait_for_stalled(session, service.url, STALLED)
        assert await holding(observer) == []
        before = await observer.fetch(OURS)
        assert 0 < len(before) <= MOST_CONNECTIONS

        assert await left_by_vacuum(database, observer) == 0
        assert await observer.fetch(OURS) == before  # in the meantime nothing was asked, either
        await wait_for_stalled(session, service.url, STALLED)

        async with session.get(service.url + EXPORT) as answer:
            expected = await answer.read()
        assert expected.count(b"changed,") == UPDATED[1] - UPDATED[0] + 1
    resumed = readers[:: STALLED // RESUMED]
    async with asyncio.timeout(30):
        bodies = await asyncio.gather(*(read_to_the_end(reader) for reader in resumed))
    assert [body == expected for body in bodies] == [True] * RESUMED


async def test_an_open_transaction_is_found_out(database: PostgreSQL, connect: Connect) -> None:
    """One connection that keeps a snapshot is seen by the same check, and keeps dead rows."""
    await database.fill(TABLE)
    observer, other = await connect(), await connect("weir")
    transaction = other.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    assert await other.fetchval("SELECT count(*) FROM task") == len(TABLE)
    (found,) = await holding(observer)
    assert found["state"] == "idle in transaction"
    assert found["backend_xmin"] is not None
    assert await left_by_vacuum(database, observer) == DEAD
    await transaction.rollback()
    assert await holding(observer) == []
    await observer.execute("VACUUM task")
    assert await dead_rows(observer, "vacuum_count > 1") == 0


async def test_a_server_with_much_to_do_is_not_away(
    database: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a connection waits as long as others get answers, however long that is."""
    monkeypatch.setattr("service.engines.postgres.server.SPARE_SECONDS", 0.2)
    server = Server(
        database.url, Settings(statement_timeout=0.5), Strangers(), size=1, writes=False
    )
    await server.open()

    async def work() -> None:
        async with server.connection() as connection:
            await connection.execute("SELECT pg_sleep(0.3)")

    await asyncio.gather(*(work() for _ in range(6)))
    await server.close()


@asynccontextmanager
async def locked(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Nobody else can read or write a task for as long as the context lasts."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
        yield


async def wait_for_none_waiting(observer: asyncpg.Connection) -> None:
    """Return once no connection of ours waits for a lock, or does anything else."""
    for _ in range(100):
        if not (found := await holding(observer)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"these still wait: {found}")


TASK = {"title": "waits", "priority": 1}
REQUESTS = (
    ("GET", EXPORT, None),
    ("GET", "/tasks/stream.ndjson", None),
    ("GET", "/tasks", None),
    ("GET", "/tasks/1", None),
    ("POST", "/tasks", TASK),
    ("POST", "/tasks", [TASK] * 3),
    ("PATCH", "/tasks/1", TASK),
    ("DELETE", "/tasks/1", None),
)


async def test_whoever_waits_for_a_lock_is_answered_503(
    start: StartService, connect: Connect, logged: Logged
) -> None:
    """What the statement time-out ends before its first byte is a 503 within the stated time;
    no connection is left waiting, nothing is stored, and all is served once the lock is gone."""
    service = await start(TABLE[:10], **LIMITS)
    observer = await connect()
    expected = await service.get(EXPORT)

    async def answer(method: str, path: str, body: object) -> None:
        request = service.client.request(method, service.url + path, json=body)
        async with asyncio.timeout(STATED_SECONDS + SPARE_SECONDS), request as response:
            assert response.status == 503
            problem = await response.json(content_type="application/problem+json")
            assert problem["code"] == "store_unavailable"

    async with locked(await connect()):
        await asyncio.gather(*(answer(*request) for request in REQUESTS))
        assert len(faults(logged)) == len(REQUESTS)
        assert all("statement timeout" in reason for _, reason in faults(logged))
        await wait_for_none_waiting(observer)
    assert await service.get(EXPORT) == expected
    for method, path, body in REQUESTS:
        async with service.client.request(method, service.url + path, json=body) as response:
            assert response.ok, await response.text()


async def test_nobody_waits_for_others_to_start_for_long(
    start: StartService, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a lock lets no stream start, those who wait for their turn get 503 after a while."""
    monkeypatch.setattr("service.web.exports.STARTS_AT_ONCE", 2)
    monkeypatch.setattr("service.web.exports.START_SECONDS", 0.5)
    service = await start(TABLE[:10], statement_timeout=5, reconnect_timeout=5)

    async def ask() -> tuple[int, bytes]:
        async with service.client.get(service.url + EXPORT) as response:
            return response.status, await response.read()

    async with locked(await connect()), asyncio.timeout(4):
        waiting = {asyncio.create_task(ask()) for _ in range(6)}
        while len(waiting) > 2:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for answer in done:
                status, body = await answer
                assert (status, json.loads(body)["code"]) == (503, "starts_exhausted")
    for status, body in await asyncio.gather(*waiting):
        assert (status, body) == (200, await service.get(EXPORT))


async def stalled_reader(service: Running, client: ExitStack) -> socket.socket:
    reader = ask_for_export(service.port, client)
    await wait_for_stalled(service.client, service.url, 1)
    return reader


async def test_a_stream_that_waits_too_long_for_a_lock_breaks(
    start: StartService, connect: Connect, client: ExitStack
) -> None:
    """A stream whose pages stay locked is reset within the stated time: no clean, short end."""
    service = await start(TABLE, **LIMITS)
    observer = await connect()
    reader = await stalled_reader(service, client)
    async with locked(await connect()):
        async with asyncio.timeout(STATED_SECONDS + SPARE_SECONDS):
            with pytest.raises(ConnectionResetError):
                await read_to_the_end(reader)
        await wait_for_none_waiting(observer)
    assert await service.outcomes() == {"failed": 1}


async def test_a_stream_outlasts_a_lock_and_ended_statements(
    start: StartService, connect: Connect, client: ExitStack
) -> None:
    """A stream goes on when the lock is gone in time, though statements were ended before."""
    service = await start(TABLE, statement_timeout=0.3, reconnect_timeout=60)
    observer = await connect()
    expected = await service.get(EXPORT)
    reader = await stalled_reader(service, client)
    async with locked(await connect()):
        reading = asyncio.create_task(read_to_the_end(reader))
        tries: set[datetime] = set()
        async with asyncio.timeout(20):
            while len(tries) < 3:
                found = await holding(observer)
                tries |= {row["query_start"] for row in found if row["wait_event_type"] == "Lock"}
                await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        assert await reading == expected
