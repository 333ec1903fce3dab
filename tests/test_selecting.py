"""What may be asked of any table: columns, filters, limits, and what is said when it is wrong."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from tests.conftest import Running, StartService
from tests.databases import SQLite
from tests.strangers import (
    NUMBERS,
    Row,
    assert_csv,
    got,
    listed,
    make,
    ndjson_rows,
    part,
    read,
    refusal,
)

COLUMNS = ["id", "name", "price", "r", "raw", "x", "at", "limit", "after", "columns", "a__gt"]
TABLE = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, price DECIMAL(9, 2), r REAL, raw BLOB, x,"
    ' at DATE, "limit" INT, "after" TEXT, "columns" TEXT, a__gt INT)',
    f"{NUMBERS.format(300)}INSERT INTO t SELECT i, iif(i % 5, 'n' || i % 17, NULL), i % 11 / 2.0,"
    " i / 7.0, unhex(printf('%02x', i % 256)), iif(i % 2, i, 'x' || i),"
    " date('2024-01-01', i || ' days'), i % 3, 'a' || i % 4, 'c,' || i % 6, i FROM n",
)

Keep = Callable[[dict[str, Any]], bool]


def known(value: Any) -> bool:
    return value is not None


FILTERS: dict[str, Keep] = {
    "id=7": lambda row: row["id"] == 7,
    "id__eq=7": lambda row: row["id"] == 7,
    "id__ne=7": lambda row: row["id"] != 7,
    "id__lt=7": lambda row: row["id"] < 7,
    "id__lte=7": lambda row: row["id"] <= 7,
    "id__gt=290": lambda row: row["id"] > 290,
    "id__gte=290.5": lambda row: row["id"] > 290,
    "id__in=1,5,9,5,1000": lambda row: row["id"] in (1, 5, 9),
    "id__null=true": lambda row: False,
    "name=n3": lambda row: row["name"] == "n3",
    "name__ne=n3": lambda row: known(row["name"]) and row["name"] != "n3",
    "name__gt=n3": lambda row: known(row["name"]) and row["name"] > "n3",
    "name__in=n3,n4": lambda row: row["name"] in ("n3", "n4"),
    "name__null=true": lambda row: row["name"] is None,
    "name__null=false": lambda row: row["name"] is not None,
    "price=2.5": lambda row: row["price"] == 2.5,
    "price=2": lambda row: row["price"] == 2,
    "price__gte=4.5&price__lt=5": lambda row: row["price"] == 4.5,
    "r__lt=1e0": lambda row: row["r"] < 1,
    "r__gt=-1e999&r__lt=1": lambda row: row["r"] < 1,
    "raw=0A": lambda row: row["raw"] == b"\x0a",
    "raw__gt=fe": lambda row: row["raw"] > b"\xfe",
    "raw__in=00,01,ff": lambda row: row["raw"] in (b"\x00", b"\x01", b"\xff"),
    "x=9": lambda row: row["x"] == 9,
    "x=x10": lambda row: row["x"] == "x10",
    "at__gte=2024-10-20": lambda row: row["at"] >= "2024-10-20",
    "limit__eq=1": lambda row: row["limit"] == 1,
    "limit__gte=1&limit=20": lambda row: row["limit"] >= 1,
    "after__eq=a3": lambda row: row["after"] == "a3",
    "columns__in=c%2C1,c%2C5": lambda row: row["columns"] in ("c,1", "c,5"),
    "columns__eq=c,1": lambda row: row["columns"] == "c,1",
    "a__gt=5": lambda row: row["a__gt"] == 5,
    "a__gt__eq=5": lambda row: row["a__gt"] == 5,
    "a__gt__gt=295": lambda row: row["a__gt"] > 295,
    "id__gt=100&name=n3&price__lt=3": lambda row: (
        row["id"] > 100 and row["name"] == "n3" and row["price"] < 3
    ),
}


async def served(start: StartService, tmp_path: Path) -> tuple[Running, list[Row]]:
    """A service of the table, and the rows that Python's driver reads."""
    path = make(tmp_path / "shop.db", *TABLE)
    rows = read(path, "SELECT * FROM t ORDER BY id")
    return await start(where=SQLite(path), page_bytes=1_024), rows


@pytest.mark.parametrize(("query", "keep"), FILTERS.items(), ids=FILTERS)
async def test_filters_keep_what_they_say(
    start: StartService, tmp_path: Path, query: str, keep: Keep
) -> None:
    """Each operator, on each kind of column, keeps the rows that it should: in every route."""
    service, rows = await served(start, tmp_path)
    expected = [row for row in rows if keep(dict(zip(COLUMNS, row, strict=True)))]
    expected = expected[:20] if "limit=20" in query else expected
    assert_csv(await got(service, f"/t/export.csv?null=%5CN&{query}"), COLUMNS, expected)
    ids = [row[0] for row in expected]
    found = ndjson_rows(await got(service, f"/t/stream.ndjson?columns=id&{query}"))
    assert [each["id"] for each in found] == ids
    if "limit=20" in query:
        return
    listing, after = [], ""
    while after is not None:
        page = json.loads(await got(service, f"/t?columns=id&limit=50&{query}{after}"))
        listing += [each["id"] for each in page["t"]]
        after = page["next"] and f"&after={quote(page['next'], safe='')}"
    assert listing == ids


async def test_columns_come_as_they_are_asked_for(start: StartService, tmp_path: Path) -> None:
    """Any of the columns come in any order, also the number of the row where it is the key."""
    service, rows = await served(start, tmp_path)
    body = await got(service, "/t/export.csv?columns=x,id,columns&null=%5CN")
    assert_csv(body, ["x", "id", "columns"], [(row[5], row[0], row[9]) for row in rows])
    body = await got(service, "/t/export.csv?columns=id&header=false")
    assert body == b"".join(b"%d\n" % row[0] for row in rows)
    path = make(tmp_path / "other.db", "CREATE TABLE u (a)", "INSERT INTO u VALUES (5), (6)")
    service = await start(where=SQLite(path))
    assert await got(service, "/u/export.csv") == b"a\n5\n6\n"
    assert await got(service, "/u/export.csv?columns=rowid,a") == b"rowid,a\n1,5\n2,6\n"
    assert await got(service, "/u/export.csv?after=1") == b"a\n6\n"
    assert await got(service, "/u/export.csv?rowid__gt=1") == b"a\n6\n"


@pytest.mark.parametrize("limit", [1, 2, 7, 128, 129, 299, 300, 301, 2**63 - 1])
async def test_limits(start: StartService, tmp_path: Path, limit: int) -> None:
    """No more than `limit` rows come, from the start, from behind a key, and with a filter."""
    service, rows = await served(start, tmp_path)
    ids = [row[0] for row in rows]
    for query, expected in {
        "": ids,
        "&after=150": ids[150:],
        "&limit__gte=1": [number for number in ids if number % 3 >= 1],
        "&name__null=true&after=5": [number for number in ids if number % 5 == 0][1:],
    }.items():
        body = await got(service, f"/t/stream.ndjson?columns=id&limit={limit}{query}")
        assert [each["id"] for each in ndjson_rows(body)] == expected[:limit]


WRONG = {
    "nothing=1": "id, name, price",
    "ID=1": "id, name, price",
    "id__like=1": "COLUMN__gte",
    "columns=id,nothing": "id, name, price",
    "columns=": "id, name, price",
    "columns=id,id": "once",
    "id=seven": "a number",
    "id__in=1,two": "a number",
    "price__gt=": "a number",
    "r=1_000": "a number",
    "raw=0g": "hexadecimal",
    "raw=abc": "hexadecimal",
    "name__null=maybe": "true or false",
    "limit=0": "1 to",
    "limit=-1": "1 to",
    "limit=ten": "1 to",
    "after=seven": "a number",
    "after=1,2": "a number",
    "id=1&id=2": "once",
    "null=a,b": "20 characters",
    "null=" + "x" * 21: "20 characters",
    "header=no": "true or false",
    "dialect=tab": "standard or excel",
    "numbers=string": "columns, after, limit, header",
}


@pytest.mark.parametrize(("query", "named"), WRONG.items(), ids=[each[:30] for each in WRONG])
async def test_what_is_wrong_is_a_400_that_helps(
    start: StartService, tmp_path: Path, query: str, named: str
) -> None:
    """Before the first byte the answer names the parameter, and what is allowed."""
    service, _ = await served(start, tmp_path)
    status, code, words = await refusal(service, f"/t/export.csv?{query}")
    assert (status, code) == (400, "invalid_parameter")
    assert named in words
    assert query.rsplit("&", maxsplit=1)[-1].partition("=")[0].partition("__like")[0] in words


HOSTILE = (
    "'; DROP TABLE t; --",
    "' OR '1'='1",
    '" OR 1=1 --',
    "1 OR 1=1",
    "1); DELETE FROM t; --",
    "?1",
    ":id",
    "%",
    "_",
    "\\",
    "x' || (SELECT sql FROM sqlite_schema) || '",
    "\0",
    "\n",
    "ä🎉",
    "a" * 2_000,
)


@pytest.mark.parametrize("value", HOSTILE, ids=[each[:20] for each in HOSTILE])
async def test_hostile_values_are_values(start: StartService, tmp_path: Path, value: str) -> None:
    """A value is only ever compared: it matches what is the same, and nothing else happens."""
    path = make(
        tmp_path / "shop.db",
        "CREATE TABLE t (a TEXT NOT NULL PRIMARY KEY, b)",
        many=[("INSERT INTO t VALUES (?, 1)", [(value,), ("other",)])],
    )
    service = await start(where=SQLite(path))
    mine = [{"a": value, "b": 1}]
    for query in (f"a={part(value)}", f"a__in={part(value)}", f"a={quote_plus(value)}"):
        assert ndjson_rows(await got(service, f"/t/stream.ndjson?{query}")) == mine
    behind = ndjson_rows(await got(service, f"/t/stream.ndjson?after={part(value)}"))
    assert behind == [{"a": each, "b": 1} for each in sorted([value, "other"]) if each > value]
    body = await got(service, f"/t/stream.ndjson?a__ne={part(value)}&b=1")
    assert ndjson_rows(body) == [{"a": "other", "b": 1}]
    for query in (f"columns={part(value)}", f"{part(value)}=1", f"limit={part(value)}", "c__eq=1"):
        status, code, _ = await refusal(service, f"/t/export.csv?{query}")
        assert (status, code) == (400, "invalid_parameter")
    assert len(await listed(service, "t")) == 2


@pytest.mark.parametrize("name", HOSTILE[:5], ids=[each[:20] for each in HOSTILE[:5]])
async def test_hostile_names_are_names(start: StartService, tmp_path: Path, name: str) -> None:
    """A table and a column with the name of an attack are read, and nothing else happens."""
    quoted = '"' + name.replace('"', '""') + '"'
    path = make(
        tmp_path / "shop.db",
        f"CREATE TABLE {quoted} ({quoted} TEXT NOT NULL PRIMARY KEY)",
        f"INSERT INTO {quoted} VALUES ('a'), ('b')",
        "CREATE TABLE t (a)",
    )
    service = await start(where=SQLite(path))
    address = f"/{part(name)}/export.csv?header=false&null=NULL"
    for query in (f"columns={part(name)}", f"{part(name)}__gte=a", f"{part(name)}__null=false"):
        assert await got(service, f"{address}&{query}") == b"a\nb\n"
    body = await got(service, f"{address}&dialect=excel&after=a&{part(name)}__in=a,b")
    assert body == b"b\r\n"
    tables = json.loads(await got(service, "/tables"))["tables"]
    assert {each["name"] for each in tables} == {name, "t"}


async def test_a_header_is_read_back(start: StartService, tmp_path: Path) -> None:
    """Names of columns with commas, quotes and line ends are quoted in the first line."""
    names = ["a,b", 'say "x"', "line\nend", " ", "ä", "a\r", "1"]
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    path = make(tmp_path / "shop.db", f"CREATE TABLE t ({columns})")
    service = await start(where=SQLite(path))
    for dialect in ("standard", "excel"):
        text = (await got(service, f"/t/export.csv?dialect={dialect}")).decode("utf-8-sig")
        assert list(csv.reader(io.StringIO(text, newline=""))) == [names]
