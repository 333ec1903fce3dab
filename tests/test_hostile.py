"""Slow readers are served, stalled and hostile ones cost little and are soon gone."""

import asyncio
import json
import signal
import socket
import struct
from contextlib import ExitStack, suppress
from typing import Any
from urllib.request import urlopen

import apsw
import psutil
import pytest

from service.logs import LINES
from service.settings import KIB
from service.tasks.generate import tasks
from tests.conftest import (
    AUTHORIZATION_LINE,
    Running,
    StartProcess,
    StartService,
    request_bytes,
    small_reader,
)
from tests.databases import SQLite

EXPORT = "/tasks/export.csv"
TABLE = list(tasks(50_000, seed=5))
"""2 MB of CSV: more than the buffers of all readers below."""


async def live(service: Running) -> list[dict[str, Any]]:
    streams: list[dict[str, Any]] = json.loads(await service.get("/streams"))["streams"]
    return streams


async def wait_for_streams(service: Running, count: int) -> None:
    """Return once `count` streams are live and each has sent its first rows."""
    for _ in range(400):
        if [stream["rows"] > 0 for stream in await live(service)] == [True] * count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"there are not {count} streams: {await live(service)}")


async def read_to_the_end(connection: socket.socket) -> bytes:
    """All that is still to be read; ConnectionResetError when the peer reset."""
    loop, parts = asyncio.get_running_loop(), []
    async with asyncio.timeout(20):
        while part := await loop.sock_recv(connection, 64 * KIB):
            parts.append(part)
    return b"".join(parts)


async def test_a_stalled_reader_is_evicted_with_a_reset(start: StartService) -> None:
    """Nothing acknowledged for the stall timeout: the peer gets a reset, not a clean end."""
    service = await start(TABLE, stall_timeout=0.6)
    with small_reader(service.port) as connection:
        await wait_for_streams(service, 1)
        await wait_for_streams(service, 0)
        with pytest.raises(ConnectionResetError):
            await read_to_the_end(connection)
    assert await service.outcomes() == {"stalled": 1}


async def test_half_close_and_stall_is_freed_at_once(start: StartService) -> None:
    """A client that shuts its sending side and stops reading does not wait for a timeout."""
    service = await start(TABLE, stall_timeout=3_600)
    with small_reader(service.port) as connection:
        await wait_for_streams(service, 1)
        connection.shutdown(socket.SHUT_WR)
        await wait_for_streams(service, 0)
    assert await service.outcomes() == {"gone": 1}


async def test_a_drip_outlives_the_stall_timeout(start: StartService) -> None:
    """A slow but live reader, 2 KiB a second, is served for longer than the stall timeout."""
    service = await start(TABLE, stall_timeout=7)
    with small_reader(service.port) as connection:
        await wait_for_streams(service, 1)
        for _ in range(16):
            await asyncio.sleep(1)  # the drip itself
            assert len(await asyncio.get_running_loop().sock_recv(connection, 2 * KIB)) > 0
        assert len(await live(service)) == 1


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /tas", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: "],
    ids=["silent", "half a request line", "half a header"],
)
async def test_an_unfinished_head_is_ended(start: StartService, sent: bytes) -> None:
    """A connection that never finishes a request head is closed after the head timeout."""
    service = await start(head_timeout=0.5, stall_timeout=2)
    with small_reader(service.port, sent) as connection, suppress(ConnectionResetError):
        assert await read_to_the_end(connection) == b""


async def test_a_head_in_small_bites_gains_no_time(start: StartService) -> None:
    """A byte now and then does not put the head timeout off."""
    service = await start(head_timeout=1, stall_timeout=2)
    with (
        small_reader(service.port, b"GET / HTTP/1.1\r\n") as connection,
        pytest.raises(OSError, match=r"reset|Broken pipe"),
    ):
        for _ in range(100):
            await asyncio.sleep(0.1)
            connection.send(b"A")


async def test_a_connection_is_kept_for_the_next_request(start: StartService) -> None:
    """Two requests, one after the other's answer, are served on the same connection."""
    service = await start()
    loop = asyncio.get_running_loop()
    with small_reader(service.port, b"") as connection:
        for _ in range(2):
            await loop.sock_sendall(connection, request_bytes("/healthz"))
            assert b"alive" in await asyncio.wait_for(loop.sock_recv(connection, 4 * KIB), 10)
            await asyncio.sleep(0.1)  # time enough to close it, if anybody would


async def test_an_endless_head_is_dropped(start: StartService) -> None:
    """A head that never ends costs at most its limit, then the connection is reset."""
    service = await start()
    with small_reader(service.port, b"GET / HTTP/1.1\r\n") as connection:
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            for number in range(20_000):
                await loop.sock_sendall(connection, b"H%d: %s\r\n" % (number, b"x" * 1_000))
                await asyncio.sleep(0)


async def test_idle_sockets_do_not_lock_out_the_next_client(start: StartService) -> None:
    """Beyond the connection limit the one that has waited longest makes room."""
    service = await start(TABLE, max_connections=20, max_streams=10)
    connections = []
    try:
        for _ in range(60):
            connection = socket.create_connection(("127.0.0.1", service.port))
            connection.sendall(b"GET / HT")
            connections.append(connection)
        assert b"50000," in await service.get(EXPORT)
    finally:
        for connection in connections:
            connection.close()


def test_a_burst_of_connections_stays_within_the_limit(spawn: StartProcess) -> None:
    """However many come at once, no more stay than the limit, and files are left to serve with."""
    limit, burst = 30, 600
    service = spawn("--max-connections", str(limit), "--max-streams", "10")
    with ExitStack() as stack:
        service.popen.send_signal(signal.SIGSTOP)  # the kernel takes them all, then it does
        for _ in range(burst):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        service.popen.send_signal(signal.SIGCONT)
        with urlopen(service.url + "/healthz", timeout=20) as answer:
            assert answer.status == 200
        staying = psutil.Process(service.popen.pid).net_connections("tcp")
        assert sum(each.status == psutil.CONN_ESTABLISHED for each in staying) <= limit


async def test_an_answer_that_nobody_takes_is_given_up(start: StartService) -> None:
    """A client that sends a large body and takes no answer keeps others out for bounded time."""
    service = await start(max_writes=1, body_timeout=1)
    many = [{"title": "x" * 1_900, "priority": 1}] * 1_000
    few = [{"title": "y" * 100, "priority": 1}] * 200  # larger than what needs no place
    body = json.dumps(many).encode()
    head = f"{AUTHORIZATION_LINE}\r\nContent-Type: application/json\r\nHost: localhost\r\n"
    head = f"POST /tasks HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    with small_reader(service.port, head.encode()) as connection:
        await asyncio.get_running_loop().sock_sendall(connection, body)
        async with asyncio.timeout(20):
            status = 503
            while status == 503:
                async with service.client.post(service.url + "/tasks", json=few) as response:
                    status = response.status
        assert status == 201
        with pytest.raises(ConnectionResetError):
            await read_to_the_end(connection)
    assert (await service.get(EXPORT)).count(b"\n") == 1 + len(many) + len(few)


async def test_what_is_sent_behind_an_export_is_not_kept(start: StartService) -> None:
    """A client that goes on sending during its stream fills no memory and gets no answer."""
    service = await start(TABLE)
    with small_reader(service.port) as connection:
        await wait_for_streams(service, 1)
        loop = asyncio.get_running_loop()
        for _ in range(100):
            await asyncio.wait_for(loop.sock_sendall(connection, request_bytes("/") * 200), 20)
        body = await read_to_the_end(connection)
    assert body.endswith(b"\r\n0\r\n\r\n")
    assert body.count(b"HTTP/1.1") == 1


async def test_a_client_gone_mid_page_leaves_nothing(
    start: StartService, capfd: pytest.CaptureFixture[str]
) -> None:
    """Readers that vanish, by reset or by close, free everything and log no traceback."""
    service = await start(TABLE)
    for linger in (struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)):
        with small_reader(service.port) as connection:
            await wait_for_streams(service, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await wait_for_streams(service, 0)
    assert await service.outcomes() == {"gone": 2}
    await asyncio.to_thread(LINES.drain)
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_a_lock_of_another_program_delays_writes_only(
    database: SQLite, start: StartService
) -> None:
    """While another program holds the file's write lock, reads are answered and a write waits."""
    service = await start(TABLE[:10])
    task = {"title": "waits", "priority": 1}
    other = apsw.Connection(str(database.path))
    other.execute("BEGIN IMMEDIATE")
    write = asyncio.create_task(service.client.post(service.url + "/tasks", json=task))
    for _ in range(20):
        assert (await service.get(EXPORT)).count(b"\n") >= 10
    assert not write.done()
    other.execute("ROLLBACK")
    async with await write as response:
        assert response.status == 201
    other.close()
