"""Real services for the tests: in this process with the event loop guarded, or in their own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from service.app import serve
from service.generate import tasks
from service.logs import configure
from service.settings import Settings
from service.stores import open_store
from service.table import NewTask
from simulator.launch import free_port

TOKEN = "secret-user-123"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
AUTHORIZATION_LINE = f"Authorization: Bearer {TOKEN}"
START_SECONDS = 20


@pytest.fixture(autouse=True)
def _guarded_loop() -> Iterator[BlockBuster]:
    """A blocking call on the event loop fails the test that made it."""
    configure("text")
    with blockbuster_ctx("service") as guard:
        # The log of a fault that nobody expected quotes the source of its traceback.
        guard.functions["os.stat"].can_block_in("linecache.py", {"checkcache", "updatecache"})
        yield guard


@dataclass
class Running:
    """A service under test."""

    url: str
    database: Path
    client: aiohttp.ClientSession

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def get(self, path: str, **parameters: Any) -> bytes:
        """The body of a successful GET."""
        async with self.client.get(self.url + path, params=parameters) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    async def outcomes(self) -> dict[str, float]:
        """Ended streams by outcome, as `/metrics` counts them."""
        found: dict[str, float] = {}
        for line in (await self.get("/metrics")).decode().splitlines():
            if line.startswith("weir_streams_ended_total"):
                found[line.split('outcome="')[1].split('"')[0]] = float(line.split()[-1])
        return found


StartService = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[StartService]:
    """Start a service in this process: `await start(tasks, max_streams=2)`."""
    async with AsyncExitStack() as stack:

        async def begin(tasks: Sequence[NewTask] = (), **settings: Any) -> Running:
            database = tmp_path / "tasks.db"
            known = {"database": f"sqlite:///{database}", "port": 0, "grace": 1.0} | settings
            chosen = Settings.model_validate(known)
            if tasks:
                store = await open_store(chosen)
                await store.fill(tasks)
                await store.close()
            url = await stack.enter_async_context(serve(chosen))
            client = await stack.enter_async_context(aiohttp.ClientSession(headers=AUTHORIZATION))
            return Running(url, database, client)

        yield begin


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table whose export, 9 MB, is far larger than the bound."""

    async def fill() -> None:
        store = await open_store(Settings(database=f"sqlite:///{tmp_path}/tasks.db"))
        await store.fill(tasks(200_000, seed=8))
        await store.close()

    asyncio.run(fill())
    return tmp_path / "tasks.db"


@dataclass
class Process:
    """`python -m service` in a process of its own, its log in a file."""

    popen: subprocess.Popen[bytes]
    port: int
    log_file: Path
    database: Path
    stopped: bool = field(default=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(30)


StartProcess = Callable[..., Process]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[StartProcess]:
    """Start the service as a user does: `spawn("--max-streams", "2")`; stopped at the end."""
    started: list[Process] = []

    def begin(*flags: str, database: Path | None = None) -> Process:
        database = database or tmp_path / "tasks.db"
        port = free_port()
        log_file = tmp_path / f"service-{len(started)}.log"
        with log_file.open("wb") as log:
            popen = subprocess.Popen(
                [sys.executable, "-m", "service", "--port", str(port)]
                + ["--database", f"sqlite:///{database}", *flags],
                stderr=log,
                env=os.environ | {"PYTHONWARNINGS": "default"},
            )
        process = Process(popen, port, log_file, database)
        started.append(process)
        wait_for_port(process)
        return process

    yield begin
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait()


def wait_for_port(process: Process) -> None:
    """Return once it accepts; polled, as a process of its own gives no other sign."""
    for _ in range(START_SECONDS * 20):
        if process.popen.poll() is not None:
            raise AssertionError(f"the service ended:\n{process.log}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", process.port)) == 0:
                return
        try:
            process.popen.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"nobody listens:\n{process.log}")


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Return once the condition holds; fail after `seconds`."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"it did not happen within {seconds} seconds")


def request_bytes(path: str, *, token: str = TOKEN) -> bytes:
    """A GET as it goes over a raw socket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()
