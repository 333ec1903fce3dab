"""An SQLite file that changes under the service, and addresses that name none."""

import asyncio
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from service.databases import open_database
from service.errors import ConfigurationError
from service.settings import Settings
from service.tasks.generate import tasks
from service.tasks.model import NewTask
from tests.conftest import Logged, Running, StartProcess, StartService, faults
from tests.databases import SQLite
from tests.test_failures import assert_broken, curl, slow_curl

TABLE = list(tasks(50_000, seed=6))
OF_THE_OTHER = "of the other file"
ANSWERED = ("--json", '{"title": "answered", "priority": 1}')
PATHS = ("/tasks/export.csv", "/tasks/stream.ndjson", "/tasks", "/tasks/1", "/readyz")


@pytest.fixture
def other(tmp_path: Path) -> SQLite:
    """A database of ours beside the one that is served, with fewer tasks."""
    made = SQLite(tmp_path / "other.db")
    asyncio.run(made.fill([NewTask(OF_THE_OTHER, 1, "pending")] * 1_000))
    return made


async def titles(database: SQLite) -> set[object]:
    return {title for (title,) in await database.execute("SELECT DISTINCT title FROM task")}


def restore(database: SQLite, backup: SQLite) -> None:
    """What `sqlite3 tasks.db ".restore backup.db"` does."""
    with (
        closing(apsw.Connection(str(database.path))) as into,
        closing(apsw.Connection(str(backup.path))) as source,
    ):
        into.set_busy_timeout(10_000)
        with into.backup("main", source, "main") as copying:
            copying.step()


@pytest.mark.parametrize("gap", [False, True])
def test_a_file_restored_from_an_older_backup_breaks_the_transfer(
    spawn: StartProcess, database: SQLite, other: SQLite, gap: bool
) -> None:
    """A stream whose file is restored in its middle to an earlier state does not end as whole,
    whether it had tasks before it or a gap in the ids; the next one is of the restored file."""
    asyncio.run(database.fill(TABLE))
    if gap:
        asyncio.run(database.execute("DELETE FROM task WHERE id BETWEEN 30000 AND 49999"))
    service = spawn("--read-ahead-bytes", "0")
    slow = slow_curl(service, "1M")
    restore(database, other)
    assert_broken(service, slow)
    assert "restored from a backup" in service.log
    again = curl(service.url)
    assert again.returncode == 0
    assert again.stdout.count(OF_THE_OTHER.encode()) == 1_000


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_loses_its_name_breaks_the_transfer(
    spawn: StartProcess, database: SQLite, other: SQLite, replaced: bool
) -> None:
    """A stream whose file is replaced or deleted in its middle ends visibly, and is logged."""
    asyncio.run(database.fill(TABLE))
    service = spawn("--read-ahead-bytes", "0")
    slow = slow_curl(service, "1M")
    if replaced:
        other.path.replace(database.path)
    else:
        database.path.unlink()
    assert_broken(service, slow)
    assert database.gone in service.log


async def statuses(service: Running) -> list[int]:
    found = []
    for path in PATHS:
        async with service.client.get(service.url + path) as answer:
            found.append(answer.status)
            if answer.status == 503:
                assert (await answer.json())["code"] == "store_unavailable"
    return found


async def test_nothing_is_read_while_the_file_has_lost_its_name(
    start: StartService, database: SQLite, tmp_path: Path, logged: Logged
) -> None:
    """While no file has its name, all that is read gets 503, and none is made; put back, 200."""
    service = await start(TABLE[:100], read_threads=4)
    for _ in range(2):
        away = await asyncio.to_thread(database.path.rename, tmp_path / "away.db")
        assert await statuses(service) == [503] * len(PATHS)
        assert not await asyncio.to_thread(database.path.exists)
        await asyncio.to_thread(away.rename, database.path)
        assert await statuses(service) == [200] * len(PATHS)
    assert all(database.gone in reason for _, reason in faults(logged))


async def test_nothing_is_read_once_another_file_had_the_name(
    spawn: StartProcess, database: SQLite, other: SQLite, tmp_path: Path
) -> None:
    """A file that was replaced is served no more, though it be put back after others have used
    the new one, and its log with it. It is whole: without that log a restart finds all."""
    await database.fill(TABLE[:1_000])
    service = await asyncio.to_thread(spawn)
    posted = await asyncio.to_thread(curl, service.url, "/tasks", *ANSWERED)
    assert b'"answered"' in posted.stdout
    away = await asyncio.to_thread(database.path.rename, tmp_path / "away.db")
    await asyncio.to_thread(other.path.rename, database.path)
    assert (await asyncio.to_thread(curl, service.url, "/readyz", "--fail")).returncode == 22
    await database.insert([(2_000, OF_THE_OTHER)])
    await asyncio.to_thread(away.replace, database.path)
    assert (await asyncio.to_thread(curl, service.url, "/readyz", "--fail")).returncode == 22
    assert await asyncio.to_thread(service.stop) == 0
    await asyncio.to_thread(lambda: database.path.with_name("tasks.db-wal").unlink())
    again = await asyncio.to_thread(spawn)
    assert (await asyncio.to_thread(curl, again.url)).stdout.count(b"answered") == 1
    assert await titles(database) == {task.title for task in TABLE[:1_000]} | {"answered"}
    assert await database.execute("PRAGMA integrity_check") == [("ok",)]


async def test_nothing_is_written_without_the_log(
    start: StartService, database: SQLite, logged: Logged
) -> None:
    """When somebody deletes the write-ahead log no write is answered 2xx, as it would be lost."""
    service = await start(TABLE[:100])
    await asyncio.to_thread(lambda: database.path.with_name("tasks.db-wal").unlink())
    task = {"title": "lost", "priority": 1}
    async with service.client.post(service.url + "/tasks", json=task) as answer:
        assert answer.status == 503
    assert await statuses(service) == [503] * len(PATHS)
    assert all("write-ahead log" in reason for _, reason in faults(logged))


@pytest.mark.parametrize("noticed", [False, True])
async def test_the_log_of_a_file_that_was_replaced_is_not_taken_for_the_new_one_s(
    spawn: StartProcess, database: SQLite, tmp_path: Path, noticed: bool
) -> None:
    """After a service whose file was moved away for another one has ended, both are whole: the
    one has all that was answered, and the other nothing of it."""
    await database.fill(TABLE[:1_000])
    other, moved = SQLite(tmp_path / "other.db"), SQLite(tmp_path / "moved.db")
    await other.fill([NewTask(OF_THE_OTHER, 1, "pending")] * 20_000)
    service = await asyncio.to_thread(spawn)
    posted = await asyncio.to_thread(curl, service.url, "/tasks", *ANSWERED)
    assert b'"answered"' in posted.stdout
    assert await asyncio.to_thread(database.log_bytes)
    await asyncio.to_thread(database.path.rename, moved.path)
    await asyncio.to_thread(other.path.rename, database.path)
    if noticed:
        assert b"503" in (await asyncio.to_thread(curl, service.url, "/readyz")).stdout
    assert await asyncio.to_thread(service.stop) == 0
    assert await titles(database) == {OF_THE_OTHER}
    assert await database.execute("SELECT count(*) FROM task") == [(20_000,)]
    assert "answered" in await titles(moved)
    for each in (database, moved):
        assert await each.execute("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:///:memory:",
        "sqlite:///./:memory:",
        "sqlite://:memory:",
        "sqlite://?mode=memory",
        "sqlite:///?mode=memory",
        "sqlite:///weir.db?mode=ro",
        "sqlite:///weir.db?",
        "sqlite:///{folder}/weir.db?immutable=1",
        "sqlite:///file:weir.db",
        "sqlite:///file::memory:?cache=shared",
    ],
)
async def test_an_address_with_more_than_a_path_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """What other programs understand in an SQLite address, and Weir does not, is refused with
    what is understood; no file of that name is made."""
    monkeypatch.chdir(tmp_path)
    address = address.format(folder=tmp_path)
    with pytest.raises(ConfigurationError) as said:
        await open_database(Settings(database=address))
    assert repr(address) in said.value.message
    assert said.value.hint
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []
