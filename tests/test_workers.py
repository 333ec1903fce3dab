"""Several workers are one service: one set of limits, one count, and no death passes for an end."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import psutil
import pytest

from service.tasks.generate import tasks
from tests.conftest import (
    AUTHORIZATION,
    Process,
    StartProcess,
    request_bytes,
    small_reader,
    until,
)
from tests.databases import EVERY_STORE, SQLITE_ALONE, Database

WORKERS = 3
STREAMS = 7
EXPORT = "/tasks/export.csv"
TABLE = list(tasks(50_000, seed=8))
"""An export of 2.4 MB, far larger than what a reader that stops is sent."""

pytestmark = EVERY_STORE


@pytest.fixture
def client() -> Iterator[ExitStack]:
    """Keeps the sockets of a test's readers until its end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Asks over a new connection each time, so that any worker may answer."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, headers=AUTHORIZATION) as opened:
        yield opened


async def begin(spawn: StartProcess, database: Database, *flags: str) -> Process:
    """A service whose workers all serve: whoever comes earlier waits for the first of them."""
    await database.fill(TABLE)
    service = spawn("--workers", str(WORKERS), *flags)
    await until(lambda: "listening" in service.log)
    return service


def workers_of(service: Process) -> list[psutil.Process]:
    return psutil.Process(service.popen.pid).children()


def worker_of(service: Process, reader: socket.socket) -> psutil.Process:
    """The worker at the other end of a reader's connection."""
    port = reader.getsockname()[1]
    (found,) = [
        worker
        for worker in workers_of(service)
        if any(each.raddr and each.raddr.port == port for each in worker.net_connections("tcp"))
    ]
    return found


def ask_for_export(service: Process, client: ExitStack, last: bool = False) -> socket.socket:
    """A reader with a small window that has asked for the export; last: and wants nothing more."""
    made = client.enter_context(small_reader(service.port, request_bytes(EXPORT, last=last)))
    made.settimeout(20)
    return made


async def heads(readers: list[socket.socket]) -> list[int]:
    """The status that each reader is answered."""

    def status(reader: socket.socket) -> int:
        return int(reader.recv(12, socket.MSG_WAITALL)[9:])

    return list(await asyncio.gather(*(asyncio.to_thread(status, each) for each in readers)))


async def rest(reader: socket.socket) -> bytes:
    """All that still comes; raises ConnectionError when the connection is reset."""

    def read() -> bytes:
        found = b""
        while part := reader.recv(1 << 16):
            found += part
        return found

    return await asyncio.to_thread(read)


async def text_of(session: aiohttp.ClientSession, service: Process, path: str) -> str:
    async with session.get(service.url + path) as response:
        assert response.status == 200
        return await response.text()


async def gauge(session: aiohttp.ClientSession, service: Process, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = (await text_of(session, service, "/metrics")).splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{"))
    )


@pytest.mark.parametrize(
    ("flag", "status"), [("--max-streams", 503), ("--max-streams-per-token", 429)]
)
async def test_a_limit_holds_for_all_workers_together(
    database: Database, spawn: StartProcess, client: ExitStack, flag: str, status: int
) -> None:
    """Of many streams that are asked for at once, as many as the limit start, not one more."""
    service = await begin(spawn, database, flag, str(STREAMS))
    readers = [ask_for_export(service, client) for _ in range(4 * STREAMS)]
    answers = await heads(readers)
    assert sorted(answers) == [200] * STREAMS + [status] * (3 * STREAMS)
    asked = {worker_of(service, reader).pid for reader in readers}
    assert len(asked) > 1  # or one worker's own limit would have done


async def test_any_worker_tells_of_all_streams(
    database: Database, spawn: StartProcess, client: ExitStack, session: aiohttp.ClientSession
) -> None:
    """`/streams` and `/metrics` say the same whichever worker is asked."""
    service = await begin(spawn, database)
    readers = [ask_for_export(service, client) for _ in range(STREAMS)]
    assert await heads(readers) == [200] * STREAMS
    for _ in range(4 * WORKERS):
        streams = json.loads(await text_of(session, service, "/streams"))["streams"]
        assert len({stream["id"] for stream in streams}) == len(streams) == STREAMS
        assert await gauge(session, service, "weir_streams") == STREAMS
        assert await gauge(session, service, "weir_workers") == WORKERS
    for reader in readers:
        reader.close()
    for _ in range(200):
        if await gauge(session, service, "weir_streams_ended_total") == STREAMS:
            break
    assert await gauge(session, service, "weir_streams_ended_total") == STREAMS
    assert await gauge(session, service, "weir_streams") == 0


async def test_a_worker_that_dies_is_replaced(
    database: Database, spawn: StartProcess, client: ExitStack, session: aiohttp.ClientSession
) -> None:
    """A killed worker's transfers break, the others' go on, and its share of the limit is free."""
    service = await begin(spawn, database, "--max-streams", str(STREAMS))
    whole = len(await text_of(session, service, EXPORT))
    readers = [ask_for_export(service, client, last=True) for _ in range(STREAMS)]
    assert await heads(readers) == [200] * STREAMS
    places = {reader: worker_of(service, reader) for reader in readers}
    victim = places[readers[0]]
    before = {worker.pid for worker in workers_of(service)}
    victim.kill()
    for reader, worker in places.items():
        if worker == victim:
            with pytest.raises(ConnectionError):
                await rest(reader)
        else:
            assert (await rest(reader)).endswith(b"\r\n0\r\n\r\n")
    await until(lambda: f"exit_code=-{signal.SIGKILL:d}" in service.log)
    await until(lambda: len(workers_of(service)) == WORKERS)
    assert {worker.pid for worker in workers_of(service)} != before
    # Those who come in the meantime wait until the new one is there.
    for _ in range(4 * WORKERS):
        assert len(await text_of(session, service, EXPORT)) == whole
    again = [ask_for_export(service, client) for _ in range(2 * STREAMS)]
    assert sorted(await heads(again)) == [200] * STREAMS + [503] * STREAMS
    assert await gauge(session, service, "weir_workers") == WORKERS


async def test_workers_shut_down_together(
    database: Database, spawn: StartProcess, client: ExitStack, session: aiohttp.ClientSession
) -> None:
    """After SIGTERM nobody new comes in, streams break after the grace, the exit code is 0."""
    service = await begin(spawn, database, "--grace", "1")
    readers = [ask_for_export(service, client) for _ in range(STREAMS)]
    assert await heads(readers) == [200] * STREAMS
    workers = workers_of(service)
    service.popen.send_signal(signal.SIGTERM)
    await until(lambda: "shutting down" in service.log)
    assert await asyncio.to_thread(service.popen.wait, 30) == 0
    for reader in readers:
        with pytest.raises(ConnectionError):
            await rest(reader)
    assert not any(worker.is_running() for worker in workers)
    assert "Traceback" not in service.log
    with pytest.raises(aiohttp.ClientConnectionError):
        await text_of(session, service, "/healthz")


async def test_workers_do_not_outlive_the_service(
    database: Database,
    spawn: StartProcess,
    client: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the process that watches over them is killed, workers end after their grace, the
    streams with them, visibly; and they leave no file behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    service = await begin(spawn, database, "--grace", "1")
    workers = workers_of(service)
    assert len(workers) == WORKERS
    assert len(folders(tmp_path)) == 1
    reader = ask_for_export(service, client)  # of one worker: the others end before it
    assert await heads([reader]) == [200]
    service.popen.kill()
    await until(lambda: not any(is_alive(worker) for worker in workers))
    with pytest.raises(ConnectionError):
        await rest(reader)
    assert not folders(tmp_path)
    assert "Traceback" not in service.log


def folders(parent: Path) -> list[Path]:
    """Where the workers of a service meet."""
    return list(parent.glob("weir-*"))


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@SQLITE_ALONE
async def test_a_port_is_not_shared_with_another_service(
    database: Database, spawn: StartProcess
) -> None:
    """A second service on the same port is refused, though the kernel would let it share."""
    service = spawn("--workers", "2")
    command = [sys.executable, "-m", "service", f"--port={service.port}", "--workers=2"]
    second = await asyncio.create_subprocess_exec(
        *command, f"--database={database.url}", stderr=asyncio.subprocess.PIPE
    )
    _, said = await second.communicate()
    assert second.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {service.port}" in said.decode()
