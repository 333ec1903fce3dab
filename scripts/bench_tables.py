"""Measurements on tables that Weir did not make: every kind of key, wide rows, long rows, a filter
that finds one row. Each beside the engine's own shell on the same rows, in one run, in turn."""

import asyncio
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from statistics import median
from threading import Event, Thread
from typing import Any, NamedTuple

import apsw
import asyncpg
from bench_frame import Bench, Found, Goal, stall, steady
from bench_servers import Server, fetch, run, time_to_body, to_nowhere
from postgres_cluster import binaries, make_cluster
from rich.table import Table

from service.tasks.generate import tasks

LONG_TEXT = 100_000
"""Characters in each row of the table of long texts."""
COLUMNS = 40
"""Of the wide table: 300 bytes a row or so."""
STALLED = 1_000
RATE_OF = {"spread", "random", "text", "uuid", "pair"}
"""Tables whose rate is compared with that of dense ids."""
FIRST_MILLISECONDS, BESIDE_MILLISECONDS = 10, 50
"""Targets for a first byte: on an idle service, and beside a filter that finds nothing."""


class Kind(NamedTuple):
    """A table: how its key is declared and made, and the key's columns.

    columns and values are SQL; in values `n` counts from 1, `t` is the row of the tasks that all
    tables are made of. share: of the rows that are made; long rows are fewer.
    """

    name: str
    declared: str
    values: str
    key: str
    rest: str = "title text, priority int, status text"
    rest_values: str = "t.title, t.priority, t.status"
    share: float = 1.0


def kinds(sqlite: bool) -> list[Kind]:
    """The tables, in the words of an engine."""
    if sqlite:
        hexadecimal = "printf('%08x%08x', (n * 2654435761) % 4294967296, n)"
        text = f"{hexadecimal} || 'abcd'"
        uuid = f"{hexadecimal} || '-0000-4000-8000'"
        random = "((n * 2654435761) % 4294967296) * 2000000000 + n"
        wide = [
            f"iif({at} % 4 = 0, n + {at}, iif({at} % 4 = 1, n / 3.0, 't' || n))"
            for at in range(COLUMNS - 1)
        ]
        long = f"printf('%.*c', {LONG_TEXT}, 'x')"
        text_key, uuid_key = "text PRIMARY KEY NOT NULL", "text PRIMARY KEY NOT NULL"
    else:
        text = "substr(md5(n::text), 1, 20)"
        uuid = "md5(n::text)::uuid"
        random = "('x' || substr(md5(n::text), 1, 16))::bit(64)::bigint & 9223372036854775807"
        wide = [
            f"CASE {at} % 4 WHEN 0 THEN (n + {at})::text WHEN 1 THEN (n / 3.0)::text"
            " ELSE 't' || n END"
            for at in range(COLUMNS - 1)
        ]
        long = f"repeat('x', {LONG_TEXT})"
        text_key, uuid_key = "text PRIMARY KEY", "uuid PRIMARY KEY"
    names = [f"c{at}" for at in range(COLUMNS - 1)]
    pair = "WITHOUT ROWID" if sqlite else ""
    return [
        Kind(
            "dense", "id bigint PRIMARY KEY" if not sqlite else "id integer PRIMARY KEY", "n", "id"
        ),
        Kind("spread", _integer(sqlite), "n * 100000", "id"),
        Kind("random", _integer(sqlite), random, "id"),
        Kind("text", f"id {text_key}", text, "id"),
        Kind("uuid", f"id {uuid_key}", uuid, "id"),
        Kind(
            "pair",
            "a text NOT NULL, id bigint NOT NULL",
            "'group ' || (n % 1000), n",
            "a, id",
            rest=f"title text, priority int, status text, PRIMARY KEY (a, id)|{pair}",
        ),
        Kind(
            "wide",
            _integer(sqlite),
            "n",
            "id",
            rest=", ".join(f"{name} {'' if sqlite else 'text'}" for name in names),
            rest_values=", ".join(wide),
        ),
        Kind("long", _integer(sqlite), "n", "id", rest="body text", rest_values=long, share=0.0005),
    ]


def _integer(sqlite: bool) -> str:
    return "id integer PRIMARY KEY" if sqlite else "id bigint PRIMARY KEY"


def create(kind: Kind, source: str) -> list[str]:
    """The statements that make a table and fill it; source: SQL of rows with n and t."""
    rest, _, options = kind.rest.partition("|")
    return [
        f"CREATE TABLE {kind.name} ({kind.declared}, {rest}) {options}",
        f"INSERT INTO {kind.name} SELECT {kind.values}, {kind.rest_values} FROM {source}",
    ]


class Engine(NamedTuple):
    """One engine: the service's address of its database, and its shell's command for a query."""

    name: str
    url: str
    shell: Callable[[str], list[str]]
    targets: dict[str, float]


def sqlite_engine(bench: Bench) -> Engine:
    """A file of strangers' tables, made at its first use."""
    rows = bench.sizes.rows
    path = bench.folder / f"strangers-{rows}.db"
    if not path.exists():
        bench.say(f"making tables of {rows:,} rows in SQLite")
        unfinished = path.with_suffix(".part")
        unfinished.unlink(missing_ok=True)
        with closing(apsw.Connection(str(unfinished))) as connection:
            connection.execute("PRAGMA journal_mode = off; PRAGMA synchronous = off")
            connection.execute(
                "CREATE TEMP TABLE t (n INTEGER PRIMARY KEY, title, priority, status)"
            )
            connection.executemany(
                "INSERT INTO t VALUES (NULL, ?, ?, ?)",
                (tuple(task) for task in tasks(rows, seed=1)),
            )
            for kind in kinds(sqlite=True):
                for statement in create(kind, f"t WHERE n <= {max(20, int(rows * kind.share))}"):
                    connection.execute(statement)
        unfinished.rename(path)

    def shell(query: str) -> list[str]:
        return [str(shutil.which("sqlite3")), "-csv", "-header", str(path), query]

    targets = {"dense": 1.6, "wide": 1.2}
    return Engine("SQLite", f"sqlite:///{path}", shell, targets)


async def fill_postgres(url: str, rows: int) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE TEMP TABLE t (n bigint, title text, priority int, status text)"
    )
    await connection.copy_records_to_table(
        "t", records=((n, *task) for n, task in enumerate(tasks(rows, seed=1), 1))
    )
    for kind in kinds(sqlite=False):
        for statement in create(kind, f"t WHERE n <= {max(20, int(rows * kind.share))}"):
            await connection.execute(statement)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def tables(bench: Bench) -> Found:
    """8. Strangers' tables, on both engines."""
    table = Table("", "seconds", "shell", "ratio", "of dense", "target", "", title="any table")
    outcome: dict[str, Any] = {}
    if shutil.which("sqlite3"):
        outcome["SQLite"] = measure(bench, sqlite_engine(bench), table)
    cluster = make_cluster("-c", "shared_buffers=1GB", "-c", "max_wal_size=4GB")
    try:
        bench.say(f"making tables of {bench.sizes.rows:,} rows in PostgreSQL")
        asyncio.run(fill_postgres(cluster.url(), bench.sizes.rows))
        psql = [str(binaries() / "psql"), "-X", "-d", cluster.url(), "-c"]

        def shell(query: str) -> list[str]:
            return [*psql, f"\\copy ({query}) TO STDOUT (FORMAT csv, HEADER)"]

        targets = {"dense": 1.0, "wide": 0.9}
        engine = Engine("PostgreSQL", cluster.url(), shell, targets)
        outcome["PostgreSQL"] = measure(bench, engine, table)
    finally:
        cluster.remove()
    return table, outcome


def measure(bench: Bench, engine: Engine, table: Table) -> dict[str, Any]:
    """Each table's export beside the shell's, then what else is promised of every table."""
    found: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, int] = {}
    every = kinds(sqlite=engine.name == "SQLite")
    with bench.weir(bench.sizes.rows, "--database", engine.url) as server:
        for number in range(bench.sizes.rounds + 1):
            bench.say(f"{engine.name}, round {number} of {bench.sizes.rounds}")
            for kind in every:
                ours, printed = run(fetch(server, f"/{kind.name}/export.csv"))
                theirs = to_nowhere(engine.shell(f"SELECT * FROM {kind.name} ORDER BY {kind.key}"))
                sizes[kind.name] = int(printed.split()[0])
                if number:
                    each = found.setdefault(kind.name, {"Weir": [], "shell": []})
                    each["Weir"].append(ours)
                    each["shell"].append(theirs)
        dense = median(found["dense"]["Weir"])
        dense_rate = sizes["dense"] / dense
        for kind in every:
            ours, theirs = (median(found[kind.name][who]) for who in ("Weir", "shell"))
            of_dense, goal = dense / ours, None
            if kind.name in engine.targets:
                target = engine.targets[kind.name]
                goal = Goal(
                    f"{engine.name} {kind.name}, of the shell",
                    theirs / ours,
                    target,
                    "x",
                    at_least=True,
                )
            elif kind.name == "long":
                of_dense = sizes["long"] / ours / dense_rate
                goal = Goal(
                    f"{engine.name} rows of 100 KB, MB/s of dense",
                    of_dense,
                    1.0,
                    "x",
                    at_least=True,
                )
            elif kind.name in RATE_OF:
                target = 0.8 if kind.name in ("spread", "random") else 0.6
                goal = Goal(
                    f"{engine.name} {kind.name}, of dense", of_dense, target, "x", at_least=True
                )
            mark = bench.judge(goal) if goal else ""
            shown = f">= {goal.target} x" if goal else ""
            cells = (f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.2f} x", f"{of_dense:.2f} x")
            table.add_row(f"{engine.name} {kind.name}", *cells, shown, mark)
        more = filtered(bench, engine, server, table) | first_bytes(bench, engine, every, server)
    more["stalled_kib"] = stalled(bench, engine, every)
    return {"seconds": found, "bytes": sizes} | more


def filtered(bench: Bench, engine: Engine, server: Server, table: Table) -> dict[str, Any]:
    """A filter that finds one row of all, and another client's first byte meanwhile."""
    path = "/dense/export.csv?title=no%20such%20title"
    query = "SELECT * FROM dense WHERE title = 'no such title' ORDER BY id"
    ours, theirs, beside = [], [], []
    for _ in range(bench.sizes.rounds):
        done = Event()

        def look(done: Event = done) -> None:
            while not done.is_set():
                beside.append(time_to_body(server, "/spread/export.csv?limit=1") * 1000)

        watcher = Thread(target=look)
        ours.append(run(fetch(server, path))[0])
        theirs.append(to_nowhere(engine.shell(query)))
        watcher.start()
        run(fetch(server, path))
        done.set()
        watcher.join()
    ratio, waits = median(theirs) / median(ours), max(beside)
    mark = bench.judge(Goal(f"{engine.name} filter, of the shell", ratio, 0.5, "x", at_least=True))
    cells = (f"{median(ours):.2f}", f"{median(theirs):.2f}", f"{ratio:.2f} x", "", ">= 0.5 x", mark)
    table.add_row(f"{engine.name} a filter that finds nothing", *cells)
    goal = Goal(
        f"{engine.name} first byte beside it, median", median(beside), BESIDE_MILLISECONDS, "ms"
    )
    bench.judge(goal)
    return {"filter": {"Weir": ours, "shell": theirs, "beside_ms": beside, "worst_ms": waits}}


def first_bytes(bench: Bench, engine: Engine, every: list[Kind], server: Server) -> dict[str, Any]:
    """The first byte of each kind of key, on an idle service."""
    found = {}
    for kind in every:
        path = f"/{kind.name}/export.csv"
        each = [time_to_body(server, path) * 1000 for _ in range(bench.sizes.first_bytes)]
        found[kind.name] = median(each)
    worst = max(found, key=lambda name: found[name])
    goal = Goal(
        f"{engine.name} first byte, slowest kind ({worst})", found[worst], FIRST_MILLISECONDS, "ms"
    )
    bench.judge(goal)
    return {"first_byte_ms": found}


def stalled(bench: Bench, engine: Engine, every: list[Kind]) -> dict[str, float]:
    """KiB that each of many stalled readers costs, table by table, each on a service of its own."""
    found = {}
    readers = min(STALLED, bench.sizes.beside)
    for kind in every:
        path = f"/{kind.name}/export.csv"
        with bench.weir(bench.sizes.rows, "--database", engine.url) as server:
            with stall(server, bench.sizes.warm_up, path=path):
                pass
            before = bench.settled(server)
            with stall(server, readers, path=path):
                process, kernel = steady(server)
            found[kind.name] = (process - before + kernel) / readers / 1024
    short = {name: kib for name, kib in found.items() if name != "long"}
    worst = max(short, key=lambda name: short[name])
    bench.judge(Goal(f"{engine.name} KiB a stalled reader ({worst})", short[worst], 40, "KiB"))
    bench.say(json.dumps({name: round(kib, 1) for name, kib in found.items()}))
    return found
