"""What fails after the first byte breaks the transfer, and curl says so."""

import asyncio
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from service.engines import Reader
from service.errors import StoreError
from service.logs import LINES
from service.tasks.generate import tasks
from service.tasks.model import NewTask
from tests.conftest import AUTHORIZATION, Logged, Process, StartProcess, StartService, faults
from tests.databases import EVERY_STORE, POSTGRESQL_ALONE, SQLITE_ALONE, Database, SQLite

pytestmark = EVERY_STORE

EXPORT = "/tasks/export.csv"
TABLE = list(tasks(50_000, seed=6))
HEADER = "Authorization: " + AUTHORIZATION["Authorization"]


def wait_for_log(process: Process, text: str) -> None:
    """Return once the log has this text; polled, as it is a file of another process."""
    for _ in range(400):
        if text in process.log:
            return
        try:
            process.popen.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"{text!r} is not in the log:\n{process.log}")


def curl(service_url: str, path: str = EXPORT, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["curl", "--silent", "--max-time", "60", "-H", HEADER, *flags, service_url + path],
        capture_output=True,
        check=False,
    )


def slow_curl(service: Process, rate: str, *flags: str) -> subprocess.Popen[bytes]:
    """A download that has begun and takes its time, into the file that `downloaded` names."""
    command = ["curl", "-s", "--limit-rate", rate, "-H", HEADER, "-o", str(downloaded(service))]
    download = subprocess.Popen([*command, *flags, service.url + EXPORT])
    wait_for_log(service, "stream started")
    return download


def downloaded(service: Process) -> Path:
    return service.log_file.with_name("downloaded.csv")


BROKEN = {18, 56}
"""curl's exit codes for a transfer that ended early: partial file, and receive error."""


def assert_broken(
    service: Process, download: subprocess.Popen[bytes], outcome: str = "failed"
) -> None:
    """The download is known to be incomplete, and the log says why in so many words."""
    assert download.wait(60) in BROKEN
    wait_for_log(service, f"outcome={outcome}")
    assert "Traceback" not in service.log


async def test_a_row_over_the_limit_breaks_the_transfer(
    start: StartService, database: Database
) -> None:
    """A row that is too long ends the stream visibly, after the rows before it."""
    service = await start(TABLE)
    await database.lengthen(40_000, "x" * 40_000)
    result = await asyncio.to_thread(curl, service.url)
    assert result.returncode in BROKEN
    assert b"x" * 100 not in result.stdout
    assert b"HTTP/1.1" not in result.stdout
    first = await asyncio.to_thread(curl, service.url, EXPORT + "?after=39999", "--include")
    assert b"500 Internal Server Error" in first.stdout
    assert b"the key 40000" in first.stdout


async def test_a_fault_in_the_store_breaks_the_transfer(
    start: StartService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the store raises in mid-stream, known or not, curl does not call it complete."""
    service = await start(TABLE)
    real = database.reader.read
    for fault in (StoreError("the disk is gone"), RuntimeError("a bug")):

        async def fail_later(
            self: Reader, query: Any, ranges: Any, left: Any, fault: Exception = fault
        ) -> Any:
            if ranges[0].after and ranges[0].after[0] > 20_000:
                raise fault
            return await real(self, query, ranges, left)

        monkeypatch.setattr(database.reader, "read", fail_later)
        result = await asyncio.to_thread(curl, service.url)
        assert result.returncode in BROKEN
        assert b"the disk" not in result.stdout
        assert b"HTTP/1.1" not in result.stdout
    assert await service.outcomes() == {"failed": 2}


@SQLITE_ALONE
def test_an_unreadable_file_breaks_the_transfer(spawn: StartProcess, database: SQLite) -> None:
    """A database file that is overwritten in mid-stream ends the stream visibly, and is logged."""
    asyncio.run(database.fill([NewTask("x" * 1_900, 1, "pending")] * 10_000))
    service = spawn("--read-ahead-bytes", "0")
    slow = slow_curl(service, "4M")
    with database.path.open("r+b") as file:
        file.write(b"\xff" * database.path.stat().st_size)
    assert_broken(service, slow)


def test_a_table_that_is_taken_away_breaks_the_transfer(
    spawn: StartProcess, database: Database
) -> None:
    """A table that is renamed in mid-stream ends the stream visibly, and is logged."""
    asyncio.run(database.fill(TABLE))
    service = spawn("--read-ahead-bytes", "0")
    slow = slow_curl(service, "1M")
    asyncio.run(database.execute("ALTER TABLE task RENAME TO taken"))
    assert_broken(service, slow)


@POSTGRESQL_ALONE
def test_a_database_that_is_dropped_breaks_the_transfer(
    spawn: StartProcess, database: Database
) -> None:
    """A stream whose database stays away for --reconnect-timeout ends visibly, and is logged."""
    asyncio.run(database.fill(TABLE))
    service = spawn("--read-ahead-bytes", "0", "--reconnect-timeout", "0.5")
    slow = slow_curl(service, "1M")
    asyncio.run(database.vanish())
    assert_broken(service, slow)


@POSTGRESQL_ALONE
async def test_connections_that_the_server_ends_break_no_transfer(
    start: StartService, database: Database
) -> None:
    """A stream whose connections are terminated goes on with new ones, and so does the next."""
    service = await start(TABLE, read_ahead_bytes=0, reconnect_timeout=5)
    expected = await service.get(EXPORT)
    for _ in range(8):
        async with service.client.get(service.url + EXPORT) as response:
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'weir'"
            )
            assert await response.read() == expected
    assert await service.outcomes() == {"complete": 9}


def test_sigterm_breaks_what_is_left_and_exits_0(spawn: StartProcess, database: Database) -> None:
    """After SIGTERM a slow download is cut off visibly within the grace, and the code is 0."""
    # More than the kernel takes for a client that reads slowly: else it may have all of it by then.
    asyncio.run(database.fill(tasks(200_000, seed=6)))
    service = spawn("--grace", "0.5")
    slow = slow_curl(service, "200k")
    assert service.stop() == 0
    assert_broken(service, slow, "shutdown")


def test_sigterm_lets_a_stream_finish(spawn: StartProcess, database: Database) -> None:
    """A download that ends within the grace ends whole, though SIGTERM came in its middle."""
    asyncio.run(database.fill(TABLE))
    service = spawn("--grace", "30")
    download = slow_curl(service, "2M")
    service.popen.send_signal(signal.SIGTERM)
    assert download.wait(60) == 0
    assert downloaded(service).read_bytes().count(b"\n") > len(TABLE)
    assert service.popen.wait(30) == 0


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
def test_a_killed_service_leaves_no_whole_file(
    spawn: StartProcess, database: Database, version: str
) -> None:
    """kill -9 in mid-stream breaks the transfer visibly, even where no chunk tells its end."""
    asyncio.run(database.fill(TABLE))
    service = spawn()
    slow = slow_curl(service, "300k", version)
    service.stop(signal.SIGKILL)
    assert slow.wait(60) in BROKEN


async def test_nothing_is_stored_in_a_database_that_is_gone(
    start: StartService, database: Database, logged: Logged
) -> None:
    """Once the database is deleted no write is answered 2xx, and `/readyz` says 503: what is
    wrong stands in the log, and no client is told where the database was."""
    service = await start(TABLE[:10], reconnect_timeout=0.5)
    await database.vanish()
    task = {"title": "lost", "priority": 1}
    async with service.client.post(service.url + "/tasks", json=task) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        told = await answer.text()
    async with service.client.get(service.url + "/readyz") as answer:
        assert answer.status == 503
        told += await answer.text()
    place = urlsplit(database.url)
    assert not [name for name in (place.path, str(place.port), database.gone) if name in told]
    assert {route for route, _ in faults(logged)} == {"/tasks", "/readyz"}
    assert all(database.gone in reason for _, reason in faults(logged))


async def test_slow_uploads_do_not_lock_out_a_task(start: StartService) -> None:
    """While slow bodies take every place that there is, a single task is stored at once."""
    service = await start(max_writes=2, body_timeout=60)
    head = (
        f"POST /tasks HTTP/1.1\r\nHost: localhost\r\n{HEADER}\r\nContent-Type: application/json\r\n"
        "Content-Length: 2000000\r\n\r\n["
    ).encode()
    slow = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(8)]
    for _, writer in slow:
        writer.write(head)
        await writer.drain()
    await service.get("/tasks")  # by now the service has seen the heads that came before
    task = {"title": "quick", "priority": 1}
    async with asyncio.timeout(20), service.client.post(service.url + "/tasks", json=task) as done:
        assert done.status == 201
    for _, writer in slow:
        writer.close()


async def test_a_body_that_is_no_chunk_logs_no_traceback(
    start: StartService, capfd: pytest.CaptureFixture[str]
) -> None:
    """A body that is not what its head says is the client's fault: told at once, and not logged."""
    service = await start()
    head = (
        f"POST /tasks HTTP/1.1\r\nHost: localhost\r\n{HEADER}\r\nContent-Type: application/json\r\n"
        "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(head)
    async with asyncio.timeout(20):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"zz\r\n")
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"bad_request"' in answer
    await service.get("/tasks")
    await asyncio.to_thread(LINES.drain)
    assert "Traceback" not in "".join(capfd.readouterr())
