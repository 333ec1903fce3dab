"""Every kind of table in a SQLite file that Weir did not make is streamed whole, by every key."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Running, StartService
from tests.databases import SQLite
from tests.strangers import (
    NUMBERS,
    as_objects,
    assert_csv,
    fetch,
    got,
    key_text,
    listed,
    make,
    ndjson_rows,
    read,
    refusal,
)

ROWS = 40
FILL = NUMBERS.format(ROWS)
HARD = ("", "'", '"', ",", ";", "\n", "\r", "a,b", "%2C", "%", "+", " ", "ä", "🎉", "a\tb", "\\N ")


class Kind(NamedTuple):
    """A kind of table: what makes the table `t` and fills it, and by which columns it is read."""

    made: tuple[str, ...]
    key: tuple[str, ...]
    order: str = ""


KINDS = {
    "integer primary key": Kind(
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)",
            f"{FILL}INSERT INTO t SELECT i * 7 - 100, 'x' || i FROM n",
        ),
        ("id",),
    ),
    "no primary key": Kind(
        ("CREATE TABLE t (a TEXT, b)", f"{FILL}INSERT INTO t SELECT i % 7, i FROM n"), ("rowid",)
    ),
    "rowid is a column": Kind(
        ("CREATE TABLE t (rowid TEXT, b)", f"{FILL}INSERT INTO t SELECT 60 - i, i FROM n"),
        ("_rowid_",),
    ),
    "sparse and negative": Kind(
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a)",
            f"{FILL}INSERT INTO t SELECT (i - 20) * 100000000000000007, i FROM n",
            "INSERT INTO t VALUES (9223372036854775807, 1), (-9223372036854775808, 2), (3, 3)",
        ),
        ("id",),
    ),
    "integer primary key desc": Kind(
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY DESC, a)",
            f"{FILL}INSERT INTO t SELECT iif(i % 5, i, NULL), i FROM n",
        ),
        ("rowid",),
    ),
    "composite with NULLs": Kind(
        (
            "CREATE TABLE t (a INTEGER, b INTEGER, c, PRIMARY KEY (a, b))",
            f"{FILL}INSERT INTO t SELECT iif(i % 5, i, NULL), iif(i % 7, 1, NULL), i FROM n",
        ),
        ("rowid",),
    ),
    "text with NULLs": Kind(
        (
            "CREATE TABLE t (a TEXT PRIMARY KEY, b)",
            f"{FILL}INSERT INTO t SELECT iif(i % 5, 'x' || i, NULL), i FROM n",
        ),
        ("rowid",),
    ),
    "without a type, with NULLs": Kind(
        (
            "CREATE TABLE t (a PRIMARY KEY, b)",
            f"{FILL}INSERT INTO t SELECT iif(i % 5, 'x' || i, NULL), i FROM n",
        ),
        ("rowid",),
    ),
    "text": Kind(
        (
            "CREATE TABLE t (a TEXT NOT NULL PRIMARY KEY, b)",
            f"{FILL}INSERT INTO t SELECT 'x' || i, i FROM n",
        ),
        ("a",),
    ),
    "without rowid": Kind(
        (
            "CREATE TABLE t (b, a TEXT PRIMARY KEY) WITHOUT ROWID",
            f"{FILL}INSERT INTO t SELECT i, 'x' || i FROM n",
        ),
        ("a",),
    ),
    "without rowid, composite": Kind(
        (
            "CREATE TABLE t (a INTEGER, b TEXT, c, PRIMARY KEY (b, a)) WITHOUT ROWID",
            f"{FILL}INSERT INTO t SELECT i, i % 4, i FROM n",
        ),
        ("b", "a"),
    ),
    "without rowid, descending": Kind(
        (
            "CREATE TABLE t (a INTEGER, b TEXT, PRIMARY KEY (b DESC, a DESC)) WITHOUT ROWID",
            f"{FILL}INSERT INTO t SELECT i, i % 4 FROM n",
        ),
        ("b", "a"),
    ),
    "strict": Kind(
        (
            "CREATE TABLE t (a TEXT PRIMARY KEY NOT NULL, i INT, r REAL, b BLOB, x ANY) STRICT",
            f"{FILL}INSERT INTO t SELECT 'k' || i, i, i / 3.0, randomblob(i % 5), i FROM n",
        ),
        ("a",),
    ),
    "generated columns": Kind(
        (
            "CREATE TABLE t (a INTEGER PRIMARY KEY, v AS (a * 2), s TEXT AS ('s' || a) STORED)",
            f"{FILL}INSERT INTO t (a) SELECT i FROM n",
        ),
        ("a",),
    ),
    "generated key": Kind(
        (
            "CREATE TABLE t (b, g TEXT NOT NULL AS ('s' || b) STORED)",
            "CREATE UNIQUE INDEX u ON t (g)",
            f"{FILL}INSERT INTO t (b) SELECT i FROM n",
        ),
        ("g",),
    ),
    "fts5": Kind(
        (
            "CREATE VIRTUAL TABLE t USING fts5(a, b)",
            f"{FILL}INSERT INTO t SELECT 'word ' || i, 'more ' || i FROM n",
        ),
        ("rowid",),
    ),
    "unique index": Kind(
        (
            "CREATE TABLE t (a TEXT, b TEXT NOT NULL, c INTEGER NOT NULL)",
            "CREATE UNIQUE INDEX nullable ON t (a)",
            "CREATE UNIQUE INDEX partial ON t (c) WHERE c > 7",
            "CREATE UNIQUE INDEX expression ON t (lower(b))",
            'CREATE UNIQUE INDEX "an \'index""" ON t (c, b)',
            f"{FILL}INSERT INTO t SELECT NULL, 'x' || i, i % 7 FROM n",
        ),
        ("c", "b"),
    ),
    "nocase": Kind(
        (
            "CREATE TABLE t (a TEXT NOT NULL COLLATE NOCASE PRIMARY KEY, b)",
            f"{FILL}INSERT INTO t SELECT iif(i % 2, 'Ab', 'aB') || i, i FROM n",
        ),
        ("a",),
    ),
    "collation of the index alone": Kind(
        (
            "CREATE TABLE t (a TEXT NOT NULL, b)",
            "CREATE UNIQUE INDEX u ON t (a COLLATE NOCASE)",
            f"{FILL}INSERT INTO t SELECT iif(i % 2, 'Ab', 'aB') || i, i FROM n",
        ),
        ("a",),
        "a COLLATE NOCASE",
    ),
    "rtrim": Kind(
        (
            "CREATE TABLE t (a TEXT NOT NULL COLLATE RTRIM PRIMARY KEY, b)",
            f"{FILL}INSERT INTO t SELECT i || iif(i % 2, '', '  '), i FROM n",
        ),
        ("a",),
    ),
    "descending index": Kind(
        (
            "CREATE TABLE t (a TEXT NOT NULL, b)",
            "CREATE UNIQUE INDEX u ON t (a DESC)",
            f"{FILL}INSERT INTO t SELECT 'x' || i, i FROM n",
        ),
        ("a",),
    ),
    "five columns": Kind(
        (
            "CREATE TABLE t (a INT, b TEXT, c REAL, d BLOB, e INT, PRIMARY KEY (a, b, c, d, e))"
            " WITHOUT ROWID",
            f"{FILL}INSERT INTO t SELECT i % 2, i % 3, i % 4 / 4.0, CAST(i % 5 AS BLOB), i FROM n",
        ),
        ("a", "b", "c", "d", "e"),
    ),
    "six columns": Kind(
        (
            "CREATE TABLE t (a NOT NULL, b NOT NULL, c NOT NULL, d NOT NULL, e NOT NULL,"
            " f NOT NULL, PRIMARY KEY (a, b, c, d, e, f))",
            f"{FILL}INSERT INTO t SELECT i % 2, 1, 1, 1, 1, i FROM n",
        ),
        ("rowid",),
    ),
    "bytes": Kind(
        (
            "CREATE TABLE t (a BLOB NOT NULL PRIMARY KEY, b)",
            f"{FILL}INSERT INTO t SELECT CAST('x' || i AS BLOB), i FROM n",
            "INSERT INTO t VALUES (x'', 1), (x'00', 2), (x'ff00', 3)",
        ),
        ("a",),
    ),
    "reals": Kind(
        (
            "CREATE TABLE t (a REAL NOT NULL PRIMARY KEY, b)",
            f"{FILL}INSERT INTO t SELECT (i - 20) / 7.0, i FROM n",
            "INSERT INTO t VALUES (9e999, 1), (-9e999, 2), (1e300, 3), (5e-324, 4)",
        ),
        ("a",),
    ),
    "mixed values": Kind(
        (
            "CREATE TABLE t (a NOT NULL PRIMARY KEY, b) WITHOUT ROWID",
            f"{FILL}INSERT INTO t SELECT iif(i % 2, i, 'x' || i), i FROM n",
            "INSERT INTO t VALUES ('1000', 1), (x'0bad', 2), ('nan', 3), (1e300, 4), ('', 5)",
        ),
        ("a",),
    ),
    "values of other types": Kind(
        (
            "CREATE TABLE t (a TEXT, b INTEGER, c BLOB, d DATE, PRIMARY KEY (a, b, c, d))"
            " WITHOUT ROWID",
            f"{FILL}INSERT INTO t SELECT CAST(i AS BLOB), 'x' || i, 'y' || i, i FROM n",
            f"{FILL}INSERT INTO t SELECT i, i, i, date('2024-01-01', i || ' days') FROM n",
        ),
        ("a", "b", "c", "d"),
    ),
    "one row": Kind(("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"), ("rowid",)),
    "empty": Kind(("CREATE TABLE t (a TEXT PRIMARY KEY NOT NULL, b)",), ("a",)),
}


async def streamed_whole(service: Running, path: Path, kind: Kind) -> None:
    """Both formats, the rest behind every row, and the lists have just the rows of the table."""
    names = [
        name
        for name, *_ in read(path, "SELECT name FROM pragma_table_xinfo('t') WHERE hidden <> 1")
    ]
    columns = ", ".join(f'"{name}"' for name in names)
    order = kind.order or ", ".join(kind.key)
    rows = read(path, f"SELECT {columns} FROM t ORDER BY {order}")
    keys = read(path, f"SELECT {', '.join(kind.key)} FROM t ORDER BY {order}")
    objects = as_objects(names, rows)
    assert_csv(await got(service, "/t/export.csv?null=%5CN"), names, rows)
    assert ndjson_rows(await got(service, "/t/stream.ndjson")) == objects
    for number, key in enumerate(keys, 1):
        after = key_text(key)
        rest = ndjson_rows(await got(service, f"/t/stream.ndjson?after={after}"))
        assert rest == objects[number:], after
        part_of_it = await got(service, f"/t/stream.ndjson?limit=3&after={after}")
        assert ndjson_rows(part_of_it) == objects[number : number + 3]
    assert await listed(service, "t") == objects


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_every_kind_of_table_is_streamed(
    start: StartService, tmp_path: Path, kind: Kind
) -> None:
    """Whatever kind of table and key: each row once, in order, and the rest behind any of them."""
    path = make(tmp_path / "shop.db", *kind.made)
    service = await start(where=SQLite(path), page_bytes=1_024)
    (table,) = [
        each for each in json.loads(await got(service, "/tables"))["tables"] if each["name"] == "t"
    ]
    assert table["key"] == list(kind.key)
    await streamed_whole(service, path, kind)


async def test_hard_texts_are_keys(start: StartService, tmp_path: Path) -> None:
    """Keys of commas, quotes, line ends, percents and nothing at all are resumed behind."""
    path = tmp_path / "shop.db"
    rows = [(left, right) for left in HARD for right in HARD]
    make(
        path,
        "CREATE TABLE t (a TEXT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID",
        many=[("INSERT INTO t VALUES (?, ?)", rows)],
    )
    service = await start(where=SQLite(path), page_bytes=1_024)
    await streamed_whole(service, path, Kind((), ("a", "b")))


async def test_views_want_a_key(start: StartService, tmp_path: Path) -> None:
    """A view is refused with what would help, listed so in the catalogue, and read with --key."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)",
        f"{FILL}INSERT INTO t SELECT i, 'x' || i FROM n",
        "CREATE VIEW v AS SELECT id * 2 AS twice, a FROM t WHERE id > 3",
        "CREATE VIRTUAL TABLE r USING rtree(id, low, high)",
        "CREATE TABLE m (a TEXT, b INTEGER, PRIMARY KEY (a, b DESC)) WITHOUT ROWID",
        f"{FILL}INSERT INTO m SELECT i % 5, i FROM n",
    )
    service = await start(where=SQLite(path))
    catalogue = {each["name"]: each for each in json.loads(await got(service, "/tables"))["tables"]}
    for name in ("v", "r", "m"):
        for route in ("/export.csv", "/stream.ndjson", ""):
            status, code, words = await refusal(service, f"/{name}{route}")
            assert (status, code) == (409, "no_key")
            assert "unique index" in words if name == "m" else f"--key {name}=" in words
        assert catalogue[name]["key"] is None
        assert catalogue[name]["can"] == []
        assert catalogue[name]["key_source"] in words
    service = await start(where=SQLite(path), key=("v=twice", "r=id", "m=a,b"), page_bytes=1_024)
    rows = read(path, "SELECT * FROM v ORDER BY twice")
    assert_csv(await got(service, "/v/export.csv"), ["twice", "a"], rows)
    assert_csv(await got(service, "/v/export.csv?after=60"), ["twice", "a"], rows[27:])
    assert await got(service, "/r/export.csv") == b"id,low,high\n"
    rows = read(path, "SELECT * FROM m ORDER BY a, b")
    assert_csv(await got(service, "/m/export.csv"), ["a", "b"], rows)


async def test_shadow_and_inner_tables_are_not_served(start: StartService, tmp_path: Path) -> None:
    """What SQLite itself keeps in a file is in no catalogue, and asked for it is not there."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a)",
        "CREATE VIRTUAL TABLE words USING fts5(a)",
        "ANALYZE",
    )
    service = await start(where=SQLite(path))
    tables = json.loads(await got(service, "/tables"))["tables"]
    assert [each["name"] for each in tables] == ["t", "words"]
    for name in ("sqlite_schema", "sqlite_sequence", "sqlite_stat1", "words_data", "T"):
        assert (await fetch(service, f"/{name}/export.csv"))[0] == 404
