"""The PostgreSQL servers of the tests: they start, refuse, are copied, crash, and leave nothing."""

import asyncpg
import psutil
import pytest

from tests.postgres import PASSWORD, Cluster, Postgres


async def answer(url: str, question: str) -> object:
    """The one value that a question to a database has."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_database_is_made_and_dropped(postgres: Postgres) -> None:
    """Each test gets a database of its own, which is gone afterwards whoever is connected."""
    with postgres.database() as url:
        assert await answer(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url)


async def test_a_wrong_password_is_refused(cluster: Cluster) -> None:
    """The server asks for the password, so that a wrong one can be tested at all."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(cluster.url().replace(PASSWORD, "wrong"))


async def test_a_replica_follows_and_nothing_is_left(cluster: Cluster) -> None:
    """A replica has what the primary commits; a crash keeps it; removal ends every process."""
    replica = cluster.replica()
    cluster.execute("SET synchronous_commit = remote_apply; CREATE TABLE kept AS SELECT 7 AS n")
    cluster.execute("CHECKPOINT")
    cluster.stop("immediate")
    cluster.start()
    assert await answer(cluster.url(), "SELECT n FROM kept") == 7
    assert await answer(replica.url(), "SELECT pg_is_in_recovery()") is True
    processes = [psutil.Process(server.postmaster_pid()) for server in (cluster, replica)]
    cluster.remove()
    assert not any(alive(process) for process in processes)
    assert not cluster.folder.exists()
    assert not replica.folder.exists()
