"""Real services for the tests: in this process with the event loop guarded, or in their own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    MutableMapping,
    Sequence,
)
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from blockbuster import BlockBuster, blockbuster_ctx
from structlog.testing import capture_logs

from service.app import serve
from service.logs import LINES, configure
from service.settings import KIB, Settings
from service.tasks.generate import tasks
from service.tasks.model import NewTask
from simulator.launch import free_port
from tests.databases import SQLITE, Database, PostgreSQL, SQLite

pytest_plugins = ["tests.postgres", "simulator.pytest_plugin"]

TOKEN = "secret-user-123"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
AUTHORIZATION_LINE = f"Authorization: Bearer {TOKEN}"
START_SECONDS = 20


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known that say where a test runs, and with what beside it."""
    config.addinivalue_line("markers", "trial: judges memory, and wants the machine for itself")
    config.addinivalue_line("markers", "stores(*kinds): the kinds of `database` that it runs on")
    # Programs that tests start in other folders run the packages of this checkout.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each kind of database that its closest mark `stores` names."""
    mark = metafunc.definition.get_closest_marker("stores")
    if mark and "database" in metafunc.fixturenames:
        metafunc.parametrize("database", mark.args, indirect=True)


TRIALS = {
    "test_backpressure",
    "test_other_servers",
    "test_readme",
    "test_simulator_command_line",
    "test_simulator_readme",
    "test_soak",
}
"""Modules whose tests judge memory or fill the machine: `scripts/test.sh` runs them alone."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where `.ci/run` has installed all that tests need, one that skips itself fails."""
    report = yield
    if report.skipped and os.environ.get("WEIR_TEST_COMPLETE"):
        report.outcome = "failed"
        report.longrepr = f"it was skipped where nothing may be: {call.excinfo}"
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the trials."""
    if item.path.stem in TRIALS:
        item.add_marker(pytest.mark.trial)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database that is not there yet or empty, of the kind that is asked for: SQLite, if none."""
    if getattr(request, "param", SQLITE) == SQLITE:
        yield SQLite(tmp_path / "tasks.db")
        return
    # Asked for only now: whoever does not need the server does not start it.
    server = request.getfixturevalue("postgres")
    with ExitStack() as stack:
        yield PostgreSQL(stack.enter_context(server.database()), stack.close)


@pytest.fixture(autouse=True)
def _guarded_loop() -> Iterator[BlockBuster]:
    """A blocking call on the event loop fails the test that made it."""
    configure("text")
    structlog.configure(cache_logger_on_first_use=False)  # or the first test's is kept
    with blockbuster_ctx("service") as guard:
        # The log of a fault that nobody expected quotes the source of its traceback.
        guard.functions["os.stat"].can_block_in("linecache.py", {"checkcache", "updatecache"})
        # For each connection asyncpg looks for the certificates in the user's home.
        for name in ("os.path.abspath", "os.stat"):
            guard.functions[name].can_block_in(
                "asyncpg/connect_utils.py", "_parse_connect_dsn_and_args"
            )
        yield guard
    LINES.drain()  # or they would come while another test runs


@dataclass
class Running:
    """A service under test."""

    url: str
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
                outcome = line.split('outcome="')[1].split('"')[0]
                found[outcome] = found.get(outcome, 0) + float(line.split()[-1])
        return found


StartService = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(database: Database) -> AsyncIterator[StartService]:
    """Start a service in this process: `await start(tasks, max_streams=2)`."""
    async with AsyncExitStack() as stack:

        async def begin(
            tasks: Sequence[NewTask] = (), where: Database = database, **settings: Any
        ) -> Running:
            known = {"database": where.url, "port": 0, "grace": 1.0} | settings
            if tasks:
                await where.fill(tasks)
            url = await stack.enter_async_context(serve(Settings.model_validate(known)))
            client = await stack.enter_async_context(aiohttp.ClientSession(headers=AUTHORIZATION))
            return Running(url, client)

        yield begin


Logged = list[MutableMapping[str, Any]]


@pytest.fixture
def logged() -> Iterator[Logged]:
    """What a service of this process logs while a test runs, an entry for each line."""
    with capture_logs() as entries:
        yield entries


def faults(logged: Logged) -> list[tuple[str, str]]:
    """The route and the reason of each request that failed."""
    failed = [entry for entry in logged if entry["event"] == "request failed"]
    return [(entry["route"], entry["reason"]) for entry in failed]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """An SQLite file whose export, 9 MB, is far larger than the bound."""
    database = SQLite(tmp_path / "tasks.db")
    asyncio.run(database.fill(tasks(200_000, seed=8)))
    return database.path


@dataclass
class Process:
    """`python -m service` in a process of its own, its log in a file."""

    popen: subprocess.Popen[bytes]
    port: int
    log_file: Path
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
def spawn(tmp_path: Path, database: Database) -> Iterator[StartProcess]:
    """Start the service as a user does: `spawn("--max-streams", "2")`; stopped at the end."""
    started: list[Process] = []

    def begin(*flags: str, database: Path | Database = database, port: int = 0) -> Process:
        where = SQLite(database) if isinstance(database, Path) else database
        port = port or free_port()
        log_file = tmp_path / f"service-{len(started)}.log"
        with log_file.open("wb") as log:
            popen = subprocess.Popen(
                [sys.executable, "-m", "service", "--port", str(port)]
                + ["--database", where.url, *flags],
                stderr=log,
                env=os.environ | {"PYTHONWARNINGS": "default"},
            )
        process = Process(popen, port, log_file)
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


def request_bytes(path: str, *, token: str = TOKEN, last: bool = False) -> bytes:
    """A GET as it goes over a raw socket; last: the connection is to end with its answer."""
    end = "Connection: close\r\n\r\n" if last else "\r\n"
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    return (head + end).encode()


@contextmanager
def small_reader(
    port: int, request: bytes = request_bytes("/tasks/export.csv")
) -> Iterator[socket.socket]:
    """A connection with a small receive buffer that has sent `request` and reads nothing yet."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        connection.connect(("127.0.0.1", port))
        connection.sendall(request)
        connection.setblocking(False)
        yield connection
