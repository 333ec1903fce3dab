"""Streams are read from replicas: from those that are fit, and never from one that lacks rows."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import aiohttp
import pytest

from service.engines.postgres import servers as postgres_servers
from tests.conftest import Running, StartService
from tests.databases import Database, PostgreSQL
from tests.postgres import Cluster, make_cluster
from tests.test_command_line import refused, weir
from tests.test_postgres_restart import EXPORT, STREAM, TABLE, TASK, ask, under_way


class Trio(NamedTuple):
    """A primary and its two replicas; all have the database `weir`, and `TABLE` in it."""

    primary: Cluster
    one: Cluster
    two: Cluster

    @property
    def replicas(self) -> list[str]:
        """What `--read-database` gets."""
        return [self.one.url("weir"), self.two.url("weir")]


@pytest.fixture(scope="module")
def servers() -> Iterator[Trio]:
    """The servers of this module; started once, as that takes seconds."""
    primary = make_cluster()
    asyncio.run(PostgreSQL(primary.create_database("weir"), lambda: None).fill(TABLE))
    yield Trio(primary, primary.replica(), primary.replica())
    primary.remove()


@pytest.fixture
def trio(servers: Trio) -> Iterator[Trio]:
    """The same servers, which run and follow again after each test."""
    yield servers
    for server in servers:
        if not runs(server):
            server.start()
    for replica in (servers.one, servers.two):
        replica.execute("SELECT pg_wal_replay_resume()")


@pytest.fixture
def database(servers: Trio) -> Database:
    return PostgreSQL(servers.primary.url("weir"), lambda: None)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time that the service takes to find out how its servers are."""
    monkeypatch.setattr(postgres_servers, "LOOK_PAUSE", 0.1)
    monkeypatch.setattr(postgres_servers, "LOOK_PAUSE_AWAY", 0.1)


def runs(server: Cluster) -> bool:
    try:
        return server.postmaster_pid() > 0
    except RuntimeError:
        return False


def name(server: Cluster) -> str:
    """How the service calls the database on a server."""
    return f"127.0.0.1:{server.port}/weir"


def last_asked(server: Cluster) -> str:
    """The last statement of each connection of Weir's to a server."""
    asked = server.execute("SELECT query FROM pg_stat_activity WHERE application_name = 'weir'")
    return "\n".join(query for (query,) in asked)


async def follows(replica: Cluster, primary: Cluster) -> None:
    """Return once a replica has all that its primary has."""
    position = await asyncio.to_thread(primary.execute, "SELECT pg_current_wal_lsn()")
    question = f"SELECT pg_last_wal_replay_lsn() >= '{position[0][0]}'"
    async with asyncio.timeout(20):
        while await asyncio.to_thread(replica.execute, question) != [("t",)]:
            pass


async def gauges(service: Running, gauge: str) -> dict[str, float]:
    """What `/metrics` says of each server."""
    return {
        line.split('server="')[1].split('"')[0]: float(line.split()[-1])
        for line in (await service.get("/metrics")).decode().splitlines()
        if line.startswith(gauge + "{")
    }


async def known(service: Running, servers: Sequence[Cluster], *fit: bool) -> None:
    """Return once `/readyz` and `/metrics` say which servers are fit.

    servers: in the order in which the service was given them, the primary first.
    """
    names = [name(server) for server in servers]
    async with asyncio.timeout(20):
        while True:
            status, body = await ask(service, "/readyz")
            told = await gauges(service, "weir_database_fit")
            found = [server["fit"] for server in body.get("servers", ())]
            if found == list(fit) and told == dict(zip(names, fit, strict=True)):
                assert status == 200
                return
            await asyncio.sleep(0.02)


async def test_replicas_are_read_and_the_primary_is_written(
    start: StartService, trio: Trio
) -> None:
    """Exports come out of every replica and not out of the primary; only that gets the writes."""
    service = await start(read_database=trio.replicas)
    await known(service, trio, True, True, True)
    async with under_way(service, 8) as streams:
        await asyncio.gather(*(response.read() for response in streams))
    assert (await ask(service, "/tasks", "POST", TASK))[0] == 201
    primary, one, two = await asyncio.to_thread(lambda: [last_asked(server) for server in trio])
    assert "COPY" in one
    assert "COPY" in two
    assert "COPY" not in primary
    assert "INSERT" in primary
    assert "INSERT" not in one + two


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_streams_go_on_from_what_is_left(start: StartService, trio: Trio, mode: str) -> None:
    """Streams outlive a replica that stops or crashes, and the last one; then it is taken back."""
    primary, one, two = trio
    service = await start(read_database=trio.replicas, read_ahead_bytes=0)
    expected = {path: await service.get(path) for path in (EXPORT, STREAM)}

    async def whole(responses: list[aiohttp.ClientResponse]) -> None:
        for response in responses:
            assert await response.read() == expected[response.url.path]

    async with under_way(service, 12) as streams:
        some = asyncio.create_task(whole(streams[:6]))
        await asyncio.to_thread(one.stop, mode)
        await some
        await known(service, trio, True, False, True)
        assert "COPY" not in await asyncio.to_thread(last_asked, primary)
        rest = asyncio.create_task(whole(streams[6:]))
        await asyncio.to_thread(two.stop, mode)
        await rest
    await known(service, trio, True, False, False)
    assert "COPY" in await asyncio.to_thread(last_asked, primary)
    await asyncio.to_thread(one.start)
    await known(service, trio, True, True, False)
    assert await service.get(EXPORT) == expected[EXPORT]
    assert "COPY" in await asyncio.to_thread(last_asked, one)


async def test_streams_outlive_their_primary(start: StartService, trio: Trio) -> None:
    """Without the primary exports come out of the replicas, and go on; writes are refused."""
    service = await start(read_database=trio.replicas, read_ahead_bytes=0, reconnect_timeout=0.5)
    expected = {path: await service.get(path) for path in (EXPORT, STREAM)}
    async with under_way(service, 4) as streams:
        await asyncio.to_thread(trio.primary.stop, "immediate")
        for response in streams:
            assert await response.read() == expected[response.url.path]
    await known(service, trio, False, True, True)
    assert await service.get(EXPORT) == expected[EXPORT]
    status, problem = await ask(service, "/tasks", "POST", TASK)
    assert (status, problem["code"]) == (503, "store_unavailable")
    await asyncio.to_thread(trio.primary.start)
    await known(service, trio, True, True, True)
    assert (await ask(service, "/tasks", "POST", TASK))[0] == 201


async def test_a_late_replica_is_left_out(start: StartService, trio: Trio) -> None:
    """A replica that is behind for --max-replica-lag is not read from until it has caught up."""
    service = await start(read_database=trio.replicas, max_replica_lag=0.5)
    await known(service, trio, True, True, True)
    await asyncio.to_thread(trio.one.execute, "SELECT pg_wal_replay_pause()")
    _, task = await ask(service, "/tasks", "POST", TASK)
    await known(service, trio, True, False, True)
    late = await gauges(service, "weir_database_lag_seconds")
    assert late.pop(name(trio.one)) > 0.5
    assert late == {name(trio.two): 0}
    assert await service.get(f"{EXPORT}?header=false&after={int(task['id']) - 1}")
    assert "COPY" not in await asyncio.to_thread(last_asked, trio.one)
    await asyncio.to_thread(trio.one.execute, "SELECT pg_wal_replay_resume()")
    await known(service, trio, True, True, True)


async def test_no_row_is_missed_on_a_replica_that_lacks_it(start: StartService, trio: Trio) -> None:
    """A stream has all that was there at its `Weir-Since`, though a fit replica is behind that."""
    primary, one, two = trio
    service = await start(read_database=trio.replicas, max_replica_lag=600, read_ahead_bytes=0)
    for replica in (one, two):
        await asyncio.to_thread(replica.execute, "SELECT pg_wal_replay_pause()")
    before, old = await export(service)
    _, made = await ask(service, "/tasks", "POST", [TASK] * 1_000)
    # What was written is read at once where that is promised, whatever the replicas lack.
    last = made[-1]["id"]
    assert (await ask(service, f"/tasks/{last}"))[0] == 200
    assert (await ask(service, f"/tasks?after={int(last) - 1}"))[1]["tasks"] == [made[-1]]
    assert await export(service) == (before, old)
    await asyncio.to_thread(one.execute, "SELECT pg_wal_replay_resume()")
    await follows(one, primary)
    after, new = await export(service)
    assert int(after) == int(before) + 1_000
    assert new.count(b"\n") == old.count(b"\n") + 1_000
    async with under_way(service, 8) as streams:
        await asyncio.to_thread(one.stop)
        since = [response.headers["Weir-Since"] for response in streams[::2]]
        assert after in since
        for response, number in zip(streams[::2], since, strict=True):
            assert await response.read() == {before: old, after: new}[number]
    await known(service, trio, True, False, True)


async def test_a_replica_that_is_down_at_the_start_is_taken_in_later(
    start: StartService, trio: Trio
) -> None:
    """The service starts without a replica, and reads from it once that is there."""
    await asyncio.to_thread(trio.one.stop)
    service = await start(read_database=trio.replicas)
    await known(service, trio, True, False, True)
    await asyncio.to_thread(trio.one.start)
    await known(service, trio, True, True, True)
    await service.get(EXPORT)
    assert "COPY" in await asyncio.to_thread(last_asked, trio.one)


def test_what_is_no_replica_is_refused(trio: Trio) -> None:
    """--read-database must name a copy of --database, or the start is refused in one line."""
    with trio.primary.database() as url:
        given = ("--database", trio.primary.url("weir"), "--read-database")
        line = refused(weir(*given, url), url.rpartition("@")[2])
        assert "no tables of Weir's" in line
        asyncio.run(PostgreSQL(url, lambda: None).fill(TABLE[:1]))
        line = refused(weir(*given, url), url.rpartition("@")[2], name(trio.primary))
        assert "is no replica of" in line


async def test_a_page_that_stands_in_the_way_of_the_replay_is_read_elsewhere(
    cluster: Cluster, start: StartService
) -> None:
    """A replica that cancels what it is asked, as it must go on replaying, breaks no stream."""
    cluster.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    where, replica = await follower(cluster)
    service = await start(where=where, read_database=[replica.url("weir")], read_ahead_bytes=0)
    expected = await service.get(EXPORT)
    reading = asyncio.Event()

    async def read() -> None:
        while not reading.is_set():
            assert await service.get(EXPORT) == expected

    readers = [asyncio.create_task(read()) for _ in range(4)]
    async with asyncio.timeout(20):
        while "due to conflict with recovery" not in replica.log_file.read_text():
            await where.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
    reading.set()
    await asyncio.gather(*readers)


async def test_a_promoted_replica_breaks_no_stream(cluster: Cluster, start: StartService) -> None:
    """A replica that no longer follows serves as long as it lacks nothing; then it is left out."""
    where, replica = await follower(cluster)
    service = await start(
        where=where, read_database=[replica.url("weir")], read_ahead_bytes=0, max_replica_lag=0.5
    )
    expected = {path: await service.get(path) for path in (EXPORT, STREAM)}
    async with under_way(service, 4) as streams:
        await asyncio.to_thread(replica.execute, "SELECT pg_promote()")
        for response in streams:
            assert await response.read() == expected[response.url.path]
    _, task = await ask(service, "/tasks", "POST", TASK)
    await known(service, (cluster, replica), True, False)
    assert f"\n{task['id']}," in (await service.get(EXPORT)).decode()


async def follower(cluster: Cluster) -> tuple[Database, Cluster]:
    """A database with `TABLE` on this server, and a replica that has all of it."""
    where = PostgreSQL(cluster.create_database("weir"), lambda: None)
    await where.fill(TABLE)
    return where, await asyncio.to_thread(cluster.replica)


async def export(service: Running) -> tuple[str, bytes]:
    """The `Weir-Since` of an export, and its body."""
    async with service.client.get(service.url + EXPORT) as response:
        return response.headers["Weir-Since"], await response.read()
