"""Every type of PostgreSQL in a column: how it is written, and that it reads back as it was."""

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.engines.postgres.literals import typed
from service.query import Format
from service.relation import Kind
from tests.postgres import Postgres
from tests.relations import Weir, weir

BACK, NOT_BACK = True, False
"""Whether COPY FROM takes the cell for the same value: JSON is JSON, even where it was an array."""

# For each type: the kind, whether it reads back, and for each value, as PostgreSQL takes it, what
# stands in CSV and, unless it is the same text as a JSON string, in JSON.
Same = None
TYPES: dict[str, tuple[Kind, bool, list[tuple[str, Any, Any]]]] = {
    "smallint": (Kind.INTEGER, BACK, [("-32768", "-32768", -32768)]),
    "integer": (Kind.INTEGER, BACK, [("2147483647", "2147483647", 2147483647)]),
    "bigint": (Kind.INTEGER, BACK, [(str(-(2**63)), str(-(2**63)), -(2**63))]),
    "oid": (Kind.INTEGER, BACK, [("4294967295", "4294967295", 4294967295)]),
    "numeric": (
        Kind.DECIMAL,
        BACK,
        [
            ("9" * 100 + ".10", "9" * 100 + ".10", ...),
            ("NaN", "NaN", "NaN"),
            ("-Infinity", "-Infinity", "-Infinity"),
            ("-0.00", "0.00", 0.0),
        ],
    ),
    "numeric(10,2)": (Kind.DECIMAL, BACK, [("3.1", "3.10", 3.1)]),
    "real": (Kind.FLOAT, BACK, [("0.1", "0.1", 0.1), ("NaN", "NaN", "NaN"), ("-0", "-0", ...)]),
    "double precision": (
        Kind.FLOAT,
        BACK,
        [
            ("0.30000000000000004", "0.30000000000000004", 0.30000000000000004),
            ("1e300", "1e+300", 1e300),
            ("Infinity", "Infinity", "Infinity"),
            ("-Infinity", "-Infinity", "-Infinity"),
            ("5e-324", "5e-324", 5e-324),
        ],
    ),
    "boolean": (Kind.BOOLEAN, BACK, [("t", "true", True), ("f", "false", False)]),
    "date": (
        Kind.TIME,
        BACK,
        [
            ("2024-02-29", "2024-02-29", Same),
            ("44-03-15 BC", "0044-03-15 BC", Same),
            ("infinity", "infinity", Same),
            ("-infinity", "-infinity", Same),
            ("10000-01-01", "10000-01-01", Same),
        ],
    ),
    "time": (Kind.TIME, BACK, [("03:04:05.6", "03:04:05.6", Same), ("24:00", "24:00:00", Same)]),
    "time with time zone": (Kind.TIME, BACK, [("03:04:05+02", "03:04:05+02", Same)]),
    "timestamp": (
        Kind.TIME,
        BACK,
        [
            ("2024-01-02 03:04:05.6", "2024-01-02T03:04:05.6", Same),
            ("44-03-15 12:00 BC", "0044-03-15T12:00:00 BC", Same),
            ("infinity", "infinity", Same),
            ("294276-12-31 23:59:59.999999", "294276-12-31T23:59:59.999999", Same),
        ],
    ),
    "timestamp with time zone": (
        Kind.TIME,
        BACK,
        [
            ("2024-01-02 03:04:05+02", "2024-01-02T01:04:05+00:00", Same),
            ("-infinity", "-infinity", Same),
            ("44-03-15 12:00:00+00 BC", "0044-03-15T12:00:00+00:00 BC", Same),
        ],
    ),
    "interval": (
        Kind.TIME,
        BACK,
        [
            ("1 year 2 months 3 days 04:05:06.7", "P1Y2M3DT4H5M6.7S", Same),
            ("-1 day +02:00", "P-1DT2H", Same),
            ("0", "PT0S", Same),
        ],
    ),
    "bytea": (Kind.BYTES, BACK, [(r"\x00ff", r"\x00ff", Same), ("", r"\x", Same)]),
    "json": (
        Kind.JSON,
        BACK,
        [
            ('{"a": 1,\n"b":"x\\ny,"}', '{"a": 1, "b":"x\\ny,"}', {"a": 1, "b": "x\ny,"}),
            ('"text"', '"text"', "text"),
            ("null", "null", ...),
        ],
    ),
    "jsonb": (
        Kind.JSON,
        BACK,
        [('{"b":1,"a":[null,true]}', '{"a": [null, true], "b": 1}', {"a": [None, True], "b": 1})],
    ),
    "text": (
        Kind.TEXT,
        BACK,
        [
            ("", "", Same),
            ('"quoted", and\r\nmore\\', '"quoted", and\r\nmore\\', Same),
            ("\x01\x1f\x7f\t日本語 👨‍👩‍👧", "\x01\x1f\x7f\t日本語 👨‍👩‍👧", Same),
            ("\\.", "\\.", Same),
            ("\\N", "\\N", Same),
            ("  blanks  ", "  blanks  ", Same),
        ],
    ),
    "varchar(20)": (Kind.TEXT, BACK, [("a,b", "a,b", Same), ("", "", Same)]),
    "char(5)": (Kind.TEXT, BACK, [("a,b", "a,b  ", Same)]),
    '"char"': (Kind.TEXT, BACK, [(",", ",", Same), ("", "", Same)]),
    "name": (Kind.TEXT, BACK, [('a"b', 'a"b', Same)]),
    "uuid": (Kind.TEXT, BACK, [("0" * 32, "00000000-0000-0000-0000-000000000000", Same)]),
    "inet": (Kind.TEXT, BACK, [("10.0.0.1", "10.0.0.1", Same), ("::1/64", "::1/64", Same)]),
    "cidr": (Kind.TEXT, BACK, [("10.1.0.0/16", "10.1.0.0/16", Same)]),
    "macaddr": (Kind.TEXT, BACK, [("08002b010203", "08:00:2b:01:02:03", Same)]),
    "macaddr8": (Kind.TEXT, BACK, [("08002b0102030405", "08:00:2b:01:02:03:04:05", Same)]),
    "money": (Kind.TEXT, BACK, [("-1234.5", "-$1,234.50", Same)]),
    "bit(3)": (Kind.TEXT, BACK, [("101", "101", Same)]),
    "bit varying": (Kind.TEXT, BACK, [("0011", "0011", Same), ("", "", Same)]),
    "tsvector": (Kind.TEXT, BACK, [("a:1 'b,c':2", "'a':1 'b,c':2", Same), ("", "", Same)]),
    "tsquery": (Kind.TEXT, BACK, [("a & b", "'a' & 'b'", Same)]),
    "pg_lsn": (Kind.TEXT, BACK, [("16/B374D848", "16/B374D848", Same)]),
    "xid": (Kind.TEXT, NOT_BACK, [("7", "7", Same)]),
    "xid8": (Kind.TEXT, BACK, [("7", "7", Same)]),
    "tid": (Kind.TEXT, BACK, [("(0,1)", "(0,1)", Same)]),
    "regclass": (Kind.TEXT, BACK, [("pg_class", "pg_class", Same)]),
    "jsonpath": (Kind.TEXT, NOT_BACK, [('$."a,b"', '$."a,b"', Same)]),
    "point": (Kind.TEXT, NOT_BACK, [("(1.5,2)", "(1.5,2)", Same)]),
    "line": (Kind.TEXT, NOT_BACK, [("{1,2,3}", "{1,2,3}", Same)]),
    "lseg": (Kind.TEXT, BACK, [("[(0,0),(1,1)]", "[(0,0),(1,1)]", Same)]),
    "box": (Kind.TEXT, BACK, [("(1,1),(0,0)", "(1,1),(0,0)", Same)]),
    "path": (Kind.TEXT, BACK, [("[(0,0),(1,1)]", "[(0,0),(1,1)]", Same)]),
    "polygon": (Kind.TEXT, NOT_BACK, [("((0,0),(1,1))", "((0,0),(1,1))", Same)]),
    "circle": (Kind.TEXT, BACK, [("<(0,0),1>", "<(0,0),1>", Same)]),
    "int4range": (Kind.TEXT, BACK, [("[1,4]", "[1,5)", Same), ("empty", "empty", Same)]),
    "numrange": (Kind.TEXT, BACK, [("(,2.5]", "(,2.5]", Same)]),
    "tstzrange": (
        Kind.TEXT,
        BACK,
        [("[2024-01-02 00:00+00,)", '["2024-01-02 00:00:00+00",)', Same)],
    ),
    "int8multirange": (Kind.TEXT, BACK, [("{[1,2),[3,4)}", "{[1,2),[3,4)}", Same)]),
    "integer[]": (
        Kind.JSON,
        NOT_BACK,
        [("{1,NULL,3}", "[1,null,3]", [1, None, 3]), ("{}", "[]", [])],
    ),
    "text[]": (
        Kind.JSON,
        NOT_BACK,
        [('{{"a,b","c\nd"},{"\\"",NULL}}', ..., [["a,b", "c\nd"], ['"', None]])],
    ),
    "json[]": (Kind.JSON, NOT_BACK, [('{"{\\"a\\":\n1}"}', '[{"a": 1}]', [{"a": 1}])]),
    "double precision[]": (Kind.JSON, NOT_BACK, [("{NaN,1}", '["NaN",1]', ["NaN", 1])]),
    "timestamp[]": (Kind.JSON, NOT_BACK, [("{2024-01-02}", ..., ["2024-01-02T00:00:00"])]),
    "int2vector": (Kind.JSON, NOT_BACK, [("1 2", "[1,2]", [1, 2])]),
    "mood": (Kind.TEXT, BACK, [("so, so", "so, so", Same), ("ok", "ok", Same)]),
    "mood[]": (Kind.JSON, NOT_BACK, [('{ok,"so, so"}', '["ok","so, so"]', ["ok", "so, so"])]),
    "positive": (Kind.INTEGER, BACK, [("7", "7", 7)]),
    "very_positive": (Kind.INTEGER, BACK, [("8", "8", 8)]),
    "numbers": (Kind.JSON, NOT_BACK, [("{1}", "[1]", [1])]),
    "pair": (
        Kind.JSON,
        NOT_BACK,
        [
            ('(1,"a ""b""")', '{"x":1,"y":"a \\"b\\""}', {"x": 1, "y": 'a "b"'}),
            ("(,)", ..., {"x": None, "y": None}),
        ],
    ),
    "pair[]": (Kind.JSON, NOT_BACK, [('{"(1,a)"}', '[{"x":1,"y":"a"}]', [{"x": 1, "y": "a"}])]),
    "floats": (Kind.TEXT, BACK, [("[1.5,2)", "[1.5,2)", Same)]),
}
MADE = """
CREATE TYPE mood AS ENUM ('ok', 'so, so');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN very_positive AS positive CHECK (VALUE > 5);
CREATE DOMAIN numbers AS integer[];
CREATE TYPE pair AS (x integer, y text);
CREATE TYPE floats AS RANGE (subtype = float8);
"""


@pytest.fixture
async def every_type(postgres: Postgres) -> AsyncIterator[Weir]:
    """A table for each type, its values behind an integer key, with NULL and without."""
    with postgres.database() as url:
        async with weir(url) as engine:
            await engine.sql.execute(MADE)
            script = []
            for number, (type_, (_, _, values)) in enumerate(TYPES.items()):
                rows = [f"({at}, {typed(text, type_)})" for at, (text, _, _) in enumerate(values)]
                script += [
                    f"CREATE TABLE t{number} (id integer PRIMARY KEY, v {type_}, w {type_})",
                    f"CREATE TABLE s{number} (id integer PRIMARY KEY, v {type_} NOT NULL)",
                    f"INSERT INTO t{number} (id, v) VALUES {', '.join(rows)}",
                    f"INSERT INTO s{number} (id, v) VALUES {', '.join(rows)}",
                ]
            await engine.sql.execute("; ".join(script))
            yield engine


async def test_each_type_is_written_as_the_catalogue_says(every_type: Weir) -> None:
    """Every type has its kind, and in both formats its text, NULL apart from the empty string."""
    relations = await every_type.relations()
    for number, (type_, (kind, _, values)) in enumerate(TYPES.items()):
        assert relations[f"t{number}"].column("v").kind is kind, type_
        for table in (f"t{number}", f"s{number}"):
            body = (await every_type.lines(await every_type.query(table))).decode()
            rows = list(csv.reader(io.StringIO(body, newline="")))
            body = (await every_type.lines(await every_type.query(table, Format.NDJSON))).decode()
            assert body.count("\n") == len(values)
            objects = [json.loads(line) for line in body.splitlines()]
            assert len(rows) == len(objects) == len(values), type_
            for row, found, (given, cell, member) in zip(rows, objects, values, strict=True):
                if cell is not ...:
                    assert row[1] == cell, (type_, given)
                if member is not ...:
                    assert found["v"] == (cell if member is None else member), (type_, given)
                    assert type(found["v"]) is type(cell if member is None else member), type_
                assert row[2:] == [""] * (table[0] == "t"), type_
                assert found.get("w") is None, type_


async def test_csv_reads_back_through_copy(every_type: Weir) -> None:
    """What COPY FROM makes of the CSV is what was there, also with a word for NULL of one's own."""
    for number, (type_, (_, back, _)) in enumerate(TYPES.items()):
        for null in ("", "0", "NULL") if back else ():
            body = await every_type.lines(await every_type.query(f"t{number}", null=null))
            await every_type.sql.execute(f"CREATE TEMPORARY TABLE b (LIKE t{number})")
            await every_type.sql.copy_to_table(
                "b", source=io.BytesIO(body), format="csv", null=null
            )
            different = await every_type.sql.fetch(
                f"SELECT t.v, b.v FROM t{number} t FULL JOIN b USING (id)"
                " WHERE (t.v::text, t.w::text) IS DISTINCT FROM (b.v::text, b.w::text)"
                if type_ != "json"
                else f"SELECT t.v, b.v FROM t{number} t FULL JOIN b USING (id)"
                " WHERE t.v::jsonb IS DISTINCT FROM b.v::jsonb"
            )
            await every_type.sql.execute("DROP TABLE b")
            assert not different, (type_, null)


async def test_digits_are_all_there(every_type: Weir) -> None:
    """A number of a hundred digits stands in JSON with all of them, in quotes when asked."""
    number = list(TYPES).index("numeric")
    query = await every_type.query(f"s{number}", Format.NDJSON)
    assert b'"v":' + b"9" * 100 + b".10}" in await every_type.lines(query)
    query = await every_type.query(f"s{number}", Format.NDJSON, numbers_as_strings=True)
    assert b'{"id":"0","v":"' + b"9" * 100 + b'.10"}' in await every_type.lines(query)
    assert b'"v":"NaN"' in await every_type.lines(query)


async def test_ndjson_reads_back_through_jsonb(every_type: Weir) -> None:
    """PostgreSQL itself takes each line for JSON with the same columns."""
    lines = []
    for number in range(len(TYPES)):
        body = await every_type.lines(await every_type.query(f"t{number}", Format.NDJSON))
        lines += [line for line in body.decode().split("\n")[:-1] if "\\u0000" not in line]
    keys = "ARRAY(SELECT jsonb_object_keys(line::jsonb))"
    found = await every_type.sql.fetch(
        f"SELECT DISTINCT {keys} FROM unnest($1::text[]) line", lines
    )
    assert [sorted(keys) for (keys,) in found] == [["id", "v", "w"]]
