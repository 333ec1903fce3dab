"""Ranges asked of the index: any key, in order, each row once, whatever happens around it."""

from dataclasses import replace
from random import Random

import pytest

from service.query import Range
from tests.postgres import Postgres
from tests.relations import weir

ROWS = 500
NUMBER = f"generate_series(1, {ROWS}) AS i"
KEYS = {
    "integer": ("k integer", "i"),
    "negative and sparse": ("k bigint", "(i - 250) * 100000000007"),
    "random bigint": ("k bigint", "hashint8extended(i, 7)"),
    "smallint": ("k smallint", "i - 250"),
    "oid": ("k oid", "i * 1000000"),
    "numeric": ("k numeric(40,5)", "i * 12345678901234567890.12345"),
    "numeric NaN": (
        "k numeric",
        "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE i::numeric END",
    ),
    "float": ("k float8", "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' ELSE sin(i) END"),
    "real": ("k real", "i / 3.0"),
    "text": ("k text", "md5(i::text)"),
    "any text": ("k text", """chr(i + 30) || '"'',\\' || chr(10) || i"""),
    "varchar": ("k varchar(20)", "'key ' || i"),
    "char": ("k char(8)", "'c' || i"),
    "text in another collation": ('k text COLLATE "pg_unicode_fast"', "chr(i + 40) || i"),
    "name": ("k name", "'n' || i"),
    "bytea": ("k bytea", r"decode(md5(i::text), 'hex') || '\x5c27'"),
    "uuid": ("k uuid", "md5(i::text)::uuid"),
    "date": ("k date", "CASE i WHEN 1 THEN 'infinity' ELSE '0001-01-01 BC'::date + i * 999 END"),
    "time": ("k time", "'00:00'::time + i * interval '1 second 7 microseconds'"),
    "timestamp": (
        "k timestamptz",
        "CASE i WHEN 1 THEN '-infinity' ELSE to_timestamp(i * 1e6 + 0.123456) END",
    ),
    "interval": ("k interval", "i * interval '1 month 2 days 3 seconds'"),
    "inet": ("k inet", "'10.0.0.0'::inet + i"),
    "macaddr": ("k macaddr", "('08:00:2b:00:00:' || to_hex(i % 256))::macaddr"),
    "bit": ("k bit varying", "i::bit(16)"),
    "boolean": ("k boolean", "i % 2 = 0"),
    "enum": ("k mood", "CASE i % 3 WHEN 0 THEN 'z' WHEN 1 THEN 'a, b' ELSE '''m' END::mood"),
    "domain": ("k positive", "i"),
    "array": ("k integer[]", "ARRAY[i, -i]"),
    "range": ("k int4range", "int4range(i, i + 5)"),
    "jsonb": ("k jsonb", "jsonb_build_object('a', i)"),
    "pg_lsn": ("k pg_lsn", "'0/0'::pg_lsn + i * 100"),
    "text and integer": ("k text, l integer", "'k' || i % 7, i"),
    "five": (
        "k date, l boolean, m numeric, n uuid, o text",
        "'2024-01-01'::date + i % 3, i % 2 = 0, i % 5, md5((i % 11)::text)::uuid, i",
    ),
    "two collations": (
        'k text COLLATE "C", l text COLLATE "pg_unicode_fast"',
        "chr(40 + i % 90), i",
    ),
}
MADE = """
CREATE TYPE mood AS ENUM ('z', '''m', 'a, b');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
"""


@pytest.mark.parametrize("kind", KEYS)
async def test_every_key_streams_each_row_once_in_order(postgres: Postgres, kind: str) -> None:
    """Pages of random sizes, put together, are the table in the order of its key."""
    columns, values = KEYS[kind]
    key = ", ".join(part.split()[0] for part in columns.split(", "))
    with postgres.database() as url:
        async with weir(url) as engine:
            await engine.sql.execute(
                f"{MADE} CREATE TABLE t (v integer, {columns}, PRIMARY KEY ({key}));"
                f"INSERT INTO t SELECT i, {values} FROM {NUMBER} ON CONFLICT DO NOTHING; ANALYZE t"
            )
            expected = await engine.sql.fetch(f"SELECT v FROM t ORDER BY {key}")
            lines = "".join(f"{v}\n" for (v,) in expected).encode()
            query = await engine.query("t", columns=("v",))
            for seed in range(3):
                assert await engine.lines(query, Random(seed)) == lines
            # From behind any row, as a client has its key.
            texts = ", ".join(f"{part.strip()}::text" for part in key.split(","))
            for at in (0, len(expected) // 2, len(expected) - 1):
                after = await engine.sql.fetchrow(
                    f"SELECT {texts} FROM t WHERE v = {expected[at][0]}"
                )
                behind = await engine.query("t", columns=("v",), after=tuple(after or ()))
                rest = "".join(f"{v}\n" for (v,) in expected[at + 1 :]).encode()
                assert await engine.lines(behind) == rest


async def test_what_the_server_estimates_costs_no_row(postgres: Postgres) -> None:
    """Where ids look dense, ranges are counted in ids; no row is lost when they are not so."""
    with postgres.database() as url:
        async with weir(url) as engine:
            await engine.sql.execute(
                "CREATE TABLE t (id bigint PRIMARY KEY);"
                "INSERT INTO t SELECT generate_series(11, 2010); ANALYZE t"
            )
            query = await engine.query("t")
            start = await engine.reader.start(query)
            query = replace(query, until=start.until)
            assert await engine.reader.cut(query, None, 300, 2) == [
                Range(None, ("310",)),
                Range(("310",), ("610",)),
            ]
            assert await engine.reader.cut(query, ("1900",), 110, 9) == [
                Range(("1900",), ("2010",))
            ]
            assert await engine.reader.cut(query, ("2000",), 300, 9) == [
                Range(("2000",), ("2010",))
            ]
            assert await engine.reader.cut(query, ("-7",), 300, 1) == [Range(("-7",), ("310",))]
            await engine.sql.execute(
                "DELETE FROM t WHERE id % 100 > 0; INSERT INTO t VALUES (-5), (3000)"
            )
            kept = [-5, *range(100, 2001, 100), 3000]
            assert await engine.lines(query) == "".join(f"{id_}\n" for id_ in kept).encode()


async def test_each_range_has_as_many_rows_as_asked_for(postgres: Postgres) -> None:
    """All ranges but the last have just so many rows, each begins where the one before it ends."""
    with postgres.database() as url:
        async with weir(url) as engine:
            await engine.sql.execute(
                "CREATE TABLE t (k text, l int, PRIMARY KEY (k, l));"
                "INSERT INTO t SELECT md5((i % 9)::text), i FROM generate_series(1, 100) i"
            )
            query = await engine.query("t")
            start = await engine.reader.start(query)
            query = replace(query, until=start.until)
            for rows, count in ((1, 3), (7, 5), (30, 9), (100, 2), (1000, 2)):
                ranges = await engine.reader.cut(query, None, rows, count)
                pages = await engine.reader.read(query, ranges, None)
                sizes = [min(rows, 100 - first) for first in range(0, 100, rows)][:count]
                assert [page and page.rows for page in pages] == sizes
                assert [range_.after for range_ in ranges] == [
                    None,
                    *(range_.until for range_ in ranges[:-1]),
                ]
            assert await engine.reader.cut(query, query.until, 7, 5) == []
