"""Streams of a stranger's SQLite file: long rows, and what others change meanwhile."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from threading import Event
from urllib.parse import quote

import pytest

from service.engines.sqlite.connections import transaction
from tests.conftest import Logged, Running, StartService, request_bytes, small_reader
from tests.databases import SQLite
from tests.strangers import (
    NUMBERS,
    assert_csv,
    csv_rows,
    fetch,
    got,
    make,
    ndjson_rows,
    program,
    read,
    refusal,
    stalled,
)

MANY = 60_000
LARGE = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)",
    f"{NUMBERS.format(MANY)}INSERT INTO t SELECT i, printf('%0100d', i), 'b' FROM n",
)
"""A table whose file, 6 MB, is far more than what is read for a client that has stopped."""
WRITER_PAUSE = 0.005
"""Seconds between two transactions of a program that writes: where there is no log, whoever reads
waits for as long as it writes."""
EXPORT = request_bytes("/t/export.csv", last=True)


async def all_of(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What comes until the connection ends, and whether it ended as a whole file does."""
    data = b""
    try:
        while piece := await reader.read(65_536):
            data += piece
    except ConnectionError:
        return data, False
    return data, data.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("page_bytes", [1_024, 16_384])
async def test_long_rows_among_short_ones(
    start: StartService, tmp_path: Path, page_bytes: int
) -> None:
    """Pages are split where rows are long, and a row longer than a page comes whole."""
    random = Random(5)
    sizes = [random.choice([0, 3, 10]) for _ in range(3_000)]
    for at in (0, 1, 700, 701, 1_500, 2_999):
        sizes[at] = random.choice([900, 5_000, 100_000, 600_000])
    rows = [(f"k{at:05}", "x" * size, "é" * (size // 2)) for at, size in enumerate(sizes)]
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b TEXT) WITHOUT ROWID",
        many=[("INSERT INTO t VALUES (?, ?, ?)", rows)],
    )
    settings = {"page_bytes": page_bytes, "row_bytes": "2MiB"}
    service = await start(where=SQLite(path), **settings)
    assert_csv(await got(service, "/t/export.csv"), ["k", "a", "b"], rows)
    assert_csv(await got(service, "/t/export.csv?columns=k"), ["k"], [row[:1] for row in rows])
    assert len(ndjson_rows(await got(service, "/t/stream.ndjson?after=k00699"))) == 2_300
    found, after = [], ""
    while after is not None:
        page = json.loads(await got(service, f"/t?limit=1000{after}"))
        found += [tuple(each.values()) for each in page["t"]]
        after = page["next"] and f"&after={quote(page['next'], safe='')}"
    assert found == rows


async def test_a_row_over_the_limit_names_its_key(
    start: StartService, tmp_path: Path, logged: Logged
) -> None:
    """A row longer than --row-bytes ends the stream as a failure that names table and key."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (a TEXT, b INT, c TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID",
        f"{NUMBERS.format(5_000)}INSERT INTO t SELECT 'k', i, printf('%0200d', i) FROM n",
        "UPDATE t SET c = printf('%0200000d', 1) WHERE b = 4321",
    )
    service = await start(where=SQLite(path), row_bytes="100KiB")
    with pytest.raises(Exception, match=r"payload|reset|closed"):
        await got(service, "/t/export.csv")
    (line,) = [each for each in logged if each["event"] == "stream failed"]
    assert line["reason"].startswith("t: the row with the key 'k', 4321 ")
    status, code, words = await refusal(service, "/t/export.csv?after=k,4320")
    assert (status, code) == (500, "row_too_large")
    assert "'k', 4321" in words
    assert len(csv_rows(await got(service, "/t/export.csv?after=k,4321"))) == 680
    assert len(csv_rows(await got(service, "/t/export.csv?columns=b"))) == 5_001


async def test_a_key_may_be_long(start: StartService, tmp_path: Path) -> None:
    """A key longer than a page is read by and resumed behind as any other."""
    rows = [(f"{at:03}" + "k" * (at * 50), at) for at in range(200)]
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (a TEXT NOT NULL PRIMARY KEY, b)",
        many=[("INSERT INTO t VALUES (?, ?)", rows)],
    )
    service = await start(where=SQLite(path), page_bytes=1_024)
    assert_csv(await got(service, "/t/export.csv"), ["a", "b"], rows)
    body = await got(service, f"/t/export.csv?after={rows[100][0]}")
    assert_csv(body, ["a", "b"], rows[101:])


async def test_what_nothing_matches_ends(start: StartService, tmp_path: Path) -> None:
    """A filter that no row of many passes, or one, gives just that; a list says where to go on."""
    path = make(tmp_path / "shop.db", *LARGE, "UPDATE t SET b = 'needle' WHERE id = 54321")
    service = await start(where=SQLite(path))
    assert await got(service, "/t/export.csv?b=nothing&columns=id") == b"id\n"
    assert await got(service, "/t/export.csv?b=needle&columns=id") == b"id\n54321\n"
    assert await got(service, "/t/export.csv?b=needle&limit=1&columns=id") == b"id\n54321\n"
    assert await got(service, "/t/export.csv?a__null=true&b__null=true&columns=id") == b"id\n"
    pages, after = 0, ""
    found: list[int] = []
    while after is not None:
        page = json.loads(await got(service, f"/t?b=needle{after}"))
        found += [each["id"] for each in page["t"]]
        after = page["next"] and f"&after={quote(page['next'], safe='')}"
        pages += 1
    assert found == [54321]
    assert 2 <= pages <= 10


@pytest.mark.parametrize("key", ["id INTEGER PRIMARY KEY", "id TEXT PRIMARY KEY NOT NULL"])
@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_writers_around_the_cursor(
    start: StartService, tmp_path: Path, key: str, mode: str
) -> None:
    """What is there throughout with its key unchanged comes exactly once, in order."""
    path = make(
        tmp_path / "shop.db",
        f"PRAGMA journal_mode = {mode}",
        f"CREATE TABLE t ({key}, a TEXT)",
        f"{NUMBERS.format(6_000)}INSERT INTO t SELECT 1000000 + i * 10, i FROM n",
    )
    service = await start(where=SQLite(path), page_bytes=1_024)
    end = Event()

    def write() -> int:
        """Insert, delete, change and move rows of keys that do not end in 00, until the end."""
        random, done = Random(7), 0
        with program(path) as other:
            while not end.wait(WRITER_PAUSE):
                keys = [(1_000_000 + random.randrange(6_000) * 10,) for _ in range(20)]
                mine = [(key,) for (key,) in keys if key % 100]
                with transaction(other):
                    other.executemany("DELETE FROM t WHERE id = ?", mine)
                    other.executemany("INSERT OR IGNORE INTO t VALUES (? + 5, 'new')", mine)
                    other.executemany("UPDATE t SET a = 'x' || a WHERE id = ?", keys)
                    other.executemany("UPDATE OR IGNORE t SET id = id + 1 WHERE id = ? + 5", mine)
                done += 1
        return done

    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        for query in ("", "&limit=1000000", "&id__gt=0") * 3:
            rows = csv_rows(await got(service, f"/t/export.csv?columns=id{query}"))[1:]
            keys = [int(str(row[0])) for row in rows]
            assert keys == sorted(set(keys))
            stayed = [each for each in keys if each % 100 == 0]
            assert stayed == list(range(1_000_100, 1_060_001, 100))
    finally:
        end.set()
        assert await writing > 0


CHANGES = {
    "dropped": "DROP TABLE t",
    "renamed": "ALTER TABLE t RENAME TO u",
    "column added": "ALTER TABLE t ADD COLUMN c",
    "column lost": "ALTER TABLE t DROP COLUMN b",
    "column renamed": "ALTER TABLE t RENAME COLUMN b TO c",
    "retyped": "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB)",
    "key changed": "DROP TABLE t; CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a TEXT, b TEXT)",
    "a view now": "ALTER TABLE t RENAME TO u; CREATE VIEW t AS SELECT * FROM u",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_changed_schema_breaks_the_stream(
    start: StartService, tmp_path: Path, logged: Logged, change: str
) -> None:
    """A table that is no longer what it was ends its streams visibly; the catalogue shows it."""
    path = make(tmp_path / "shop.db", *LARGE)
    service = await start(where=SQLite(path))
    with small_reader(service.port, EXPORT) as connection:
        await stalled(service)
        make(path, change)
        reader, writer = await asyncio.open_connection(sock=connection.dup())
        data, whole = await all_of(reader)
        writer.close()
    assert not whole
    assert data.count(b"\n") < MANY
    assert b"0,b\r\n" not in data
    (line,) = [each for each in logged if each["event"] == "stream failed"]
    assert "t is no longer what it was" in line["reason"]
    status, _ = await fetch(service, "/t/export.csv?limit=1")
    assert status in (200, 404, 409)
    tables = {each["name"] for each in json.loads(await got(service, "/tables"))["tables"]}
    assert ("t" in tables) == (status != 404)


async def test_what_does_not_change_a_table_breaks_nothing(
    start: StartService, tmp_path: Path
) -> None:
    """Other tables, indexes, statistics and a vacuum in mid-stream leave a stream whole."""
    path = make(tmp_path / "shop.db", *LARGE)
    service = await start(where=SQLite(path))
    expected = await got(service, "/t/export.csv")
    with small_reader(service.port, request_bytes("/t/export.csv?", last=True)) as connection:
        await stalled(service)
        make(path, "CREATE TABLE u (a)", "CREATE INDEX i ON t (b)", "ANALYZE")
        with program(path) as other:
            other.execute("VACUUM")
        reader, writer = await asyncio.open_connection(sock=connection.dup())
        data, whole = await all_of(reader)
        writer.close()
    assert whole
    assert lines_of(data) == expected.splitlines()


async def test_rows_that_are_numbered_anew_break_the_stream(
    start: StartService, tmp_path: Path, logged: Logged
) -> None:
    """A vacuum gives rows without a key other numbers: what goes by them breaks, and says why."""
    made = [each.replace("id INTEGER PRIMARY KEY", "id INT") for each in LARGE]
    path = make(tmp_path / "shop.db", *made, "DELETE FROM t WHERE id % 2")
    service = await start(where=SQLite(path))
    with small_reader(service.port, EXPORT) as connection:
        await stalled(service)
        with program(path) as other:
            other.execute("VACUUM")
        reader, writer = await asyncio.open_connection(sock=connection.dup())
        _, whole = await all_of(reader)
        writer.close()
    assert not whole
    (line,) = [each for each in logged if each["event"] == "stream failed"]
    assert "numbers" in line["reason"]
    assert len(csv_rows(await got(service, "/t/export.csv"))) == MANY // 2 + 1


async def test_a_wide_table_beside_harms_nobody(start: StartService, tmp_path: Path) -> None:
    """Each connection reads a changed schema again, however long a statement in it is."""
    columns = ", ".join(f"column_{at}_{'x' * 50}" for at in range(1_000))
    path = make(
        tmp_path / "shop.db",
        f"CREATE TABLE wide ({columns})",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)",
        f"{NUMBERS.format(9_000)}INSERT INTO t SELECT i, 'x' || i FROM n",
    )
    service = await start(where=SQLite(path), read_threads=4)
    expected = await got(service, "/t/export.csv")
    for at in range(20):
        make(path, f"CREATE TABLE another{at} (a)")
        assert set(await together(service, ["/t/export.csv"] * 6)) == {expected}


def lines_of(data: bytes) -> list[bytes]:
    """The lines of a chunked body, its head left out; no line of it looks like a chunk's length."""
    _, _, body = data.partition(b"\r\n\r\n")
    plain, at = b"", 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        length = int(body[at:end], 16)
        plain += body[end + 2 : end + 2 + length]
        at = end + 4 + length
    return plain.splitlines()


async def together(service: Running, paths: Sequence[str]) -> list[bytes]:
    return list(await asyncio.gather(*(got(service, path) for path in paths)))


async def test_many_streams_of_many_tables(start: StartService, tmp_path: Path) -> None:
    """Streams of different tables, formats and filters at the same time do not mix."""
    path = make(
        tmp_path / "shop.db",
        *(f"CREATE TABLE t{at} (id INTEGER PRIMARY KEY, a TEXT)" for at in range(8)),
        *(
            f"{NUMBERS.format(5_000)}INSERT INTO t{at} SELECT i * {at + 1}, 't{at}' FROM n"
            for at in range(8)
        ),
    )
    service = await start(where=SQLite(path), read_threads=4)
    paths = [f"/t{at % 8}/export.csv?id__gte={at}" for at in range(40)]
    bodies = await together(service, paths)
    for at, body in enumerate(bodies):
        table = at % 8
        ids = [i * (table + 1) for i in range(1, 5_001) if i * (table + 1) >= at]
        assert_csv(body, ["id", "a"], [(number, f"t{table}") for number in ids])


async def test_a_table_that_is_not_there_any_more_is_a_404(
    start: StartService, tmp_path: Path
) -> None:
    """A table that is dropped between two requests is no fault of the service."""
    path = make(tmp_path / "shop.db", "CREATE TABLE t (a)", "CREATE TABLE u (a)")
    service = await start(where=SQLite(path))
    assert await got(service, "/t/export.csv") == b"a\n"
    make(path, "DROP TABLE t")
    assert (await refusal(service, "/t/export.csv"))[:2] == (404, "table_not_found")
    assert read(path, "SELECT count(*) FROM u") == [(0,)]
