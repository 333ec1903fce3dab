"""Reading a stranger's relations: filters, formats, roles, and what may go wrong in mid-stream."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random

import pytest

from service.engines.postgres import statements
from service.engines.postgres.server import _READING
from service.engines.postgres.servers import BehindError, TooSlowError
from service.engines.postgres.statements import POSITION
from service.engines.postgres.tables import RelationError
from service.errors import InvalidError, RowTooLargeError, StoreError
from service.query import Filter, Format, Query, Range
from tests.postgres import Cluster, Postgres
from tests.relations import Weir, weir, where

PEOPLE = """
CREATE TABLE people (id int PRIMARY KEY, name text, born date, size numeric, tags text[], doc json,
    pet varchar(3));
INSERT INTO people SELECT i, CASE WHEN i % 5 > 0 THEN 'n' || i % 5 END, '2000-01-01'::date + i,
    i / 4.0, ARRAY['x', i::text], '{}', 'cat' FROM generate_series(1, 200) i;
ANALYZE people;
"""


@pytest.fixture
async def engine(postgres: Postgres) -> AsyncIterator[Weir]:
    """The engine on a database with a table `people`."""
    with postgres.database() as url:
        async with weir(url, page_bytes=2048, row_bytes=100_000) as made:
            await made.sql.execute(PEOPLE)
            yield made


FILTERS = [
    (("name", "eq", "n1"), "name = 'n1'"),
    (("name", "ne", "n1"), "name <> 'n1'"),
    (("id", "lt", "100"), "id < 100"),
    (("id", "lte", "0100"), "id <= 100"),
    (("born", "gt", "2000-03-01"), "born > '2000-03-01'"),
    (("size", "gte", "12.50"), "size >= 12.5"),
    (("id", "in", "7", "9", "1000"), "id IN (7, 9)"),
    (("name", "null", "true"), "name IS NULL"),
    (("name", "null", "false"), "name IS NOT NULL"),
    (("tags", "eq", "{x,8}"), "id = 8"),
    (("pet", "eq", "cats"), "false"),
    (("name", "eq", "' OR true --"), "false"),
    (("name", "in", "n1", "\\' OR true) --"), "name = 'n1'"),
    (("name", "eq", "{0}%s$1"), "false"),
]


@pytest.mark.parametrize(("asked", "condition"), FILTERS, ids=[str(asked) for asked, _ in FILTERS])
async def test_each_operator(engine: Weir, asked: tuple[str, ...], condition: str) -> None:
    """A filter lets through what SQL would, whatever its value looks like; limit counts that."""
    rows = await engine.sql.fetch(f"SELECT id FROM people WHERE {condition} ORDER BY id")
    lines = [f"{id_}\n".encode() for (id_,) in rows]
    query = await engine.query("people", columns=("id",), filters=(where(*asked),))
    assert await engine.lines(query) == b"".join(lines)
    assert await engine.lines(replace(query, limit=3)) == b"".join(lines[:3])


async def test_filters_hold_together_and_need_not_be_shown(engine: Weir) -> None:
    """Several filters on columns that are not asked for."""
    filters = (where("name", "eq", "n2"), where("id", "gt", "50"), where("id", "lte", "60"))
    query = await engine.query("people", columns=("born",), filters=filters)
    assert await engine.lines(query) == b"2000-02-22\n2000-02-27\n"


@pytest.mark.parametrize(
    ("asked", "detail"),
    [
        (("id", "eq", "x"), "invalid input syntax"),
        (("id", "eq", "1; DROP TABLE people"), "invalid input syntax"),
        (("id", "in", "1", "99999999999"), "out of range"),
        (("born", "gt", "yesterday's"), "invalid input syntax"),
        (("doc", "eq", "{}"), "operator does not exist"),
        (("name", "eq", "a\0b"), "NUL"),
        (("name", "eq", "\ud800"), "surrogates"),
        (("name", "null", "maybe"), "neither true nor false"),
    ],
)
async def test_values_of_a_wrong_type(engine: Weir, asked: tuple[str, ...], detail: str) -> None:
    """A value that is none of its column's type is refused before anything is read, by name."""
    good = where("id", "gt", "0")
    with pytest.raises(InvalidError, match=detail) as fault:
        await engine.reader.start(await engine.query("people", filters=(good, where(*asked))))
    assert fault.value.code == "invalid_parameter"
    assert fault.value.errors[0]["at"] == f"{asked[0]}__{asked[1]}"


async def test_csv_quotes_only_where_it_must(engine: Weir) -> None:
    """Minimal quotes; NULL is nothing and the empty string is two quotes; a line for one column."""
    await engine.sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text NOT NULL, c jsonb);"
        r"""INSERT INTO t VALUES (1, NULL, '', NULL), (2, '', 'a b', '"x"'),
        (3, 'a"b', E'c\nd', '1'), (4, E'\r', ',', '[1, 2]'), (5, E'\\.', E'\t', 'null')"""
    )
    assert await engine.lines(await engine.query("t")) == (
        b'1,,"",\n2,"",a b,"""x"""\n3,"a""b","c\nd",1\n4,"\r",",","[1, 2]"\n5,\\.,\t,null\n'
    )
    only = await engine.query("t", columns=("a",))
    assert await engine.lines(only) == b'\n""\n"a""b"\n"\r"\n"\\."\n'
    null = await engine.query("t", columns=("a", "b"), null="a b")
    assert await engine.lines(null) == b'a b,""\n"","a b"\n"a""b","c\nd"\n"\r",","\n\\.,\t\n'


async def test_excel(engine: Weir) -> None:
    """Lines end in CRLF, and no cell of text starts like a formula."""
    texts = [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\ttab",
        "\rret",
        '=HYPERLINK("a,b")',
        "plain",
        "",
        "\uff1dx",
    ]
    await engine.sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text, n int, s char(4), e name)"
    )
    await engine.sql.executemany(
        "INSERT INTO t VALUES ($1, $2, -5, '=9', '@e')", list(enumerate(texts))
    )
    body = (await engine.lines(await engine.query("t", excel=True))).decode()
    assert body.count("\r\n") == len(texts)
    for row, text in zip(csv.reader(io.StringIO(body, newline="")), texts, strict=True):
        guarded = text if text in ("plain", "") else f"'{text}"
        assert row[1:] == [guarded, "-5", "'=9  ", "'@e"]


async def test_what_a_table_knows_of_its_texts(engine: Weir) -> None:
    """A relation's own condition spares the tests, and its key may be a string in JSON."""
    await engine.sql.execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, a text NOT NULL, odd boolean NOT NULL);"
        "INSERT INTO t VALUES (1, 'x', false), (2, 'a\"b', true), (3, 'c,d', false)"
    )
    query = await engine.query("t", columns=("id", "a"))
    known = replace(query.relation, plain={"csv": "NOT odd", "ndjson": "NOT odd"}, string_keys=True)
    told = replace(query, relation=known)
    assert await engine.lines(told) == b'1,x\n2,"a""b"\n3,c,d\n'
    told = replace(told, format=Format.NDJSON)
    assert await engine.lines(told) == (
        b'{"id":"1","a":"x"}\n{"id":"2","a":"a\\"b"}\n{"id":"3","a":"c,d"}\n'
    )


async def test_long_rows(engine: Weir) -> None:
    """A range longer than a page ends the list; a long row is read alone, a too long one named."""
    await engine.sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text);"
        "INSERT INTO t SELECT i, CASE i WHEN 5 THEN repeat('long, ', 9000) ELSE 'x' END"
        " FROM generate_series(1, 10) i"
    )
    query = await engine.query("t")
    ranges = [Range((str(i),), (str(i + 2),)) for i in range(0, 10, 2)]
    pages = await engine.reader.read(query, ranges, None)
    assert [page and bytes(page.data) for page in pages] == [b"1,x\n2,x\n", b"3,x\n4,x\n", None]
    page = await engine.reader.read_row(query, Range(("4",), ("5",)))
    assert bytes(page.data) == b'5,"' + b"long, " * 9000 + b'"\n'
    assert page.rows == 1
    await engine.sql.execute("UPDATE t SET a = repeat('x', 100000) WHERE id = 5")
    with pytest.raises(RowTooLargeError, match="row of t with the key 5 is longer than 100000"):
        await engine.reader.read_row(query, Range(("4",), ("5",)))


async def test_a_role_sees_what_it_may(engine: Weir) -> None:
    """Pages are read as the role, under row security; a revoked right ends the stream."""
    await engine.sql.execute(
        """
        DO $$ BEGIN CREATE ROLE "some one"; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        GRANT SELECT ON people TO "some one";
        ALTER TABLE people ENABLE ROW LEVEL SECURITY;
        CREATE POLICY few ON people FOR SELECT TO "some one" USING (id % 50 = 0);
        """
    )
    query = await engine.query("people", columns=("id",), role="some one")
    assert await engine.lines(query) == b"50\n100\n150\n200\n"
    assert (await engine.lines(replace(query, role=""))).count(b"\n") == 200
    ranges = await engine.reader.cut(replace(query, until=("200",)), None, 2, 9)
    await engine.sql.execute('REVOKE SELECT ON people FROM "some one"')
    with pytest.raises(RelationError, match="people: permission denied"):
        await engine.reader.read(query, ranges, None)
    assert (await engine.lines(replace(query, role=""))).count(b"\n") == 200
    await engine.sql.execute('DROP OWNED BY "some one"; DROP ROLE "some one"')


CHANGES = [
    ("DROP TABLE people", "does not exist"),
    ("ALTER TABLE people RENAME TO others", "does not exist"),
    ("ALTER TABLE people DROP COLUMN name", 'column .*name"? does not exist'),
    ("ALTER TABLE people RENAME name TO other", "does not exist"),
    ("ALTER TABLE people ALTER size TYPE text", "another type"),
    ("ALTER TABLE people DROP CONSTRAINT people_pkey", "key is gone"),
    ("ALTER TABLE people RENAME TO old; CREATE TABLE people (LIKE old INCLUDING ALL)", "made anew"),
]


@pytest.mark.parametrize(("change", "why"), CHANGES)
async def test_changes_in_mid_stream(engine: Weir, change: str, why: str) -> None:
    """A relation whose lines would no longer fit breaks at its next page, and says why."""
    query, ranges = await begun(engine)
    await engine.sql.execute(change)
    with pytest.raises(RelationError, match=f"people.*{why}"):
        await engine.reader.read(query, ranges[1:], None)
    if "another" not in why and "column" not in why and "name TO" not in change:
        sparse = replace(query, relation=replace(query.relation, rows=None))
        with pytest.raises(RelationError, match=f"people.*{why}"):
            await engine.reader.cut(sparse, ranges[0].until, 3, 3)


async def test_changes_that_do_not_matter(engine: Weir) -> None:
    """A new column, or an index made anew, leaves a stream as it was."""
    query, ranges = await begun(engine)
    await engine.sql.execute("ALTER TABLE people ADD more int DEFAULT 1")
    await engine.sql.execute("REINDEX TABLE CONCURRENTLY people")
    assert [page and page.rows for page in await engine.reader.read(query, ranges, None)] == [
        10
    ] * 5


async def begun(engine: Weir) -> tuple[Query, list[Range]]:
    """A query that has started, and its first ranges."""
    query = await engine.query("people")
    start = await engine.reader.start(query)
    query = replace(query, until=start.until, since=start.since)
    return query, await engine.reader.cut(query, None, 10, 5)


async def test_a_view_that_fails(engine: Weir) -> None:
    """A view whose function fails on some row breaks the stream there, with the reason."""
    await engine.sql.execute("CREATE VIEW v AS SELECT id, 1 / (id - 100) AS x FROM people")
    with pytest.raises(RelationError, match="v: division by zero"):
        await engine.lines(await engine.query("v", keys={"v": ("id",)}))


async def test_a_statement_that_takes_too_long(postgres: Postgres) -> None:
    """What is too slow is called off by the server, which is well, and may be tried again."""
    with postgres.database() as url:
        async with weir(url, statement_timeout=0.2) as engine:
            await engine.sql.execute(
                "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);"
                "CREATE VIEW v AS SELECT id, pg_sleep(60)::text AS x FROM t"
            )
            query = await engine.query("v", keys={"v": ("id",)})
            with pytest.raises(TooSlowError, match=r"v: canceling statement .* timeout"):
                await engine.reader.read(query, [Range(None, ("1",))], None)


async def test_a_server_that_is_behind(engine: Weir) -> None:
    """A server that has not come as far as the stream's start is told from one that fails."""
    query, ranges = await begun(engine)
    with pytest.raises(BehindError):
        await engine.reader.read(replace(query, since=query.since + 2**40), ranges, None)
    assert isinstance(BehindError("x"), StoreError)


async def test_a_relation_without_a_key(engine: Weir) -> None:
    """It is refused with what would make a key."""
    await engine.sql.execute("CREATE TABLE t (a int)")
    with pytest.raises(RelationError, match=r"t has no key: .* unique index on NOT NULL columns"):
        await engine.reader.start(await engine.query("t"))


async def test_nothing_is_left_open(engine: Weir) -> None:
    """After any fault the connections are idle, in no transaction, and nobody's but the user's."""
    query, ranges = await begun(engine)
    with pytest.raises(RelationError):
        await engine.reader.read(replace(query, role="nobody at all"), ranges, None)
    with pytest.raises(RelationError):
        await engine.reader.read(query, [Range(("x",), ("y",))], None)
    states = await engine.sql.fetch(
        "SELECT DISTINCT state, backend_xmin::text FROM pg_stat_activity"
        " WHERE application_name = 'weir' AND datname = current_database()"
    )
    assert [tuple(state) for state in states] == [("idle", None)]


async def test_what_exists_throughout_comes_once(engine: Weir) -> None:
    """While others insert and delete around the cursor, each row that stays comes exactly once."""
    await engine.sql.execute(
        "CREATE TABLE t (a text, b int, PRIMARY KEY (a, b));"
        "INSERT INTO t SELECT md5((i % 40)::text), i FROM generate_series(1, 2000) i"
    )
    query = await engine.query("t", Format.NDJSON)
    random, done = Random(3), asyncio.Event()

    async def disturb() -> None:
        while not done.is_set():
            await engine.sql.execute(
                "DELETE FROM t WHERE b % 3 = 0 AND random() < 0.02;"
                "INSERT INTO t SELECT md5(random()::text), 3 * (random() * 1e6)::int"
                " FROM generate_series(1, 20) ON CONFLICT DO NOTHING"
            )

    disturbing = asyncio.create_task(disturb())
    try:
        lines = (await engine.lines(query, random)).splitlines()
    finally:
        done.set()
        await disturbing
    seen = [json.loads(line)["b"] for line in lines]
    assert sorted(b for b in seen if b % 3) == [b for b in range(1, 2001) if b % 3]
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize(
    ("key", "filters"),
    [
        ("id", ()),
        ("name, id", ()),
        ("name, born, id", ()),
        ("id", (where("pet", "eq", "cat"),)),
        ("id", (where("born", "eq", "2000-05-01"), where("id", "gt", "3"))),
    ],
)
async def test_pages_come_along_the_index(
    engine: Weir, key: str, filters: tuple[Filter, ...]
) -> None:
    """Ranges and pages are read along the key's index, whatever others there are, with no sort."""
    await engine.sql.execute(
        "CREATE TABLE t AS SELECT * FROM people; UPDATE t SET name = 'n' WHERE name IS NULL;"
        f"ALTER TABLE t ADD PRIMARY KEY ({key}); CREATE INDEX other ON t (pet);"
        "CREATE INDEX another ON t (born); ANALYZE t"
    )
    query = await engine.query("t", filters=filters)
    start = await engine.reader.start(query)
    assert start.until is not None
    query = replace(query, until=start.until)
    ranges = await engine.reader.cut(query, None, 10, 5)
    relation = (await engine.relations())["t"]
    for name, value in _READING.items():
        await engine.sql.execute("SELECT set_config($1, $2, false)", name, value)
    for statement in (
        statements.start(relation, query, POSITION),
        statements.fences(relation, ranges[0].until, start.until, 10, 5),
        statements.pages(relation, query, ranges, None, 1000, position=POSITION),
    ):
        plan = "\n".join(row[0] for row in await engine.sql.fetch(f"EXPLAIN {statement}"))
        assert "t_pkey" in plan
        assert "Sort" not in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "other" not in plan, plan


async def test_a_replica_is_read_once_it_has_caught_up(cluster: Cluster) -> None:
    """A copy that has not replayed what the stream's start saw is not read; later it is."""
    replica = cluster.replica()
    async with weir(cluster.url()) as primary, weir(replica.url()) as copy:
        await primary.sql.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        query = await primary.query("t")
        await caught_up(primary, copy)
        assert await copy.sql.fetchval(statements.IDENTITY) == await primary.sql.fetchval(
            statements.IDENTITY
        )
        await copy.sql.execute("SELECT pg_wal_replay_pause()")
        await primary.sql.execute("INSERT INTO t VALUES (2)")
        start = await primary.reader.start(query)
        assert start.until == ("2",)
        query = replace(query, until=start.until, since=start.since)
        with pytest.raises(BehindError):
            await copy.reader.cut(query, None, 10, 10)
        with pytest.raises(BehindError):
            await copy.reader.read(query, [Range(None, ("2",))], None)
        await copy.sql.execute("SELECT pg_wal_replay_resume()")
        await caught_up(primary, copy)
        (page,) = await copy.reader.read(query, [Range(None, ("2",))], None)
        assert page is not None
        assert bytes(page.data) == b"1\n2\n"


async def caught_up(primary: Weir, copy: Weir) -> None:
    """Return once the copy has replayed all that the primary has written."""
    there = await primary.sql.fetchval(f"SELECT {statements.POSITION}")
    for _ in range(500):
        if await copy.sql.fetchval(f"SELECT {statements.POSITION}") >= there:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the replica has not caught up")
