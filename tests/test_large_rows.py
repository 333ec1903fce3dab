"""Rows longer than a page: whole, and paid for out of one budget that all streams share."""

import asyncio
import csv
import io
import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress

import pytest

from service.settings import KIB, MIB
from service.tasks.generate import tasks
from service.tasks.model import NewTask
from simulator.fleet_process import Asking, FleetProcess
from simulator.probe import memory
from tests.conftest import (
    AUTHORIZATION_LINE,
    Process,
    Running,
    StartProcess,
    StartService,
    small_reader,
)
from tests.databases import EVERY_STORE, SQLITE_ALONE, Database, SQLite
from tests.test_hostile import read_to_the_end, wait_for_streams

pytestmark = EVERY_STORE

CSV, NDJSON = "/tasks/export.csv", "/tasks/stream.ndjson"
LONG = 900_000
"""Characters in a long title: far more than a page, and than a stalled reader's kernel takes."""
LARGE = {"row_bytes": "2MiB", "large_row_bytes": "8MiB"}
"""Settings under which four rows may be held at a time, all streams together."""
READERS = 60


async def lengthened(database: Database, task_ids: Sequence[int]) -> None:
    """Give these tasks long titles, each its own."""
    for task_id in task_ids:
        await database.lengthen(task_id, f'{task_id} "' + "é" * (LONG // 2))


async def titles(service: Running, path: str) -> list[str]:
    """The titles of an export, by the parser of its format."""
    body = (await service.get(path)).decode()
    if path == CSV:
        csv.field_size_limit(2 * LONG)
        return [row["title"] for row in csv.DictReader(io.StringIO(body))]
    return [json.loads(line)["title"] for line in body.splitlines()]


@pytest.mark.parametrize("path", [CSV, NDJSON])
async def test_long_rows_come_out_whole(start: StartService, database: Database, path: str) -> None:
    """Rows of nearly a megabyte, first, last, alone and next to each other, are all delivered."""
    made = list(tasks(300, seed=3))
    service = await start(made, **LARGE)
    long = (1, 100, 101, 102, 200, 300)
    await lengthened(database, long)
    expected = [
        f'{number} "' + "é" * (LONG // 2) if number in long else task.title
        for number, task in enumerate(made, 1)
    ]
    assert await titles(service, path) == expected


async def test_a_list_has_a_long_row_alone(start: StartService, database: Database) -> None:
    """A task longer than a page is read as a list of one, and by itself."""
    service = await start(list(tasks(3, seed=3)), **LARGE)
    await lengthened(database, [2])
    page = json.loads(await service.get("/tasks", after=1))
    assert [task["id"] for task in page["tasks"]] == ["2"]
    assert page["next"] == "2"
    assert len(json.loads(await service.get("/tasks/2"))["title"]) > LONG // 2
    assert [task["id"] for task in json.loads(await service.get("/tasks"))["tasks"]] == ["1"]


async def test_whoever_holds_on_gives_way(start: StartService, database: Database) -> None:
    """A stalled reader of a long row is evicted when another waits for its memory, not before."""
    service = await start(
        [NewTask("short", 1, "pending")] * 3,
        row_bytes="2MiB",
        large_row_bytes="2MiB",
        large_row_timeout=0.3,
    )
    await lengthened(database, [2, 3])
    with small_reader(service.port) as stalled:
        await wait_for_streams(service, 1)
        assert len(await titles(service, CSV)) == 3  # has to wait, and gets it
        with pytest.raises(ConnectionResetError):
            await read_to_the_end(stalled)
    assert await service.outcomes() == {"stalled": 1, "complete": 1}


async def test_a_reader_that_waits_for_memory_may_leave(
    start: StartService, database: Database
) -> None:
    """Clients that go while they wait, or while they hold a row, leave the memory to the others."""
    service = await start(
        [NewTask("short", 1, "pending")] * 2,
        row_bytes="2MiB",
        large_row_bytes="2MiB",
        large_row_timeout=3_600,
    )
    await lengthened(database, [2])
    with small_reader(service.port):
        await wait_for_streams(service, 1)
        with small_reader(service.port), small_reader(service.port):
            await wait_for_streams(service, 3)
    await wait_for_streams(service, 0)
    assert len(await titles(service, CSV)) == 2
    assert await service.outcomes() == {"gone": 3, "complete": 1}


def assert_costs(service: Process, most: float) -> None:
    """READERS that stop reading cost no more process memory than `most` bytes, once it settles.

    What their start took is given back within a second; it is looked at until then.
    """
    before = memory(service.popen.pid).private
    with FleetProcess(Asking(service.url + CSV, (AUTHORIZATION_LINE,))) as fleet:
        fleet.reach(READERS)
        for _ in range(100):
            held = memory(service.popen.pid).private - before
            if held < most:
                break
            with suppress(subprocess.TimeoutExpired):
                service.popen.wait(0.05)
        assert fleet.counts().standing == READERS
    assert held < most


@SQLITE_ALONE
def test_stalled_readers_of_long_rows_are_bounded(spawn: StartProcess, database: SQLite) -> None:
    """Any number of readers stopped in rows of 900 KB hold no more than the bound says."""
    asyncio.run(database.fill(tasks(60, seed=3)))
    asyncio.run(lengthened(database, range(1, 61)))
    service = spawn("--row-bytes", "1MiB", "--large-row-bytes", "8MiB", "--large-row-timeout", "60")
    reading = 2 * 4 * MIB  # two threads, which have a row in hand four times
    assert_costs(service, 8 * MIB + reading + READERS * 64 * KIB)


@SQLITE_ALONE
def test_fast_readers_of_long_rows_are_bounded(spawn: StartProcess, database: SQLite) -> None:
    """With pages of 1 KiB, rows of 12 KB are read ahead no further than all streams may."""
    asyncio.run(database.fill([NewTask("\x01" * 2_000, 1, "pending")] * 3_000))
    limits = ("--read-ahead-bytes", "2MiB", "--large-row-bytes", "1MiB")
    service = spawn("--page-bytes", "1KiB", *limits)
    before = memory(service.popen.pid).private
    command = ["curl", "-s", "-o", "/dev/null", "-H", AUTHORIZATION_LINE, service.url + NDJSON]
    downloads = [subprocess.Popen(command) for _ in range(6)]
    highest = 0
    while any(download.poll() is None for download in downloads):
        highest = max(highest, memory(service.popen.pid).private - before)
    assert [download.returncode for download in downloads] == [0] * 6
    reading, caches = 2 * 4 * 32 * KIB, 2 * 2 * MIB  # of two threads, and of SQLite
    assert highest < 3 * MIB + reading + caches + 6 * 64 * KIB
