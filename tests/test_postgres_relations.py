"""The catalogue of a stranger's database: which relations there are, and what orders each."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.engines.postgres.catalogue import PostgresCatalogue
from service.engines.postgres.statements import IDENTITY
from service.errors import InvalidError
from service.query import Format
from service.relation import Key
from tests.postgres import Postgres
from tests.relations import Weir, weir

READER = "stranger"


@pytest.fixture
async def engine(postgres: Postgres) -> AsyncIterator[Weir]:
    """The engine on an empty database."""
    with postgres.database() as url:
        async with weir(url) as made:
            yield made


async def test_kinds_of_relations(engine: Weir) -> None:
    """Tables of each kind are found, with what orders them or what would."""
    await engine.sql.execute(
        """
        CREATE SCHEMA sales;
        CREATE TABLE orders (id bigint PRIMARY KEY, note text, gone int);
        ALTER TABLE orders DROP COLUMN gone;
        CREATE TABLE sales.orders (id int, part int, PRIMARY KEY (part, id));
        CREATE TABLE sales.other (id int);
        CREATE TABLE measured (at date, v int, PRIMARY KEY (at)) PARTITION BY RANGE (at);
        CREATE TABLE measured_1 PARTITION OF measured
            FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE TABLE measured_2 PARTITION OF measured
            FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        INSERT INTO measured VALUES ('2024-03-01', 1), ('2025-03-01', 2);
        CREATE VIEW seen AS SELECT * FROM orders;
        CREATE MATERIALIZED VIEW kept AS SELECT * FROM orders;
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child () INHERITS (parent);
        CREATE FOREIGN DATA WRAPPER nothing;
        CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
        CREATE FOREIGN TABLE abroad (id int NOT NULL) SERVER nowhere;
        CREATE TEMPORARY TABLE passing (id int PRIMARY KEY);
        ANALYZE;
        """
    )
    found = await engine.relations()
    assert {address: relation.kind for address, relation in found.items()} == {
        "abroad": "foreign table",
        "child": "table",
        "kept": "materialised view",
        "measured": "partitioned table",
        "orders": "table",
        "parent": "table",
        "public.measured_1": "table",
        "public.measured_2": "table",
        "sales.orders": "table",
        "sales.other": "table",
        "seen": "view",
    }
    assert found["orders"].names == ("id", "note")
    assert found["orders"].key == Key(("id",), "primary key")
    assert found["sales.orders"].key == Key(("part", "id"), "primary key")
    assert found["measured"].rows == 2
    assert found["seen"].rows is None
    for address in ("seen", "kept", "abroad", "parent", "sales.other"):
        assert found[address].key is None
        assert f"--key {address}=COLUMN" in found[address].no_key
    assert "unique index on NOT NULL columns" in found["sales.other"].no_key
    assert found["abroad"].column("id").nullable
    assert await engine.lines(await engine.query("measured")) == b"2024-03-01,1\n2025-03-01,2\n"


KEYLESS = [
    "CREATE UNIQUE INDEX ON t (maybe)",
    "CREATE INDEX ON t (a)",
    "CREATE UNIQUE INDEX ON t (a) WHERE a > 0",
    "CREATE UNIQUE INDEX ON t ((a + 1))",
    "ALTER TABLE t ADD UNIQUE (a) DEFERRABLE",
    "CREATE UNIQUE INDEX ON t (a DESC, b)",
    "CREATE UNIQUE INDEX ON t (c text_pattern_ops)",
    "CREATE UNIQUE INDEX ON t (a, b, c, d, e, f)",
    "ALTER TABLE t DROP CONSTRAINT checked, ADD CONSTRAINT late NOT NULL late NOT VALID;"
    "CREATE UNIQUE INDEX ON t (late)",
]
KEYED = [
    ("ALTER TABLE t ADD PRIMARY KEY (b, a)", ("b", "a")),
    ("CREATE UNIQUE INDEX ON t (a) INCLUDE (f)", ("a",)),
    ("CREATE UNIQUE INDEX ON t (a DESC, b DESC)", ("a", "b")),
    ("CREATE UNIQUE INDEX ON t (a, b); CREATE UNIQUE INDEX ON t (c)", ("c",)),
    ("CREATE UNIQUE INDEX ON t (c); CREATE UNIQUE INDEX ON t (b)", ("b",)),
    ('CREATE UNIQUE INDEX ON t (c COLLATE "pg_unicode_fast")', ("c",)),
]
TABLE = """CREATE TABLE t (a int NOT NULL, b int NOT NULL, c text NOT NULL, d int NOT NULL,
    e int NOT NULL, f int NOT NULL, maybe int, late int, CONSTRAINT checked CHECK (true));"""


@pytest.mark.parametrize("index", KEYLESS)
async def test_what_makes_no_key(engine: Weir, index: str) -> None:
    """An index that does not tell every row from every other, in its order, is no key."""
    await engine.sql.execute(TABLE + index)
    assert (await engine.relations())["t"].key is None


@pytest.mark.parametrize(("index", "key"), KEYED)
async def test_what_makes_a_key(engine: Weir, index: str, key: tuple[str, ...]) -> None:
    """A unique index over NOT NULL columns does, the shortest of them; and it is read."""
    await engine.sql.execute(TABLE + index)
    await engine.sql.execute(
        "INSERT INTO t SELECT i, i, chr(100 - i % 50) || i, i, i, i, i, i"
        " FROM generate_series(1, 99) i; ANALYZE t"
    )
    found = (await engine.relations())["t"]
    assert found.key is not None
    assert found.key.columns == key
    order = ", ".join('c COLLATE "pg_unicode_fast"' if part == "c" else part for part in key)
    if "COLLATE" not in index:
        order = ", ".join(key)
    rows = await engine.sql.fetch(f"SELECT a FROM t ORDER BY {order}")
    expected = "".join(f"{a}\n" for (a,) in rows).encode()
    assert await engine.lines(await engine.query("t", columns=("a",))) == expected


async def test_a_person_says_what_the_key_is(engine: Weir) -> None:
    """A view streams by the columns that --key names, as long as none of them is NULL."""
    await engine.sql.execute(
        "CREATE VIEW v AS SELECT i % 7 AS a, i AS b FROM generate_series(1, 300) i"
    )
    keys = {"v": ("a", "b")}
    rows = await engine.sql.fetch("SELECT a, b FROM v ORDER BY a, b")
    lines = "".join(f"{a},{b}\n" for a, b in rows).encode()
    assert await engine.lines(await engine.query("v", keys=keys)) == lines
    await engine.sql.execute("CREATE OR REPLACE VIEW v AS SELECT 1 AS a, NULL::int AS b")
    with pytest.raises(Exception, match="a column of its key is NULL"):
        await engine.lines(await engine.query("v", keys=keys))


HOSTILE = (
    "plain",
    'a "quoted" one',
    "it's; DROP TABLE task; --",
    "comma, and\nline",
    "select",
    "日本語 {0} %s $1 \\ E'",
    "{}",
    "t",
    "r.a0",
    "a0",
    "u0",
    "c0",
    "k0",
    "fence",
    "plain.x",
    "tested",
)


async def test_any_name_of_table_and_column(engine: Weir) -> None:
    """Names with quotes, blanks, SQL words or our own aliases are names, and nothing else."""
    quoted = [name.replace('"', '""') for name in HOSTILE]
    columns = ", ".join(f'"{name}" int NOT NULL' for name in quoted)
    for name in quoted:
        await engine.sql.execute(
            f'CREATE SCHEMA "s {name}"; CREATE TABLE "s {name}"."{name}" ({columns},'
            f' PRIMARY KEY ("{name}"))'
        )
        await engine.sql.execute(
            f'INSERT INTO "s {name}"."{name}" SELECT {", ".join("i" for _ in HOSTILE)}'
            " FROM generate_series(1, 100) i"
        )
    for name in HOSTILE:
        address = f"s {name}.{name}"
        csv = "".join(",".join([str(i)] * len(HOSTILE)) + "\n" for i in range(1, 101))
        assert await engine.lines(await engine.query(address)) == csv.encode()
        body = await engine.lines(await engine.query(address, Format.NDJSON))
        keys = await engine.sql.fetchval(
            "SELECT array_agg(key ORDER BY at) FROM json_object_keys($1::text::json)"
            " WITH ORDINALITY AS k (key, at)",
            body.decode().split("\n")[0],
        )
        assert tuple(keys) == HOSTILE


async def test_two_tables_never_have_one_address(engine: Weir) -> None:
    """A table whose name has a dot in it leaves the other one an address, too."""
    await engine.sql.execute(
        'CREATE SCHEMA a; CREATE TABLE "a.b" (id int PRIMARY KEY);'
        "CREATE TABLE a.b (other int PRIMARY KEY)"
    )
    found = await engine.relations()
    assert found["a.b"].names == ("id",)
    assert found['"a"."b"'].names == ("other",)


async def test_a_user_who_may_only_select(postgres: Postgres) -> None:
    """Only what the user may SELECT is there, column by column, and it streams."""
    with postgres.database() as url:
        async with weir(url) as owner:
            await owner.sql.execute(
                f"""
                DO $$ BEGIN CREATE ROLE {READER} LOGIN PASSWORD 'weir-secret';
                EXCEPTION WHEN duplicate_object THEN NULL; END $$;
                CREATE TABLE open (id int PRIMARY KEY, v text); GRANT SELECT ON open TO {READER};
                CREATE TABLE shut (id int PRIMARY KEY);
                CREATE TABLE half (id int PRIMARY KEY, v int, w int);
                GRANT SELECT (id, w) ON half TO {READER};
                CREATE TABLE keyless (id int PRIMARY KEY, v int);
                GRANT SELECT (v) ON keyless TO {READER};
                CREATE SCHEMA hidden; CREATE TABLE hidden.t (id int PRIMARY KEY);
                GRANT SELECT ON hidden.t TO {READER};
                INSERT INTO open VALUES (1, 'x'); INSERT INTO half VALUES (1, 2, 3);
                """
            )
            async with weir(url, user=READER) as stranger:
                found = await stranger.relations()
                assert sorted(found) == ["half", "keyless", "open"]
                assert found["half"].names == ("id", "w")
                assert "may not SELECT its key" in found["keyless"].no_key
                assert await stranger.lines(await stranger.query("open")) == b"1,x\n"
                assert await stranger.lines(await stranger.query("half")) == b"1,3\n"
                async with stranger.alone.server.connection() as connection:
                    assert await connection.fetchval(IDENTITY)
            await owner.sql.execute(f"DROP OWNED BY {READER}; DROP ROLE {READER}")


async def test_a_thousand_columns(engine: Weir) -> None:
    """A thousand columns of several types are a line like any other."""
    types = ("int NOT NULL", "text NOT NULL", "text", "int", "timestamp", "jsonb")
    columns = [f"c{n} {types[n % len(types)]}" for n in range(999)]
    texts = ("7", "'a,b'", "NULL", "NULL", "'2024-01-02'", "'[1]'")
    values = [texts[n % len(texts)] for n in range(999)]
    await engine.sql.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {', '.join(columns)})")
    for i in (1, 2):
        await engine.sql.execute(f"INSERT INTO wide VALUES ({i}, {', '.join(values)})")
    cells = ("7", '"a,b"', "", "", "2024-01-02T00:00:00", "[1]")
    line = ",".join(cells[n % len(cells)] for n in range(999))
    query = await engine.query("wide")
    assert await engine.lines(query) == f"1,{line}\n2,{line}\n".encode()
    body = await engine.lines(await engine.query("wide", Format.NDJSON))
    found = await engine.sql.fetchval(
        "SELECT count(*) FROM jsonb_object_keys($1::text::jsonb)", body.decode().split("\n")[1]
    )
    assert found == 1000


async def test_a_thousand_tables_are_one_statement(engine: Weir) -> None:
    """The catalogue is read once for all tables and all callers, and again when it has changed."""
    await engine.sql.execute(
        "DO $$ BEGIN FOR i IN 1..1000 LOOP"
        " EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, a text, b int[])', i);"
        " END LOOP; END $$"
    )
    asked = []

    class Counting:
        async def read(self, work: Any, *, primary: bool = False) -> Any:
            asked.append(work)
            return await engine.alone.read(work)

    catalogue = PostgresCatalogue(Counting())
    first, second = await asyncio.gather(catalogue.relations(), catalogue.relations())
    assert len(first) == 1000
    assert len(asked) == 1
    assert all(second[address] is relation for address, relation in first.items())
    await engine.sql.execute("ALTER TABLE t7 ADD c int")
    catalogue.forget()
    third = await catalogue.relations()
    assert third["t7"].names == ("id", "a", "b", "c")
    assert third["t8"] is first["t8"]


async def test_an_invalid_after_names_the_key(engine: Weir) -> None:
    """Too many parts, or a part that is no value of its type, is said before anything is read."""
    await engine.sql.execute("CREATE TABLE t (a int, b date, PRIMARY KEY (a, b))")
    for after in (("1",), ("1", "2024-01-01", "x"), ("x", "2024-01-01"), ("1", "'"), ("1", "\0")):
        with pytest.raises(InvalidError) as fault:
            await engine.reader.start(await engine.query("t", after=after))
        assert fault.value.code == "invalid_parameter"
        assert fault.value.errors[0]["at"] == "after"
    start = await engine.reader.start(await engine.query("t", after=("01", "1 May 2024")))
    assert start.after == ("1", "2024-05-01")
