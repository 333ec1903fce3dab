"""What an operator says by signals: read the tokens again, end, end at once; to one process or to
several workers alike."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import psutil
import pytest

from service.tasks.generate import tasks
from service.team import TOKEN_COLUMNS, Team, of_token
from simulator.launch import free_port
from tests.conftest import Process, StartProcess, request_bytes, small_reader, until
from tests.databases import SQLite
from tests.test_failures import wait_for_log
from tests.test_operating import answer, unit
from tests.test_workers import folders, heads, is_alive, rest, worker_of, workers_of

EXPORT = "/tasks/export.csv"
ALL = ["read", "write", "ops"]
ROUNDS = 20
"""New connections, among which the kernel chooses: all to one worker of three is a rare thing."""
OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Runs Python in the terminal that is its standard input, as a window does."""
TAKEN = "the token file was read again"
TOGETHER = pytest.mark.parametrize("workers", [1, 3])


def token(name: str, scopes: list[str] = ALL, secret: str = "") -> str:
    """A token of the file; its secret is made of its name."""
    members = {"name": name, "secret": secret or f"secret-of-{name}", "scopes": scopes}
    lines = [f"{key} = {json.dumps(value)}" for key, value in members.items()]
    return "\n".join(["[[token]]", *lines, ""])


BAD_FILES = {
    "no TOML": token("first") + "secret = secret-of-third",
    "no token": "",
    "same secret": token("first") + token("third", secret="secret-of-first"),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose export is far larger than what a reader that stops is sent; it stays so."""
    database = SQLite(tmp_path_factory.mktemp("stored") / "tasks.db")
    asyncio.run(database.fill(tasks(100_000, seed=8)))
    return database.path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(token("first") + token("second"))
    return path


@pytest.fixture
def readers() -> Iterator[ExitStack]:
    """Keeps the sockets of a test's readers until its end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Asks over a new connection each time, so that any worker may answer."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as opened:
        yield opened


async def begin(
    spawn: StartProcess, table: Path, workers: int, *flags: str, file: Path | None = None
) -> Process:
    tokens = () if file is None else ("--tokens", str(file))
    service = spawn("--workers", str(workers), *tokens, *flags, database=table)
    await until(lambda: "listening" in service.log)
    return service


async def hang_up(
    service: Process, *, file: Path | None = None, text: str = "", said: str = TAKEN
) -> None:
    """Send SIGHUP, with this in the token file, and return when the log says what came of it."""
    if file is not None:
        await asyncio.to_thread(file.write_text, text)
    before = service.log.count(said)
    service.popen.send_signal(signal.SIGHUP)
    await until(lambda: service.log.count(said) > before)


def reader(service: Process, readers: ExitStack, name: str, *, last: bool = False) -> socket.socket:
    """A reader that has asked for the export with this token, and reads nothing yet."""
    request = request_bytes(EXPORT, token=f"secret-of-{name}", last=last)
    opened = readers.enter_context(small_reader(service.port, request))
    opened.settimeout(20)
    return opened


async def statuses(session: aiohttp.ClientSession, service: Process, secret: str) -> set[int]:
    """What the workers answer to this token."""
    found = set()
    for _ in range(ROUNDS):
        headers = {"Authorization": f"Bearer {secret}"}
        async with session.get(service.url + "/tasks?limit=1", headers=headers) as response:
            found.add(response.status)
    return found


async def broken(reader: socket.socket) -> bool:
    try:
        await rest(reader)
    except ConnectionError:
        return True
    return False


# -- tokens that change ------------------------------------------------------------------------


@TOGETHER
@pytest.mark.parametrize(
    "change",
    [token("first") + token("third"), token("first") + token("second", ["write", "ops"])]
    + [token("first") + token("second", secret="another-secret")]
    + [token("first") + token("renamed", secret="secret-of-second")],
    ids=["removed", "may not read", "other secret", "renamed"],
)
async def test_a_revoked_tokens_streams_are_reset(
    *,
    spawn: StartProcess,
    table: Path,
    file: Path,
    readers: ExitStack,
    workers: int,
    change: str,
) -> None:
    """After SIGHUP the streams of a token that may no longer read break, the others' end whole."""
    service = await begin(spawn, table, workers, file=file)
    revoked = [reader(service, readers, "second") for _ in range(6)]
    kept = [reader(service, readers, "first", last=True) for _ in range(2)]
    assert await heads(revoked + kept) == [200] * 8
    await hang_up(service, file=file, text=change)
    for each in revoked:
        assert await broken(each)
    for each in kept:
        assert (await rest(each)).endswith(b"\r\n0\r\n\r\n")
    await until(lambda: service.log.count("outcome=revoked") == 6)
    assert "Traceback" not in service.log


@TOGETHER
async def test_tokens_are_read_again(
    spawn: StartProcess, table: Path, file: Path, session: aiohttp.ClientSession, workers: int
) -> None:
    """After SIGHUP every worker lets in the tokens of the file as it is now, and no others; so
    does one that takes another's place. No secret stands in the log."""
    service = await begin(spawn, table, workers, file=file)
    assert await statuses(session, service, "secret-of-third") == {401}
    await hang_up(service, file=file, text=token("first") + token("third"))

    async def as_in_the_file() -> None:
        assert await statuses(session, service, "secret-of-first") == {200}
        assert await statuses(session, service, "secret-of-second") == {401}
        assert await statuses(session, service, "secret-of-third") == {200}

    await as_in_the_file()
    if workers > 1:
        workers_of(service)[0].kill()
        await until(lambda: "another one takes its place" in service.log)
        await until(lambda: len(workers_of(service)) == workers)
        await as_in_the_file()
    assert "secret-of" not in service.log


@TOGETHER
@pytest.mark.parametrize("fault", ["missing", *BAD_FILES])
async def test_a_bad_file_changes_nothing(
    *,
    spawn: StartProcess,
    table: Path,
    file: Path,
    readers: ExitStack,
    session: aiohttp.ClientSession,
    workers: int,
    fault: str,
) -> None:
    """A file that is wrong is told of in one line with its reason and a hint; all goes on."""
    service = await begin(spawn, table, workers, file=file)
    under_way = reader(service, readers, "second")
    assert await heads([under_way]) == [200]
    if fault == "missing":
        await asyncio.to_thread(file.unlink)
    else:
        await asyncio.to_thread(file.write_text, BAD_FILES[fault])
    await hang_up(service, said="the tokens stay as they were")
    (line,) = [line for line in service.log.splitlines() if "the tokens stay" in line]
    assert str(file) in line
    assert re.search(r"hint=.{10,}", line)
    assert await statuses(session, service, "secret-of-second") == {200}
    assert (await rest(under_way)).endswith(b"\r\n0\r\n\r\n")
    assert "secret-of" not in service.log
    assert "Traceback" not in service.log


@TOGETHER
async def test_without_a_token_file_nothing_happens(
    spawn: StartProcess, table: Path, readers: ExitStack, workers: int
) -> None:
    """SIGHUP without a token file is a line in the log; streams go on."""
    service = await begin(spawn, table, workers)
    request = request_bytes(EXPORT, last=True)
    under_way = readers.enter_context(small_reader(service.port, request))
    under_way.settimeout(20)
    assert await heads([under_way]) == [200]
    await hang_up(service, said="there is none")
    assert (await rest(under_way)).endswith(b"\r\n0\r\n\r\n")
    assert service.stop() == 0


@TOGETHER
async def test_a_limit_of_a_token_holds_after_its_return(
    spawn: StartProcess, table: Path, file: Path, readers: ExitStack, workers: int
) -> None:
    """Streams of a token that is new, or was away, are counted over all workers together."""
    service = await begin(spawn, table, workers, "--max-streams-per-token", "4", file=file)

    async def limited(name: str) -> None:
        asked = [reader(service, readers, name) for _ in range(12)]
        assert sorted(await heads(asked)) == [200] * 4 + [429] * 8
        if workers > 1:
            assert len({worker_of(service, each).pid for each in asked}) > 1

    await limited("second")
    await hang_up(service, file=file, text=token("first") + token("third"))
    await until(lambda: service.log.count("outcome=revoked") == 4)
    await limited("third")
    await limited("first")
    await hang_up(service, file=file, text=token("second") + token("third"))
    await until(lambda: service.log.count("outcome=revoked") == 8)
    await limited("second")
    refused = reader(service, readers, "third")  # has had all of its own since before
    assert await heads([refused]) == [429]
    assert "Traceback" not in service.log


def test_the_unit_reloads_a_changed_token_file(
    spawn: StartProcess, table: Path, tmp_path: Path
) -> None:
    """`systemctl reload` does what lies in the unit: the file in /etc is the one that counts."""
    known = {"/etc/weir": str(tmp_path / "etc"), "%t/weir": str(tmp_path / "run")}

    def here(line: str) -> str:
        for path, place in known.items():
            line = line.replace(path, place)
        return line

    def execute(key: str, pid: int = 0) -> None:
        for line in unit()[key]:
            command = ["bash", "-c", here(line.removeprefix("+"))]
            subprocess.run(command, env=os.environ | {"MAINPID": str(pid)}, check=True)

    for place in known.values():
        Path(place).mkdir()
    file = Path(here("/etc/weir/tokens.toml"))
    file.write_text(token("first"))
    file.chmod(0o600)
    execute("ExecStartPre")
    service = spawn(*here(unit()["ExecStart"][0]).split()[1:], database=table)
    assert answer(service, "/tasks", secret="secret-of-first")[0] == 200
    file.write_text(token("second"))
    execute("ExecReload", service.popen.pid)
    wait_for_log(service, TAKEN)
    assert answer(service, "/tasks", secret="secret-of-first")[0] == 401
    assert answer(service, "/tasks", secret="secret-of-second")[0] == 200


def test_a_column_of_the_counts_is_taken_again() -> None:
    """Tokens may come and go without end: who counts no stream leaves its column to others."""
    team = Team()
    team.add(of_token("stays"), 3)
    for number in range(TOKEN_COLUMNS + 100):
        name = of_token(f"token {number}")
        assert team.total(name) == 0
        team.add(name, 1)
        assert team.total(name) == 1
        team.add(name, -1)
    assert team.total(of_token("stays")) == 3
    assert team.total(of_token("token 0")) == 0


# -- told to end -------------------------------------------------------------------------------


@TOGETHER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_at_once(
    *,
    spawn: StartProcess,
    table: Path,
    readers: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    number: signal.Signals,
) -> None:
    """Told a second time, the service does not wait for its streams: they are reset, no process
    and no file is left, and the exit code is that of a process that the signal has ended."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    service = await begin(spawn, table, workers, "--grace", "3600")
    under_way = readers.enter_context(small_reader(service.port))
    under_way.settimeout(20)
    assert await heads([under_way]) == [200]
    children = workers_of(service)
    service.popen.send_signal(number)
    await until(lambda: "shutting down" in service.log)
    while service.popen.poll() is None:  # one that comes too soon is taken for the first one
        service.popen.send_signal(number)
        await asyncio.sleep(0.05)
    assert service.popen.returncode == 128 + number
    assert await broken(under_way)
    await until(lambda: not any(is_alive(child) for child in children))
    assert not folders(tmp_path)
    assert "Traceback" not in service.log


@TOGETHER
async def test_tokens_are_revoked_in_the_grace(
    spawn: StartProcess, table: Path, file: Path, readers: ExitStack, workers: int
) -> None:
    """A service that waits for its last streams resets those whose token is revoked meanwhile."""
    service = await begin(spawn, table, workers, "--grace", "3600", file=file)
    under_way = reader(service, readers, "second")
    assert await heads([under_way]) == [200]
    service.popen.send_signal(signal.SIGTERM)
    await until(lambda: "shutting down" in service.log)
    await hang_up(service, file=file, text=token("first"))
    assert await broken(under_way)
    assert await asyncio.to_thread(service.popen.wait, 30) == 0


@TOGETHER
async def test_a_signal_that_is_passed_on_is_no_second_one(
    spawn: StartProcess, table: Path, readers: ExitStack, workers: int
) -> None:
    """Streams get their grace though the signal comes twice, as below `timeout` or `uv run`."""
    service = await begin(spawn, table, workers, "--grace", "60")
    under_way = readers.enter_context(small_reader(service.port))
    under_way.settimeout(20)
    assert await heads([under_way]) == [200]
    service.popen.send_signal(signal.SIGINT)
    service.popen.send_signal(signal.SIGTERM)
    await until(lambda: "shutting down" in service.log)
    assert (await rest(under_way)).endswith(b"\r\n0\r\n\r\n")
    assert await asyncio.to_thread(service.popen.wait, 30) == 0


@TOGETHER
async def test_a_closed_terminal_ends_the_service(
    table: Path, tmp_path: Path, workers: int
) -> None:
    """Whoever closes the window in which they started the service has ended it."""
    ours, theirs = os.openpty()
    log_file = tmp_path / "terminal.log"
    with log_file.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OWN_TERMINAL, "-m", "service", f"--port={free_port()}"),
            *(f"--workers={workers}", f"--database=sqlite:///{table}"),
            stdin=theirs,
            stderr=stderr,
            start_new_session=True,
        )
    os.close(theirs)

    def log() -> str:
        return log_file.read_text("utf-8")

    await until(lambda: "listening" in log())
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGHUP)  # while it is open this means something else
    await until(lambda: "there is none" in log())
    os.close(ours)
    async with asyncio.timeout(30):
        assert await process.wait() == 0
    assert not any(is_alive(child) for child in children)
    assert "Traceback" not in log()
