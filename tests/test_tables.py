"""A stranger's SQLite file is read and never written to; the catalogue says what is in it."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Logged, StartProcess, StartService, request_bytes, small_reader
from tests.databases import SQLite
from tests.strangers import (
    NUMBERS,
    assert_csv,
    fetch,
    got,
    key_text,
    make,
    program,
    read,
    refusal,
    stalled,
)
from tests.test_command_line import refused, weir

LARGE = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b)",
    f"{NUMBERS.format(60_000)}INSERT INTO t SELECT i, printf('%0100d', i), NULL FROM n",
)
"""A table whose file, 6 MB, is far more than what is read for a client that has stopped."""
READ = request_bytes("/t/export.csv", last=True)
JOURNAL_MODES = ("delete", "truncate", "persist", "memory", "off", "wal")
NOBODY = 65_534
"""The user and group that have no rights of their own."""

Listing = dict[str, bytes]


def listing(folder: Path) -> Listing:
    """The files of a folder with their bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for one file and what belongs to it."""
    (tmp_path / "shop").mkdir()
    return tmp_path / "shop"


@pytest.mark.parametrize("mode", JOURNAL_MODES)
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
async def test_a_file_is_the_same_before_and_after(
    start: StartService, folder: Path, mode: str, encoding: str
) -> None:
    """In every journal mode and encoding a file is read whole, and not a byte of it is changed."""
    path = make(
        folder / "shop.db",
        f"PRAGMA encoding = '{encoding}'",
        f"PRAGMA journal_mode = {mode}",
        "CREATE TABLE t (a TEXT PRIMARY KEY NOT NULL, b)",
        f"{NUMBERS.format(3_000)}INSERT INTO t SELECT 'ä🎉' || i, 'x,\"' || i FROM n",
    )
    rows = read(path, "SELECT * FROM t ORDER BY a")
    before = listing(folder)
    async with asyncio.timeout(60):
        service = await start(where=SQLite(path), page_bytes=1_024)
        assert_csv(await got(service, "/t/export.csv"), ["a", "b"], rows)
        last = key_text(rows[-1][:1])
        assert await got(service, f"/t/stream.ndjson?after={last}") == b""
        assert json.loads(await got(service, "/t?limit=1"))["next"]
        assert json.loads(await got(service, "/tables"))["tables"]
    # A log and its index are there for as long as the file is open; the next test is about them.
    found = listing(folder)
    assert not found.pop("shop.db-wal", b"")
    found.pop("shop.db-shm", None)
    assert found == before


def test_what_was_not_there_is_gone_when_the_service_has_ended(
    spawn: StartProcess, folder: Path
) -> None:
    """A service that has read a file with a log ends and leaves no file that was not there."""
    path = make(folder / "shop.db", "PRAGMA journal_mode = wal", *LARGE)
    names = sorted(each.name for each in folder.iterdir())
    service = spawn("--database", f"sqlite:///{path}")
    done = subprocess.run(
        ["curl", "-sf", "-H", "Authorization: Bearer secret-user-123"]
        + [f"{service.url}/t/export.csv?limit=10"],
        check=True,
        capture_output=True,
    )
    assert done.stdout.count(b"\n") == 11
    assert service.stop() == 0
    assert sorted(each.name for each in folder.iterdir()) == names


@pytest.mark.parametrize("mode", JOURNAL_MODES)
async def test_a_stalled_reader_locks_nothing(start: StartService, folder: Path, mode: str) -> None:
    """While a reader stalls, another program writes, makes tables and vacuums as it likes."""
    path = make(folder / "shop.db", f"PRAGMA journal_mode = {mode}", *LARGE)
    service = await start(where=SQLite(path))
    with small_reader(service.port, READ):
        await stalled(service)
        with program(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("INSERT INTO t VALUES (100000, 'new', 1)")
            other.execute("CREATE TABLE another (a)")
            other.execute("COMMIT")
            other.execute("VACUUM")
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0] == 0
            other.execute("ALTER TABLE t RENAME COLUMN b TO c")
    assert b"new" in await got(service, "/t/export.csv?after=60000")


@pytest.mark.parametrize(("before", "after"), [("delete", "wal"), ("wal", "wal")])
async def test_another_program_may_choose_its_journal(
    start: StartService, folder: Path, before: str, after: str
) -> None:
    """A program that turns the file's log on, or starts it over, does not end the service."""
    path = make(folder / "shop.db", f"PRAGMA journal_mode = {before}", *LARGE)
    service = await start(where=SQLite(path))
    whole = await got(service, "/t/export.csv")
    with program(path) as other:
        assert other.pragma("journal_mode", after) == after
        other.execute("UPDATE t SET b = NULL WHERE id = 1")
        assert await got(service, "/t/export.csv") == whole
    assert await got(service, "/t/export.csv") == whole


AS_NOBODY = f"""
import os, sys
import service.command_line, service.engines.sqlite.engine, service.engines.sqlite.strangers
import service.tasks.sqlite
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
sys.argv[0] = "service"
service.command_line.cli()
"""


@pytest.fixture
def bare() -> Iterator[Path]:
    """A folder that everybody can come to; those of pytest are for its own user alone."""
    folder = Path("/dev/shm") / f"weir-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", JOURNAL_MODES)
def test_a_file_without_rights_to_write_is_read(bare: Path, mode: str) -> None:
    """A user who may write neither to the file nor to its folder reads it all the same."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    path = make(
        bare / "shop.db",
        f"PRAGMA journal_mode = {mode}",
        "CREATE TABLE t (id INTEGER PRIMARY KEY)",
        "INSERT INTO t VALUES (1), (2)",
    )
    path.chmod(0o444)
    bare.chmod(0o555)
    before = listing(bare)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "tables", "--database", f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "t  (table; key: id)" in done.stdout
    assert listing(bare) == before


def test_a_file_that_was_left_in_the_middle_of_a_write_is_refused(folder: Path) -> None:
    """Half of another program's transaction is nobody's data: the start says what to do."""
    path = folder / "shop.db"
    make(path, *LARGE)
    with program(path) as other:
        other.execute("PRAGMA cache_size = 5")
        other.execute("BEGIN")
        other.execute("UPDATE t SET a = 'half'")
        torn = folder / "torn.db"
        shutil.copy(path, torn)
        shutil.copy(path.with_name("shop.db-journal"), torn.with_name("torn.db-journal"))
        other.execute("ROLLBACK")
    assert read_unchecked(torn) > 0
    before = listing(folder)
    done = weir("tables", "--database", f"sqlite:///{torn}")
    refused(done, "torn.db")
    assert "journal" in done.stderr
    assert listing(folder) == before


def read_unchecked(path: Path) -> int:
    """How many rows of half a transaction are in the file, when its journal is left out."""
    address = f"file:{path}?immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        found = connection.execute("SELECT count(*) FROM t WHERE a = 'half'").fetchone()
        return int(found[0])


async def test_a_locked_file_is_waited_for(
    start: StartService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that holds the file locked for long is waited for, not read around."""
    for place in ("engines.sqlite.connections", "tasks.sqlite"):
        monkeypatch.setattr(f"service.{place}.BUSY_MILLISECONDS", 300)
    path = make(folder / "shop.db", *LARGE)
    with program(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Exception, match="locked"):
            await start(where=SQLite(path))
        other.execute("ROLLBACK")
    service = await start(where=SQLite(path))
    assert await got(service, "/t/export.csv?limit=1&columns=id") == b"id\n1\n"
    with program(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert (await refusal(service, "/t/export.csv"))[:2] == (503, "store_unavailable")
        other.execute("ROLLBACK")
    assert await got(service, "/t/export.csv?limit=1&columns=id") == b"id\n1\n"


@pytest.mark.parametrize("content", [b"hello, this is no database" * 100, b"\x8a\x01" * 5_000])
def test_what_is_no_database_is_refused(folder: Path, content: bytes) -> None:
    """A text, or a file that is encrypted, is refused in one line, and is not changed."""
    path = folder / "shop.db"
    path.write_bytes(content)
    refused(weir("--database", f"sqlite:///{path}", "--port", "0"), "shop.db")
    assert listing(folder) == {"shop.db": content}


async def test_a_damaged_file_breaks_visibly(
    start: StartService, folder: Path, logged: Logged
) -> None:
    """A damaged page in the middle of the file ends the stream as a failure, which is logged."""
    path = make(folder / "shop.db", *LARGE)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4_096 * 4_096)
        file.write(b"\xff" * 4_096)
    service = await start(where=SQLite(path))
    with pytest.raises(Exception, match=r"payload|reset|closed"):
        await got(service, "/t/export.csv")
    (line,) = [each for each in logged if each["event"] == "stream failed"]
    assert "malformed" in line["reason"]


async def test_the_catalogue_is_what_there_is(start: StartService, folder: Path) -> None:
    """`GET /tables` tells columns, types, how each is written, keys, and what can be done."""
    path = make(
        folder / "shop.db",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, name VARCHAR(20) NOT NULL,"
        " price DECIMAL(9, 2), paid BOOLEAN, at DATETIME, raw BLOB, what JSON, any, r DOUBLE)",
        "CREATE TABLE items (a INT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID",
        f"{NUMBERS.format(50)}INSERT INTO items SELECT i, i FROM n",
        "ANALYZE",
        "CREATE VIEW late AS SELECT * FROM orders",
    )
    service = await start(where=SQLite(path))
    items, late, orders = json.loads(await got(service, "/tables"))["tables"]
    assert [items["name"], late["name"], orders["name"]] == ["items", "late", "orders"]
    assert (items["key"], items["rows"], items["kind"]) == (["a", "b"], 50, "table")
    assert (orders["key"], orders["key_source"]) == (["id"], "primary key")
    assert orders["can"] == items["can"] == ["export.csv", "stream.ndjson"]
    assert (late["kind"], late["key"], late["can"]) == ("view", None, [])
    assert [(each["name"], each["written_as"], each["nullable"]) for each in orders["columns"]] == [
        ("id", "integer", False),
        ("name", "text", False),
        ("price", "decimal", True),
        ("paid", "integer", True),
        ("at", "time", True),
        ("raw", "bytes", True),
        ("what", "json", True),
        ("any", "anything", True),
        ("r", "float", True),
    ]


TOKENS = """
[[token]]
name = "all"
secret = "secret-of-all"
scopes = ["read"]
[[token]]
name = "few"
secret = "secret-of-few"
scopes = ["read"]
tables = ["orders", "s[ab]*"]
"""


async def test_what_a_token_may_not_read_is_not_there(start: StartService, tmp_path: Path) -> None:
    """A table that is not a token's, or not served, is a 404, and in no list of any kind."""
    names = ["orders", "sales", "sbx", "secret", "zzzz"]
    path = make(
        tmp_path / "shop.db",
        *(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)" for name in names),
    )
    (tmp_path / "tokens.toml").write_text(TOKENS)
    service = await start(
        where=SQLite(path), tokens=tmp_path / "tokens.toml", table=("orders", "s*")
    )
    seen = {"all": {"orders", "sales", "sbx", "secret"}, "few": {"orders", "sales", "sbx"}}
    for token, mine in seen.items():
        service.client.headers["Authorization"] = f"Bearer secret-of-{token}"
        tables = json.loads(await got(service, "/tables"))["tables"]
        assert {each["name"] for each in tables} == mine
        paths = json.loads(await got(service, "/openapi.json"))["paths"]
        page = (await got(service, "/")).decode()
        for name in names:
            for route in ("", "/export.csv", "/stream.ndjson"):
                status, body = await fetch(service, f"/{name}{route}")
                assert (status == 200) == (name in mine)
                if status != 200:
                    _, nothing = await fetch(service, f"/nothing{route}")
                    assert body.replace(name.encode(), b"") == nothing.replace(b"nothing", b"")
                assert (f"/{name}{route}" in paths) == (name in mine)
            assert (f"<code>{name}</code>" in page) == (name in mine)


async def test_the_catalogue_follows_the_schema(start: StartService, folder: Path) -> None:
    """A table that is made, changed or dropped while the service runs is there or not at once."""
    path = make(folder / "shop.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    service = await start(where=SQLite(path))
    assert await got(service, "/t/export.csv") == b"id\n"
    make(path, "CREATE TABLE u (a TEXT)", "ALTER TABLE t ADD COLUMN b")
    assert await got(service, "/t/export.csv") == b"id,b\n"
    assert await got(service, "/u/export.csv") == b"a\n"
    make(path, "DROP TABLE u")
    assert (await fetch(service, "/u/export.csv"))[0] == 404
    assert [each["name"] for each in json.loads(await got(service, "/tables"))["tables"]] == ["t"]


def test_the_command_lists_the_tables(folder: Path) -> None:
    """`weir tables` says each table, its key, how its columns are written; and writes nothing."""
    path = make(
        folder / "shop.db",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT, x)",
        "CREATE VIEW late AS SELECT * FROM orders",
    )
    before = listing(folder)
    done = weir("tables", "--database", f"sqlite:///{path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "late  (view; key: none: name columns that identify its rows: --key late=COLUMN)",
        "    id  INTEGER  as integer",
        "    what  TEXT  as text",
        "    x  any type  as anything",
        "orders  (table; key: id)",
        "    id  INTEGER  as integer",
        "    what  TEXT  as text",
        "    x  any type  as anything",
    ]
    assert listing(folder) == before
    refused(weir("generate", "--rows", "1", "--database", f"sqlite:///{path}"), "only read")
    assert listing(folder) == before
    only = weir("--table", "o*", "tables", "--database", f"sqlite:///{path}")
    assert "late" not in only.stdout


def test_workers_serve_a_strangers_file(spawn: StartProcess, folder: Path) -> None:
    """Several processes read the same file, and leave nothing behind that was not there."""
    path = make(folder / "shop.db", "PRAGMA journal_mode = wal", *LARGE)
    before = listing(folder)
    service = spawn("--workers", "3", database=path)
    command = ["curl", "-sf", "-H", "Authorization: Bearer secret-user-123"]
    bodies = set()
    for _ in range(12):
        done = subprocess.run(
            [*command, f"{service.url}/t/export.csv"], check=True, capture_output=True
        )
        bodies.add(done.stdout)
    (body,) = bodies
    assert body.count(b"\n") == 60_001
    assert service.stop() == 0
    assert listing(folder) == before
