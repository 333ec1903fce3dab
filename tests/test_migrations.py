"""The schema of a database: made or brought forward in one transaction, or left as it was."""

import asyncio

import pytest

from service.databases import open_database
from service.errors import ConfigurationError
from service.settings import Settings
from service.tasks import postgres_schema, sqlite_schema
from service.tasks.generate import tasks
from service.tasks.model import Task
from tests.conftest import Logged
from tests.databases import EVERY_STORE, POSTGRESQL_ALONE, Database, PostgreSQL, Rows
from tests.test_command_line import refused, weir

pytestmark = EVERY_STORE

NEXT = "ALTER TABLE task ADD COLUMN due TEXT; UPDATE task SET due = 'never'"
WRONG = NEXT + "; UPDATE elsewhere SET due = 'never'"
SLOW = NEXT + "; SELECT pg_sleep(100)"
AT_WORK = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


async def filled(database: Database) -> list[Task]:
    """Tasks in a new database of today's version."""
    opened = await open_database(Settings(database=database.url))
    assert opened.tasks is not None
    stored = await opened.tasks.create(list(tasks(100, seed=3)))
    await opened.close()
    return stored


async def opened_and_closed(database: Database) -> None:
    opened = await open_database(Settings(database=database.url))
    await opened.close()


async def version(database: Database) -> object:
    """The schema's version, as the database has it."""
    postgresql = isinstance(database, PostgreSQL)
    statement = "SELECT version FROM weir_schema" if postgresql else "PRAGMA user_version"
    ((found,),) = await database.execute(statement)
    return found


async def everything(database: Database) -> tuple[object, Rows, Rows]:
    """The version, all of each task, and the clock."""
    rows = await database.execute("SELECT * FROM task ORDER BY id")
    return await version(database), rows, await database.execute("SELECT * FROM clock")


def add(patch: pytest.MonkeyPatch, database: Database, migration: str) -> None:
    """Have one more migration, as a later version of Weir would."""
    schema = postgres_schema if isinstance(database, PostgreSQL) else sqlite_schema
    patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, migration))


async def test_an_empty_database_gets_the_schema(database: Database) -> None:
    """The first start makes the tables, and notes their version; the next one finds them."""
    await opened_and_closed(database)
    assert await everything(database) == (1, [], [(0,)])
    await opened_and_closed(database)
    assert await everything(database) == (1, [], [(0,)])


async def test_what_is_made_is_said(
    database: Database, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """The log has one line when the tables are made, one when they are brought forward, or none."""
    await opened_and_closed(database)
    (line,) = logged
    assert line["event"] == "tables made"
    assert {"task", "tombstone", "clock"} <= set(line["tables"].split(", "))
    assert database.url.endswith(line["database"])
    await opened_and_closed(database)
    assert logged == [line]
    add(monkeypatch, database, NEXT)
    await opened_and_closed(database)
    (_, line) = logged
    assert (line["event"], line["before"], line["now"]) == ("schema brought forward", 1, 2)


async def test_an_older_schema_is_brought_forward(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of the version before gets what is new at start, and keeps its rows."""
    stored = await filled(database)
    add(monkeypatch, database, NEXT)
    await opened_and_closed(database)
    assert await version(database) == 2
    rows = await database.execute("SELECT id, title, priority, status, due FROM task ORDER BY id")
    assert rows == [(*task, "never") for task in stored]
    await opened_and_closed(database)  # and is not brought forward twice


async def test_a_migration_that_fails_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that fails half way is taken back whole, and says what went wrong."""
    stored = await filled(database)
    before = await everything(database)
    with monkeypatch.context() as patch:
        add(patch, database, NEXT)
        add(patch, database, WRONG.replace("due", "done"))
        with pytest.raises(ConfigurationError, match="elsewhere") as said:
            await opened_and_closed(database)
    assert "\n" not in said.value.message
    assert said.value.hint
    assert await everything(database) == before
    opened = await open_database(Settings(database=database.url))
    assert opened.tasks is not None
    assert await opened.tasks.read(stored[-1].id) == stored[-1]
    await opened.close()


@POSTGRESQL_ALONE
async def test_a_migration_that_is_killed_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its connection is cut off half way, the old version is there, and works on."""
    await filled(database)
    before = await everything(database)
    with monkeypatch.context() as patch:
        add(patch, database, SLOW)
        opening = asyncio.create_task(opened_and_closed(database))
        while not await database.execute(f"SELECT pg_terminate_backend(pid) {AT_WORK}"):
            assert not opening.done(), opening.result()
        with pytest.raises(ConfigurationError, match="terminat"):
            await opening
    assert await everything(database) == before
    add(monkeypatch, database, NEXT)
    await opened_and_closed(database)
    assert await version(database) == 2


async def test_a_newer_schema_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that a later version has brought forward is not touched: exit code 2."""
    await filled(database)
    with monkeypatch.context() as patch:
        add(patch, database, NEXT)
        await opened_and_closed(database)
    before = await everything(database)
    for command in (("--port", "0"), ("generate", "--rows", "5")):
        done = await asyncio.to_thread(weir, *command, WEIR_DATABASE=database.url)
        refused(done, "schema version 2, newer than 1")
    assert await everything(database) == before


@pytest.mark.parametrize("old", [False, True])
async def test_services_that_start_at_once_agree(
    database: Database, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """Of several that find no schema, or an old one, one makes it and the others go on."""
    if old:
        await filled(database)
    add(monkeypatch, database, NEXT)
    await asyncio.gather(*(opened_and_closed(database) for _ in range(8)))
    assert await version(database) == 2
    assert await database.execute("SELECT count(*) FROM clock") == [(1,)]


@POSTGRESQL_ALONE
async def test_services_agree_whatever_isolation_is_usual(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for another's migration sees it, in a database that defaults to old snapshots."""
    ((name,),) = await database.execute("SELECT current_database()")
    setting = "default_transaction_isolation = 'repeatable read'"
    await database.execute(f'ALTER DATABASE "{name}" SET {setting}')
    add(monkeypatch, database, NEXT)
    await asyncio.gather(*(opened_and_closed(database) for _ in range(8)))
    assert await version(database) == 2


async def test_processes_that_start_at_once_agree(database: Database) -> None:
    """Of four processes that start on an empty database each does its work, on one schema."""
    command = ("generate", "--rows", "10", "--database", database.url)
    for done in await asyncio.gather(*(asyncio.to_thread(weir, *command) for _ in range(4))):
        assert done.returncode == 0, done.stderr
    assert await version(database) == 1
    assert await database.execute("SELECT count(*), max(seq) FROM task") == [(40, 40)]
    assert await database.execute("SELECT seq FROM clock") == [(40,)]
