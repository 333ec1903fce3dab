"""Measurements on PostgreSQL, on a server that is started for them, and of several workers."""

import asyncio
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import aiohttp
from bench_frame import Bench, Found, Goal
from bench_memory import one_stalled
from bench_servers import AUTHORIZATION, CSV, NDJSON, QUERY, Server, fetch, run, to_nowhere
from postgres_cluster import binaries, make_cluster
from rich.table import Table

from service.tasks.generate import tasks

ROWS_A_POST = 1_000
POSTS_AT_ONCE = 4
DOWNLOADS_AT_ONCE = 8
"""So many that the kernel gives each worker some; with two, both may go to one."""
WORKERS = 2


@contextmanager
def filled(bench: Bench) -> Iterator[tuple[str, float]]:
    """A PostgreSQL server with the table, as it comes but for its cache, and what filling took."""
    cluster = make_cluster("-c", "shared_buffers=1GB", "-c", "fsync=on", "-c", "max_wal_size=4GB")
    try:
        bench.say(f"generating {bench.sizes.rows:,} tasks in PostgreSQL")
        command = [sys.executable, "-m", "service", "generate", "--rows", str(bench.sizes.rows)]
        seconds, _ = run([*command, "--database", cluster.url()])
        cluster.execute("VACUUM ANALYZE task")
        yield cluster.url(), seconds
    finally:
        cluster.remove()


def postgresql(bench: Bench) -> Found:
    """6. Whole exports out of PostgreSQL beside psql's own, in turn; then filling, and stalling."""
    rows, found = bench.sizes.rows, dict[str, dict[str, list[float]]]()
    with filled(bench) as (url, filling):
        psql = [str(binaries() / "psql"), "-X", "-d", url, "-c"]
        lines = f"SELECT row_to_json(line) FROM ({QUERY}) line"
        dumps = {
            "CSV": (CSV, f"\\copy ({QUERY}) TO STDOUT (FORMAT csv, HEADER)"),
            "NDJSON": (NDJSON, f"\\copy ({lines}) TO STDOUT"),
        }
        with bench.weir(rows, "--database", url) as server:
            for number in range(bench.sizes.rounds + 1):
                bench.say(f"round {number} of {bench.sizes.rounds}" if number else "warming up")
                for form, (path, dump) in dumps.items():
                    ours, theirs = run(fetch(server, path))[0], to_nowhere([*psql, dump])
                    if number:
                        each = found.setdefault(form, {"Weir": [], "psql": []})
                        each["Weir"].append(ours)
                        each["psql"].append(theirs)
            posting = posted(server, bench.sizes.posted)
        readers = bench.sizes.beside * 5
        bench.say(f"{readers:,} stalled readers on PostgreSQL, then on SQLite")
        stalled = {
            "PostgreSQL": one_stalled(bench, readers, 4096, 0, "--database", url),
            "SQLite": one_stalled(bench, readers, 4096, 0),
        }
    table = Table("", "seen", "beside", "ratio", "target", "", title=f"PostgreSQL, {rows:,} rows")
    ratios = {}
    for form, target in (("CSV", 1.0), ("NDJSON", 1.3)):
        ours, theirs = median(found[form]["Weir"]), median(found[form]["psql"])
        ratio = ratios[form] = theirs / ours
        mark = bench.judge(Goal(f"{form} beside psql", ratio, target, "x", at_least=True))
        cells = (f"{ours:.2f} s", f"psql {theirs:.2f} s", f"{ratio:.2f} x", f">= {target} x", mark)
        table.add_row(form, *cells)
    mark = bench.judge(
        Goal("generate into PostgreSQL", filling * 3_000_000 / rows, 30, "s for 3 M")
    )
    table.add_row("generate", f"{filling:.1f} s", f"{rows / filling:,.0f} rows/s", "", "", mark)
    mark = bench.judge(Goal("POST into PostgreSQL", posting * 3_000_000, 30, "s for 3 M"))
    table.add_row("POST, 1,000 each", "", f"{1 / posting:,.0f} rows/s", "", "", mark)
    ours, theirs = (stalled[name]["kib_each"] for name in ("PostgreSQL", "SQLite"))
    mark = bench.judge(Goal("KiB a stalled reader, of SQLite's", ours / theirs, 1.05, "x"))
    cells = (f"{ours:.1f} KiB", f"SQLite {theirs:.1f} KiB", f"{ours / theirs:.2f} x", "", mark)
    table.add_row(f"{readers:,} stalled", *cells)
    return table, {
        "rows": rows,
        "seconds": found,
        "weir_is_faster_by": ratios,
        "generate_seconds": filling,
        "post_rows_per_second": 1 / posting,
        "stalled": stalled,
    }


def posted(server: Server, rows: int) -> float:
    """Seconds a row of arrays of 1,000 tasks, a few requests at a time."""
    made = [task._asdict() for task in tasks(ROWS_A_POST, seed=9)]
    body = json.dumps(made).encode()
    name, value = AUTHORIZATION.split(": ")
    headers = {name: value, "Content-Type": "application/json"}
    requests = iter(range(rows // ROWS_A_POST))

    async def post(client: aiohttp.ClientSession) -> None:
        for _ in requests:
            async with client.post(server.url + "/tasks", data=body) as response:
                await response.read()
                response.raise_for_status()

    async def all_of_them() -> None:
        async with aiohttp.ClientSession(headers=headers) as client:
            await asyncio.gather(*(post(client) for _ in range(POSTS_AT_ONCE)))

    start = perf_counter()
    asyncio.run(all_of_them())
    return (perf_counter() - start) / rows


def workers(bench: Bench) -> Found:
    """7. Several downloads at once, from one process and from two workers, in turn."""
    rows, found = bench.sizes.rows, dict[str, list[float]]()
    with bench.weir(rows) as one, bench.weir(rows, "--workers", str(WORKERS)) as two:
        for number in range(bench.sizes.rounds + 1):
            for name, server in (("one process", one), (f"{WORKERS} workers", two)):
                start = perf_counter()
                with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                    list(pool.map(run, [fetch(server, CSV)] * DOWNLOADS_AT_ONCE))
                if number:
                    found.setdefault(name, []).append(perf_counter() - start)
    title = f"{DOWNLOADS_AT_ONCE} downloads of {rows:,} rows at once, SQLite"
    table = Table("", "seconds", "rows/s", "of one", title=title)
    first = median(found["one process"])
    for name, seconds in found.items():
        half = median(seconds)
        rate = f"{DOWNLOADS_AT_ONCE * rows / half:,.0f}"
        table.add_row(name, f"{half:.2f}", rate, f"{first / half:.2f} x")
    return table, {"downloads": DOWNLOADS_AT_ONCE, "rows": rows, "seconds": found}
