"""PostgreSQL stops, crashes, hangs and comes back: no stream ends clean and short."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import Any

import aiohttp
import psutil
import pytest

from service.engines.postgres import server as postgres_server
from service.tasks.generate import tasks
from tests.conftest import AUTHORIZATION, Logged, Running, StartService, faults, until
from tests.databases import Database, PostgreSQL
from tests.postgres import Cluster

EXPORT, STREAM = "/tasks/export.csv", "/tasks/stream.ndjson"
TABLE = list(tasks(10_000, seed=31))
"""An export of 470 KB, several times as much as a reader that stops is sent."""
TASK = {"title": "Learn Node", "priority": 5}
SHORT = 1.0
"""Seconds that this module gives a server in place of the service's five."""
STATEMENT_SECONDS = 1 + SHORT
IMPATIENT = {"statement_timeout": 1, "reconnect_timeout": 1}
SPARE = 4.0
"""Seconds that anything may take longer than promised, on a busy machine."""


@pytest.fixture
def database(cluster: Cluster) -> Database:
    """A database on a server of the test's own."""
    return PostgreSQL(cluster.create_database("weir"), lambda: None)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECT_SECONDS", "LOOK_SECONDS", "SPARE_SECONDS"):
        monkeypatch.setattr(postgres_server, name, SHORT)


def small_window(address: tuple[Any, ...]) -> socket.socket:
    """A socket into which the kernel takes little that nobody reads."""
    made = socket.socket(address[0], address[1])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    return made


@asynccontextmanager
async def under_way(service: Running, count: int) -> AsyncIterator[list[aiohttp.ClientResponse]]:
    """So many exports, of both formats in turn, that have begun and wait to be read on."""
    connector = aiohttp.TCPConnector(socket_factory=small_window)
    async with (
        AsyncExitStack() as stack,
        aiohttp.ClientSession(
            service.url, connector=connector, headers=AUTHORIZATION, read_bufsize=4096
        ) as client,
    ):
        asked = [client.get(STREAM if number % 2 else EXPORT) for number in range(count)]
        responses = [await stack.enter_async_context(response) for response in asked]
        waiting: list[int] = []
        async with asyncio.timeout(20):
            while len(waiting) < count:
                waiting = await stalled(service)
                await asyncio.sleep(0.02)
        assert max(waiting) < len(TABLE) / 2
        yield responses


async def stalled(service: Running) -> list[int]:
    """How many rows each stream that waits for its client has been sent."""
    _, body = await ask(service, "/streams")
    return [stream["rows"] for stream in body["streams"] if stream["waiting_seconds"] > 0.1]


async def ask(service: Running, path: str, method: str = "GET", body: Any = None) -> Any:
    """The status of a request, and the JSON that answers it."""
    async with service.client.request(method, service.url + path, json=body) as response:
        return response.status, await response.json(content_type=None)


async def ready(service: Running, status: int, seconds: float = 20) -> str:
    """What `/readyz` says once it answers with this status."""
    async with asyncio.timeout(seconds):
        while True:
            found, body = await ask(service, "/readyz")
            if found == status:
                return str(body)
            await asyncio.sleep(0.02)


async def broken(response: aiohttp.ClientResponse) -> float:
    """How many seconds a download takes to break; it must not end as if it were whole."""
    begun = monotonic()
    with pytest.raises(aiohttp.ClientError):
        await response.read()
    return monotonic() - begun


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """For as long as the context lasts, the server does nothing, and says nothing."""
    postmaster = psutil.Process(cluster.postmaster_pid())
    postmaster.suspend()  # from here on it starts no other
    members = [postmaster, *postmaster.children(recursive=True)]
    try:
        for member in members:
            member.suspend()
        yield
    finally:
        for member in members:
            with suppress(psutil.NoSuchProcess):
                member.resume()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_streams_go_on_after_a_restart(
    start: StartService, cluster: Cluster, mode: str
) -> None:
    """Exports under way when the server stops or crashes end whole once it runs again."""
    service = await start(TABLE, read_ahead_bytes=0)
    expected = {path: await service.get(path) for path in (EXPORT, STREAM)}
    async with under_way(service, 12) as streams:
        # Some read a page when the server stops, some want one while it is away, some afterwards.
        reading = [asyncio.create_task(response.read()) for response in streams[:4]]
        await asyncio.to_thread(cluster.stop, mode)
        reading += [asyncio.create_task(response.read()) for response in streams[4:8]]
        await ready(service, 503)
        await asyncio.to_thread(cluster.start)
        reading += [asyncio.create_task(response.read()) for response in streams[8:]]
        for response, whole in zip(streams, reading, strict=True):
            assert await whole == expected[response.url.path]


async def test_an_outage_that_lasts_breaks_the_streams(
    start: StartService, cluster: Cluster
) -> None:
    """A page that cannot be read for --reconnect-timeout breaks its stream; others go on."""
    service = await start(TABLE, read_ahead_bytes=0, reconnect_timeout=1)
    expected = await service.get(EXPORT)
    async with under_way(service, 9) as streams:
        await asyncio.to_thread(cluster.stop, "immediate")
        for seconds in await asyncio.gather(*(broken(response) for response in streams[1:])):
            assert 0.5 < seconds < 1 + SPARE
        await asyncio.to_thread(cluster.start)
        # This one wanted no page all the while.
        assert await streams[0].read() == expected


async def test_nothing_is_served_while_the_server_is_away(
    start: StartService, cluster: Cluster, logged: Logged
) -> None:
    """Without its server the service is alive, not ready, and refuses; with it, it serves again."""
    service = await start(TABLE[:100], reconnect_timeout=0.2)
    expected = await service.get(EXPORT)
    assert (await ask(service, "/tasks/1", "PATCH", {"priority": 5}))[0] == 200
    await asyncio.to_thread(cluster.stop)
    for path, method, body in (
        ("/readyz", "GET", None),
        (EXPORT, "GET", None),
        ("/tasks", "GET", None),
        ("/tasks/1", "GET", None),
        ("/tasks", "POST", TASK),
        ("/tasks/1", "PATCH", {"priority": 7}),
        ("/tasks/1", "DELETE", None),
    ):
        status, problem = await ask(service, path, method, body)
        assert (status, problem.get("code")) == (503, "store_unavailable"), path
        assert problem["hint"]
        assert f"127.0.0.1:{cluster.port}/weir: " in faults(logged)[-1][1]
    assert await ask(service, "/healthz") == (200, {"status": "alive"})
    await asyncio.to_thread(cluster.start)
    await ready(service, 200)
    assert (await service.get(EXPORT)).count(b"\n") == expected.count(b"\n")
    assert (await ask(service, "/tasks", "POST", TASK))[0] == 201


async def test_a_server_that_hangs_breaks_the_streams(
    start: StartService, cluster: Cluster
) -> None:
    """However many wait for a server that says nothing, all break soon after its time is up."""
    service = await start(TABLE, read_ahead_bytes=0, **IMPATIENT)
    assert (await ask(service, "/tasks", "POST", TASK))[0] == 201
    async with under_way(service, 40) as streams:
        with frozen(cluster):
            breaking = [asyncio.create_task(broken(response)) for response in streams]
            await ready(service, 503, seconds=SHORT + SPARE)
            for seconds in await asyncio.gather(*breaking):
                assert seconds < 2 * STATEMENT_SECONDS + SPARE
            status, problem = await ask(service, "/tasks", "POST", TASK)
            assert (status, problem["code"]) == (503, "store_unavailable")
    await ready(service, 200)
    assert (await service.get(EXPORT)).count(b"\n") > len(TABLE)


async def test_an_emptied_clock_breaks_the_streams(start: StartService, database: Database) -> None:
    """Streams whose table is restored or emptied under them never end clean with other bytes."""
    service = await start(TABLE, read_ahead_bytes=0, **IMPATIENT)
    async with under_way(service, 2) as streams:
        await database.execute("DELETE FROM clock")
        for response in streams:
            await broken(response)


async def test_another_database_in_its_place_is_not_read(
    start: StartService, cluster: Cluster
) -> None:
    """A stream never goes on from another database that has come to have the same name."""
    other = PostgreSQL(cluster.create_database("other"), lambda: None)
    await other.fill(tasks(20_000, seed=32))
    service = await start(TABLE, read_ahead_bytes=0, **IMPATIENT)
    whole = PostgreSQL(cluster.url(), lambda: None)
    async with under_way(service, 2) as streams:
        await whole.execute("ALTER DATABASE weir ALLOW_CONNECTIONS false")
        await whole.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'weir'"
        )
        await whole.execute("ALTER DATABASE weir RENAME TO before")
        await whole.execute("ALTER DATABASE other RENAME TO weir")
        for response in streams:
            await broken(response)
    assert (await ask(service, "/readyz"))[0] == 503


async def test_a_service_that_is_told_to_end_while_it_starts_ends(
    database: Database, cluster: Cluster
) -> None:
    """SIGTERM before the database has answered starts no worker that nobody ends."""
    with frozen(cluster):
        command = [sys.executable, "-m", "service", "--workers=2", "--port=0", "--grace=1"]
        started = await asyncio.create_subprocess_exec(*command, f"--database={database.url}")
        service = psutil.Process(started.pid)

        def asks_the_database() -> bool:
            found = service.net_connections("tcp")
            return any(each.raddr and each.raddr.port == cluster.port for each in found)

        await until(asks_the_database)
        started.terminate()
    async with asyncio.timeout(30):
        assert await started.wait() == 0


async def test_streams_go_on_when_the_server_does(start: StartService, cluster: Cluster) -> None:
    """A server that says nothing for less than its time costs the streams nothing but time."""
    service = await start(TABLE, read_ahead_bytes=0)
    expected = {path: await service.get(path) for path in (EXPORT, STREAM)}
    async with under_way(service, 12) as streams:
        with frozen(cluster):
            reading = [asyncio.create_task(response.read()) for response in streams]
        for response, whole in zip(streams, reading, strict=True):
            assert await whole == expected[response.url.path]


async def test_streams_leave_a_replica_that_hangs(start: StartService, cluster: Cluster) -> None:
    """Streams on a replica that says nothing go on from the primary once its time is up."""
    service = await start(TABLE)
    expected = {path: await service.get(path) for path in (EXPORT, STREAM)}
    replica = await asyncio.to_thread(cluster.replica)
    service = await start(read_ahead_bytes=0, read_database=[replica.url("weir")], **IMPATIENT)
    async with under_way(service, 12) as streams:
        with frozen(replica):
            begun = monotonic()
            reading = [asyncio.create_task(response.read()) for response in streams]
            for response, whole in zip(streams, reading, strict=True):
                assert await whole == expected[response.url.path]
            assert monotonic() - begun < 2 * STATEMENT_SECONDS + SPARE


async def test_what_was_answered_survives_a_crash(
    start: StartService, cluster: Cluster, database: Database
) -> None:
    """What was answered with 201 is there after a crash, whatever the server's default is."""
    cluster.execute("ALTER DATABASE weir SET synchronous_commit = off")
    service = await start()
    stored: set[str] = set()

    async def write() -> None:
        while True:
            status, task = await ask(service, "/tasks", "POST", TASK)
            if status != 201:
                return
            stored.add(task["id"])

    writers = [asyncio.create_task(write()) for _ in range(4)]
    await until(lambda: len(stored) >= 100)
    await asyncio.to_thread(cluster.stop, "immediate")
    await asyncio.gather(*writers)
    await asyncio.to_thread(cluster.start)
    await ready(service, 200)
    found = await database.execute("SELECT id FROM task")
    assert stored <= {str(task_id) for (task_id,) in found}
