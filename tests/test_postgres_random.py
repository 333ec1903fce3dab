"""Random tables, with random rows in random types: what comes out reads back as what was there."""

import io
import json
from random import Random

import pytest

from service.engines.postgres.literals import identifier
from service.query import Format
from tests.postgres import Postgres
from tests.relations import weir

# For each type, SQL that makes a value of a number `i` and a random `r` between 0 and 1.
VALUES = {
    "smallint": "i % 30000",
    "bigint": "(r * 9e18)::bigint",
    "numeric": "(r * 1e20)::numeric / 7",
    "numeric(12,2)": "(r * 1e6)::numeric",
    "double precision": "CASE WHEN r < 0.1 THEN 'NaN' ELSE exp(r * 500) END",
    "boolean": "r < 0.5",
    "date": "'0001-01-01 BC'::date + (r * 2e6)::int",
    "timestamp": "'0020-01-01 BC'::timestamp + r * 4e10 * interval '1 microsecond 1 second'",
    "timestamptz": "to_timestamp(r * 1e11 - 6e10)",
    "interval": "(r * 1e6) * interval '1 second' - i * interval '1 month'",
    "bytea": "decode(md5(r::text), 'hex')",
    "uuid": "md5(r::text)::uuid",
    "text": "repeat(chr(1 + (r * 3000)::int), i % 4) || substr(E'a\"b,c\\n\\r\\\\d', 1 + i % 9)",
    "varchar(10)": "substr(md5(r::text), 1, i % 5)",
    "char(6)": "substr(',\"x', i % 5)",
    "jsonb": "jsonb_build_object('k', chr(1 + (r * 3000)::int), 'n', r)",
    "inet": "'10.0.0.0'::inet + i",
    "tsvector": "to_tsvector('simple', 'a b,c ' || i)",
    "int4range": "int4range(i, i + (r * 9)::int)",
    "mood": "CASE WHEN r < 0.5 THEN 'a, b'::mood ELSE '' END",
}
ORDERED = [type_ for type_ in VALUES if type_ not in ("double precision", "jsonb", "tsvector")]
NAMES = ("id", "Ä ö", 'quo"te', "a,b", "select", "x{}", "日本", "t", "c1", "k0", "%s", "tested")


@pytest.mark.parametrize("seed", range(12))
async def test_random_tables(postgres: Postgres, seed: int) -> None:
    """CSV reads back through COPY into the same rows; NDJSON has the same members as to_json."""
    random = Random(seed)
    names = random.sample(NAMES, random.randint(3, len(NAMES)))
    key = names[: random.randint(1, 2)]
    types = {name: random.choice(ORDERED if name in key else list(VALUES)) for name in names} | {
        names[0]: "bigint"
    }
    definitions, values = [], []
    for name in names:
        required = name in key or random.random() < 0.3
        definitions.append(f"{identifier(name)} {types[name]} {'NOT NULL' * required}")
        made = f"({VALUES[types[name]]})::{types[name]}"
        values.append(made if required else f"CASE WHEN random() > 0.2 THEN {made} END")
    quoted = [identifier(name) for name in key]
    with postgres.database() as url:
        async with weir(url) as engine:
            await engine.sql.execute(
                "CREATE TYPE mood AS ENUM ('', 'a, b');"
                f"CREATE TABLE t ({', '.join(definitions)}, PRIMARY KEY ({', '.join(quoted)}));"
                f"INSERT INTO t SELECT {', '.join(values)} FROM (SELECT i, random() AS r"
                " FROM generate_series(1, 400) i) AS g ON CONFLICT DO NOTHING;"
                "CREATE TABLE back (LIKE t)"
            )
            null = random.choice(["", "NULL", "0", "a b"])
            body = await engine.lines(await engine.query("t", null=null), random)
            await engine.sql.copy_to_table("back", source=io.BytesIO(body), format="csv", null=null)
            both = "SELECT count(*) FROM t", "SELECT count(*) FROM back"
            counts = [await engine.sql.fetchval(statement) for statement in both]
            assert counts[0] == counts[1]
            assert not await engine.sql.fetch(
                "SELECT ROW(a.*)::text FROM t AS a EXCEPT ALL SELECT ROW(b.*)::text FROM back AS b"
            )
            chosen = random.sample(names, random.randint(1, len(names)))
            query = await engine.query("t", Format.NDJSON, columns=tuple(chosen))
            lines = (await engine.lines(query, random)).decode().split("\n")[:-1]
            columns = ", ".join(map(identifier, chosen))
            rows = await engine.sql.fetch(
                f"SELECT to_json(x)::text FROM (SELECT {columns} FROM t"
                f" ORDER BY {', '.join(quoted)}) AS x"
            )
            assert [json.loads(line) for line in lines] == [json.loads(row) for (row,) in rows]
