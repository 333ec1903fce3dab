"""Tables and columns of any name, and of any number, in a stranger's SQLite file."""

import json
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.databases import SQLite
from tests.strangers import (
    NUMBERS,
    as_objects,
    assert_csv,
    got,
    listed,
    make,
    ndjson_rows,
    part,
    read,
)

FILL = NUMBERS.format(40)
NAMES = (
    "a b",
    'a "quoted" name',
    "it's",
    "a,b",
    "a/b/c",
    "100%",
    "%2F",
    "a?b&c=d#e",
    "Straße 🎉",
    "select",
    "from",
    "range",
    "source",
    "last",
    "clock",
    "next",
    "tables",
    "metrics",
    "tasks",
    "streams",
    "task",
    "json_each",
    "pragma_table_list",
    "a[1]*",
    "{id}",
    "a;DROP TABLE b;--",
    "export.csv",
    "+",
    "\\",
    "x" * 200,
)


@pytest.mark.parametrize(
    "column", ["TRUE", "False", "NULL", "rowid", "oid", "n", "lines", "after0", ",", "a,b"]
)
async def test_columns_called_as_words_of_sql(
    start: StartService, tmp_path: Path, column: str
) -> None:
    """A column whose name SQLite itself gives a meaning is still read as the column."""
    path = make(
        tmp_path / "shop.db",
        f'CREATE TABLE t ("{column}" BLOB NOT NULL PRIMARY KEY, a TEXT)',
        f"{FILL}INSERT INTO t SELECT CAST('x' || i AS BLOB), 'a' || i FROM n",
    )
    service = await start(where=SQLite(path), page_bytes=1_024)
    rows = read(path, "SELECT * FROM t ORDER BY 1")
    assert_csv(await got(service, "/t/export.csv"), [column, "a"], rows)
    objects = as_objects([column, "a"], rows)
    assert ndjson_rows(await got(service, "/t/stream.ndjson")) == objects
    chosen = f"/t/stream.ndjson?columns={part(column)}&{part(column)}__gt={objects[20][column]}"
    assert ndjson_rows(await got(service, chosen)) == [
        {column: each[column]} for each in objects[21:]
    ]
    assert await listed(service, "t", 9) == objects


@pytest.mark.parametrize("name", NAMES)
async def test_tables_of_every_name(start: StartService, tmp_path: Path, name: str) -> None:
    """A table is served under its name, whatever that is, and so are columns of that name."""
    quoted = '"' + name.replace('"', '""') + '"'
    column = '"' + name.replace('"', '""') + ' c"'
    path = make(
        tmp_path / "shop.db",
        f"CREATE TABLE {quoted} (id INTEGER PRIMARY KEY, {column} TEXT)",
        f"{FILL}INSERT INTO {quoted} SELECT i, 'x' || i FROM n",
    )
    service = await start(where=SQLite(path), page_bytes=1_024)
    names = ["id", f"{name} c"]
    rows = read(path, f"SELECT * FROM {quoted} ORDER BY id")
    assert_csv(await got(service, f"/{part(name)}/export.csv?null=%5CN"), names, rows)
    body = await got(service, f"/{part(name)}/stream.ndjson?columns={part(names[1])},id")
    assert ndjson_rows(body) == [{names[1]: text, "id": number} for number, text in rows]
    body = await got(service, f"/{part(name)}/stream.ndjson?{part(names[1])}=x7")
    assert ndjson_rows(body) == [{"id": 7, names[1]: "x7"}]
    catalogue = json.loads(await got(service, "/tables"))["tables"]
    assert [each["name"] for each in catalogue] == [name]
    if name not in ("tables", "metrics", "streams"):  # a fixed route wins over these
        assert await listed(service, name, 50) == as_objects(names, rows)


COLUMNS = (
    "n", "lines", "after0", "until0", "range", "source", "seq", "clock", "last", "rowid", "oid",
    "main", "key", "select", "limit_", "a__eq", "__", "x'y", 'x"y', "x,y", "x%y", "x y", "", "ä",
)  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
async def test_columns_of_every_name(start: StartService, tmp_path: Path, name: str) -> None:
    """A column of any name is written, selected, filtered by, and the key of its table."""
    quoted = '"' + name.replace('"', '""') + '"'
    path = make(
        tmp_path / "shop.db",
        f"CREATE TABLE t ({quoted} INTEGER NOT NULL, other TEXT)",
        f"CREATE UNIQUE INDEX u ON t ({quoted})",
        f"{FILL}INSERT INTO t SELECT i * 3, 'x' || i FROM n",
    )
    service = await start(where=SQLite(path), page_bytes=1_024)
    rows = read(path, f"SELECT * FROM t ORDER BY {quoted}")
    assert_csv(await got(service, "/t/export.csv?null=%5CN"), [name, "other"], rows)
    assert_csv(await got(service, "/t/export.csv?after=60"), [name, "other"], rows[20:])
    body = await got(service, f"/t/export.csv?{part(name)}__gt=60&columns=other,{part(name)}")
    assert_csv(body, ["other", name], [row[::-1] for row in rows[20:]])


async def test_a_thousand_columns(start: StartService, tmp_path: Path) -> None:
    """A table of a thousand columns with long names is streamed in both formats."""
    path = tmp_path / "shop.db"
    names = [f"column {number} {'x' * 30}" for number in range(1_000)]
    columns = ", ".join(f'"{name}"' for name in names)
    rows = [tuple(row * 1_000 + at for at in range(1_000)) for row in range(20)]
    make(
        path,
        f"CREATE TABLE t ({columns})",
        many=[(f"INSERT INTO t VALUES ({', '.join('?' * 1_000)})", rows)],
    )
    service = await start(where=SQLite(path), read_threads=4)
    for _ in range(3):
        assert_csv(await got(service, "/t/export.csv"), names, rows)
        assert ndjson_rows(await got(service, "/t/stream.ndjson")) == as_objects(names, rows)
