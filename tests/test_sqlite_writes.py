"""Writes to an SQLite file beside another program's locks, and on a disk that is full."""

import asyncio
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import apsw
import pytest

from service.settings import MIB
from service.tasks import sqlite
from service.tasks.generate import tasks
from service.tasks.model import NewTask
from tests.conftest import AUTHORIZATION, Logged, Process, StartProcess, StartService, until
from tests.databases import SQLite

TASK = {"title": "x", "priority": 1}
MANY = [TASK | {"title": "x" * 1_900}] * 500
"""About a MiB of the log."""
LOG_BYTES = 8 * MIB
"""What the log is promised to stay below while no other program holds it up."""
DISK_BYTES = 6 * MIB
GROWS, STARTED_OVER = "write-ahead log grows: it cannot start over", "write-ahead log has started"


@asynccontextmanager
async def transaction(database: SQLite, *statements: str) -> AsyncIterator[None]:
    """Another program's transaction, open for as long as the context lasts."""
    connection = apsw.Connection(str(database.path))
    try:
        for statement in statements:
            connection.execute(statement).fetchall()
        yield
    finally:
        connection.close()


def said(logged: Logged, event: str) -> list[Any]:
    return [entry for entry in logged if entry["event"].startswith(event)]


async def test_another_program_s_reader_delays_no_write(
    start: StartService, database: SQLite, logged: Logged
) -> None:
    """While another program's read transaction is open, writes are answered at once and the log
    grows, which is said once; when it has ended the log starts over, and its disk is given back."""
    service = await start(list(tasks(100, seed=1)))

    async def write() -> None:
        async with service.client.post(service.url + "/tasks", json=MANY) as answer:
            assert answer.status == 201

    async with transaction(database, "BEGIN", "SELECT count(*) FROM task"):
        async with asyncio.timeout(20):
            for _ in range(14):
                await write()
        assert await asyncio.to_thread(database.log_bytes) > LOG_BYTES
        await until(lambda: said(logged, GROWS))
    (warning,) = said(logged, GROWS)
    assert warning["file"] == f"{database.path}-wal"
    assert warning["mib"] >= 7
    assert "another program" in warning["reason"]
    assert str(database.path) in warning["hint"]
    async with asyncio.timeout(20):
        while not said(logged, STARTED_OVER):
            await write()
        await write()
    assert await asyncio.to_thread(database.log_bytes) <= LOG_BYTES
    assert len(said(logged, GROWS)) == 1


async def test_writes_behind_a_lock_give_up_together(
    start: StartService, database: SQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six writes that wait for another program's lock get 503 after one time-out, not after six,
    and nothing of them is stored; the next one is, when the lock is gone."""
    monkeypatch.setattr(sqlite, "WRITE_SECONDS", 2)
    service = await start([NewTask("x", 1, "pending")])

    async def write(method: str, path: str, body: Any) -> tuple[int, str]:
        async with service.client.request(method, service.url + path, json=body) as answer:
            assert answer.headers["Retry-After"]
            return answer.status, (await answer.json())["code"]

    writes: list[tuple[str, str, Any]] = [("POST", "/tasks", TASK)] * 4
    writes += [("PATCH", "/tasks/1", {"title": "changed"}), ("DELETE", "/tasks/1", None)]
    async with transaction(database, "BEGIN IMMEDIATE"), asyncio.timeout(8):
        answers = await asyncio.gather(*(write(*each) for each in writes))
    assert answers == [(503, "store_unavailable")] * 6
    assert await database.execute("SELECT title, seq FROM task") == [("x", 1)]
    async with service.client.post(service.url + "/tasks", json=TASK) as answer:
        assert answer.status == 201
    assert await database.execute("SELECT id, seq FROM task") == [(1, 1), (2, 2)]


Room = Callable[[Process, int], Awaitable[None]]


@pytest.fixture(params=["limit", "disk"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    """Gives a service so many bytes for its files in the folder `disk`, and then more.

    Once by the limit of the length of a file, once by a file system of that size.
    """
    disk = tmp_path / "disk"
    disk.mkdir()

    async def limited(service: Process, size: int) -> None:
        _, hard = resource.prlimit(service.popen.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(service.popen.pid, resource.RLIMIT_FSIZE, (size, hard))

    async def mounted(service: Process, size: int) -> None:
        options = f"remount,size={2 * size}"  # two files: the database and its log
        remount = ["mount", "-o", options, str(disk)]
        await asyncio.to_thread(lambda: subprocess.run(remount, check=True))

    if request.param == "limit":
        yield limited
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root, where it may, can make a small disk")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


async def test_on_a_full_disk_nothing_is_stored_that_was_not_answered(
    spawn: StartProcess, room: Room, tmp_path: Path
) -> None:
    """What is answered 201 is stored once, and what is answered 503 is not, also when the log can
    no longer be put into the file; when there is room again, the service goes on."""
    database = SQLite(tmp_path / "disk" / "tasks.db")
    await database.fill([NewTask("x" * 1_900, 1, "pending")] * 2_800)
    service = await asyncio.to_thread(spawn, database=database)
    await room(service, DISK_BYTES)
    stored = 2_800

    async def check() -> None:
        assert await database.execute("SELECT count(*) FROM task") == [(stored,)]

    async with aiohttp.ClientSession(service.url, headers=AUTHORIZATION) as client:

        async def write(many: list[Any]) -> int:
            nonlocal stored
            async with client.post("/tasks", json=many) as answer:
                stored += len(many) * (answer.status == 201)
                assert answer.status == 201 or answer.headers["Retry-After"]
                return answer.status

        while await write(MANY) == 201:
            await check()
            assert stored < 20_000, "the disk is larger than it should be"
        assert await write(MANY) == 503
        await check()
        assert GROWS in service.log
        async with client.get("/tasks/export.csv") as answer:
            assert (await answer.read()).count(b"\n") == stored + 1
        await room(service, 10 * DISK_BYTES)
        for _ in range(8):
            assert await write(MANY) == 201
            await check()
    assert STARTED_OVER in service.log
    assert "Traceback" not in service.log
    assert await database.execute("PRAGMA integrity_check") == [("ok",)]
