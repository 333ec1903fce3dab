"""Any value in any column of a stranger's SQLite file is written as what it is, in every format."""

import asyncio
import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Logged, Running, StartService
from tests.databases import SQLite
from tests.strangers import (
    Row,
    as_objects,
    assert_csv,
    csv_rows,
    fetch,
    got,
    json_value,
    key_text,
    listed,
    make,
    ndjson_rows,
    part,
    read,
)
from tests.test_properties import in_thread, on

TYPES = (
    "", "ANY", "INTEGER", "INT", "TEXT", "VARCHAR(5)", "CLOB", "BLOB", "REAL", "DOUBLE", "FLOAT",
    "NUMERIC", "DECIMAL(9, 2)", "BOOLEAN", "DATE", "TIMESTAMP", "JSON", "JSONB", "MONEY", "strange",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None,
    0,
    -1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    0.1,
    0.1 + 0.2,
    1e300,
    5e-324,
    -0.0,
    1e16,
    123456789012345678.0,
    float("inf"),
    float("-inf"),
    "",
    "a",
    "a,b",
    'say "x"',
    "line\nend",
    "cr\rend",
    " spaces ",
    "NULL",
    "1",
    "0123",
    "1e5",
    "-5",
    "=1+1",
    "ä🎉\u2028\x7f",
    "\x01\x1f\t",
    "\ufeffbom",
    '{"a": [1, 2.50, "x"]}',
    "[1, 2",
    "2024-02-30",
    b"",
    b"\x00\xff",
    b"text",
    b"\x4c\x51\x61\x13\x31",
)
"""The last one is `{"a":1}` as SQLite's binary JSON, near enough to be taken for it."""

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)


def expected_object(kinds: dict[str, str], names: list[str], row: Row) -> dict[str, Any]:
    """A row as NDJSON has it; what is valid JSON in a column of JSON stands there as it is."""
    found = {}
    for name, value in zip(names, row, strict=True):
        found[name] = json_value(value)
        if kinds[name] == "json" and isinstance(value, str):
            try:
                found[name] = json.loads(value)
            except ValueError:
                continue
    return found


async def kinds_of(service: Running, table: str) -> dict[str, str]:
    """How each column of a table is written, as the catalogue says."""
    (found,) = [
        each
        for each in json.loads(await got(service, "/tables"))["tables"]
        if each["name"] == table
    ]
    return {column["name"]: column["written_as"] for column in found["columns"]}


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
async def test_every_value_in_every_column(
    start: StartService, tmp_path: Path, encoding: str
) -> None:
    """Each storage class is written as what it is, whatever its column was declared as."""
    names = [f"c{number}" for number in range(len(TYPES))]
    columns = ", ".join(f"{name} {type_}" for name, type_ in zip(names, TYPES, strict=True))
    marks = ", ".join("?" * len(TYPES))
    path = make(
        tmp_path / "shop.db",
        f"PRAGMA encoding = '{encoding}'",
        f"CREATE TABLE t ({columns})",
        many=[(f"INSERT INTO t VALUES ({marks})", [(value,) * len(TYPES) for value in VALUES])],
    )
    rows = read(path, "SELECT * FROM t ORDER BY rowid")
    service = await start(where=SQLite(path), page_bytes=1_024)
    assert_csv(await got(service, "/t/export.csv?null=%5CN"), names, rows)
    kinds = await kinds_of(service, "t")
    objects = [expected_object(kinds, names, row) for row in rows]
    found = ndjson_rows(await got(service, "/t/stream.ndjson"))
    assert found == objects
    assert [list(map(type, each.values())) for each in found] == [
        list(map(type, each.values())) for each in objects
    ]
    assert await listed(service, "t") == objects


async def test_nan_is_null(start: StartService, tmp_path: Path) -> None:
    """SQLite stores NULL for what is not a number, and 9e999 as infinity."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (a REAL, b)",
        "INSERT INTO t VALUES (9e999 - 9e999, 0.0 / 0), (9e999, -9e999)",
    )
    service = await start(where=SQLite(path))
    assert await got(service, "/t/export.csv?null=NULL") == b"a,b\nNULL,NULL\nInfinity,-Infinity\n"
    body = await got(service, "/t/stream.ndjson")
    assert body == b'{"a":null,"b":null}\n{"a":"Infinity","b":"-Infinity"}\n'


@pytest.mark.parametrize("text", ["\0", "a\0b", 'a\0,"b', "\0\n", "a\0\r", ',\0"', "=\0,"])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
async def test_nul_inside_a_text_hides_nothing(
    start: StartService, tmp_path: Path, text: str, encoding: str
) -> None:
    """What stands behind a NUL in a text is written, and quoted where it has to be."""
    path = make(
        tmp_path / "shop.db",
        f"PRAGMA encoding = '{encoding}'",
        "CREATE TABLE t (a TEXT, b)",
        many=[("INSERT INTO t VALUES (?, ?)", [(text, 1), ("x", text)])],
    )
    service = await start(where=SQLite(path))
    assert_csv(await got(service, "/t/export.csv"), ["a", "b"], [(text, 1), ("x", text)])
    assert ndjson_rows(await got(service, "/t/stream.ndjson")) == [
        {"a": text, "b": 1},
        {"a": "x", "b": text},
    ]


@pytest.mark.parametrize("route", ["export.csv", "stream.ndjson"])
@pytest.mark.parametrize("bad", ["x'ff'", "x'61c3'", "x'eda080'", "x'f4908080'"])
async def test_text_that_is_not_utf8_breaks_the_stream(
    start: StartService, tmp_path: Path, logged: Logged, route: str, bad: str
) -> None:
    """Rows before it come, then the stream is reset, and the log names the table and the key."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)"
        " INSERT INTO t SELECT i, 'x' || i FROM n",
        f"UPDATE t SET a = CAST({bad} AS TEXT) WHERE id = 8123",
    )
    service = await start(where=SQLite(path))
    with pytest.raises(Exception, match=r"payload|reset|closed"):
        await got(service, f"/t/{route}")
    (line,) = [each for each in logged if each["event"] == "stream failed"]
    assert "t: " in line["reason"]
    assert "8123" in line["reason"]
    assert "UTF-8" in line["reason"]
    assert await got(service, f"/t/{route}?columns=id&after=8122&limit=1")


async def test_a_key_that_is_not_utf8_is_a_fault_that_is_told(
    start: StartService, tmp_path: Path, logged: Logged
) -> None:
    """A key that no text can be made of ends its stream as a failure of the data, not of ours."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (a TEXT NOT NULL PRIMARY KEY)",
        "INSERT INTO t VALUES ('a'), (CAST(x'ff' AS TEXT))",
    )
    service = await start(where=SQLite(path))
    status, body = await fetch(service, "/t/export.csv")
    assert status == 503, body
    assert not [each for each in logged if "exc_info" in each]
    assert "UTF-8" in str([each.get("reason") for each in logged])


async def test_null_is_told_from_texts(start: StartService, tmp_path: Path) -> None:
    """NULL is nothing, the empty string is quoted, and so is a text like what stands for NULL."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (a TEXT, b TEXT)",
        "INSERT INTO t VALUES (NULL, ''), ('NULL', 'null')",
    )
    service = await start(where=SQLite(path))
    assert await got(service, "/t/export.csv") == b'a,b\n,""\nNULL,null\n'
    assert await got(service, "/t/export.csv?null=NULL") == b'a,b\nNULL,""\n"NULL",null\n'


async def test_excel_guards_every_text(start: StartService, tmp_path: Path) -> None:
    """In Excel's dialect no text of any column, and no column's name, is run as a formula."""
    starts = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
    texts = [first + "cmd|'/c calc'!A1" for first in starts] + ["plain", "1-1", ""]
    path = make(
        tmp_path / "shop.db",
        'CREATE TABLE t (a TEXT, b, c INTEGER, d BLOB, e DATE, "=1+1" TEXT)',
        many=[("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", [(text,) * 6 for text in texts])],
    )
    make(path, "INSERT INTO t VALUES (-5, -5, -5, -5, -5, -5)")
    service = await start(where=SQLite(path))
    body = (await got(service, "/t/export.csv?dialect=excel")).decode("utf-8-sig")
    head, *rows, numbers = csv.reader(io.StringIO(body, newline=""))
    assert body.count("\r\n") >= len(texts) + 2
    assert head == ["a", "b", "c", "d", "e", "'=1+1"]
    assert rows == [[("'" if text[:1] in tuple(starts) else "") + text] * 6 for text in texts]
    assert numbers[1:5] == ["-5"] * 4


async def test_numbers_as_strings(start: StartService, tmp_path: Path) -> None:
    """`numbers=string` quotes each number with all its digits, and nothing else."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, r REAL, d DECIMAL(20, 2), x, t TEXT, j JSON)",
        "INSERT INTO t VALUES (9007199254740993, 0.1, 12345678901234567, 5, '5', '5')",
        "INSERT INTO t VALUES (9223372036854775807, 1e300, NULL, 2.5, NULL, '{\"a\":5}')",
    )
    service = await start(where=SQLite(path))
    first, second = ndjson_rows(await got(service, "/t/stream.ndjson?numbers=string"))
    assert first["id"] == "9007199254740993"
    assert (float(first["r"]), first["d"], first["x"]) == (0.1, "12345678901234567", "5")
    assert isinstance(first["r"], str)
    assert (first["t"], first["j"]) == ("5", 5)
    assert (second["d"], second["t"], float(second["x"])) == (None, None, 2.5)
    assert second["j"] == {"a": 5}


# Random schemas and rows.

NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.text(
    st.sampled_from("\",\n\r\t\\'\x00\x01\x7f\u2028\ufeff =+-@;"), max_size=6
)
VALUE = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=6)
)
KEY = {
    "INTEGER": st.integers(-(2**63), 2**63 - 1),
    "TEXT": TEXT,
    "REAL": st.floats(allow_nan=False),
    "BLOB": st.binary(max_size=6),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[str], int, list[Row]]:
    """What makes a table, the names of its columns, how many of the first are its key; its rows."""
    parts = draw(st.lists(st.sampled_from(sorted(KEY)), max_size=5))
    others = draw(st.lists(st.sampled_from(TYPES), min_size=0 if parts else 1, max_size=4))
    count = len(parts) + len(others)
    names = draw(
        st.lists(NAME, min_size=count, max_size=count, unique_by=lambda name: name.casefold())
    )
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    declared = [
        f"{name} {type_}" + " NOT NULL" * (at < len(parts))
        for at, (name, type_) in enumerate(zip(quoted, [*parts, *others], strict=True))
    ]
    ending = ""
    if parts:
        declared.append(f"PRIMARY KEY ({', '.join(quoted[: len(parts)])})")
        ending = draw(st.sampled_from(["", " WITHOUT ROWID"]))
    row = st.tuples(*(KEY[type_] for type_ in parts), *(VALUE for _ in others))
    rows = draw(st.lists(row, max_size=20))
    return f"CREATE TABLE t ({', '.join(declared)}){ending}", names, len(parts), rows


async def test_any_table_is_read_back(start: StartService, tmp_path: Path) -> None:
    """Any table of any rows is what Python's own driver reads, in every format, from any row on."""
    path = make(tmp_path / "shop.db", "CREATE TABLE first (a)")
    service = await start(where=SQLite(path), page_bytes=1_024)
    loop = asyncio.get_running_loop()

    async def example(names: list[str], keys: int, rows: list[Row], at: int) -> None:
        kinds = await kinds_of(service, "t")
        assert_csv(await got(service, "/t/export.csv?null=%5CN"), names, rows)
        body = await got(service, "/t/export.csv?dialect=excel&header=false&null=%5CN")
        assert len(csv_rows(body)) == len(rows)
        objects = [expected_object(kinds, names, row) for row in rows]
        assert ndjson_rows(await got(service, "/t/stream.ndjson")) == objects
        if keys and rows:
            at %= len(rows)
            after = key_text(rows[at][:keys])
            found = ndjson_rows(await got(service, f"/t/stream.ndjson?after={after}"))
            assert found == objects[at + 1 :]
            chosen = part(names[-1])
            body = await got(service, f"/t/stream.ndjson?columns={chosen}&limit={at + 1}")
            assert ndjson_rows(body) == [{names[-1]: each[names[-1]]} for each in objects[: at + 1]]

    @EXAMPLES
    @given(tables(), st.integers(0, 1_000))
    def check(table: tuple[str, list[str], int, list[Row]], at: int) -> None:
        created, names, keys, rows = table
        make(path, "DROP TABLE IF EXISTS t", created)
        marks = ", ".join("?" * len(names))
        make(path, many=[(f"INSERT OR IGNORE INTO t VALUES ({marks})", rows)])
        order = ", ".join('"' + name.replace('"', '""') + '"' for name in names[:keys]) or "rowid"
        with closing(sqlite3.connect(path)) as connection:
            stored = connection.execute(f"SELECT * FROM t ORDER BY {order}").fetchall()
        on(loop, example(names, keys, stored, at))

    await in_thread(check)


def test_objects_are_compared_by_value() -> None:
    """The tests' own idea of a row tells an integer from a text, and a real by all its digits."""
    assert as_objects(["a", "b"], [(1, b"\xff")]) == [{"a": 1, "b": "ff"}]
    assert json.dumps(json_value(0.1 + 0.2)) == "0.30000000000000004"
