"""A log that cannot be written harms no request, no worker and no shutdown."""

import asyncio
import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from service.logs import WAITING_LINES
from service.tasks.generate import tasks
from simulator.launch import free_port
from tests.conftest import Process, until, wait_for_port
from tests.databases import SQLite
from tests.test_failures import EXPORT, curl

GONE, UNREAD, FULL, CLOSED = "its reader is gone", "nobody reads", "its disk is full", "closed"
PIPE_BYTES = 4_096
"""What a pipe of the tests holds, the least that it may: some twenty lines."""
EXPORTS = 20
"""Exports that a test asks for: with two lines each, more than such a pipe takes."""
Start = Callable[..., Process]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A table that is more than a page: as many tasks as a test asks for, one after the other."""
    database = SQLite(tmp_path / "tasks.db")
    asyncio.run(database.fill(tasks(2 * WAITING_LINES, seed=10)))
    return database.path


@pytest.fixture
def reader() -> Iterator[list[int]]:
    """Where the reading ends of pipes are put; closed at the end."""
    ends: list[int] = []
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def start(stored: Path, tmp_path: Path, reader: list[int]) -> Iterator[Start]:
    """Start the service with a standard error that is of no use: `start(GONE, "--workers", "2")`.

    One that is unread can be read at the end of `reader`.
    """
    (nothing := tmp_path / "nothing").touch()
    with ExitStack() as stack:

        def begin(fault: str, *flags: str) -> Process:
            port = free_port()
            command = [sys.executable, "-m", "service", "--port", str(port), *flags]
            command += ["--database", f"sqlite:///{stored}", "--log-interval", "3600"]
            error = os.open("/dev/full", os.O_WRONLY)
            if fault == CLOSED:
                command = ["sh", "-c", 'exec "$0" "$@" 2>&-', *command]
            elif fault in (GONE, UNREAD):
                os.close(error)
                end, error = os.pipe()
                fcntl.fcntl(error, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                if fault == GONE:
                    os.close(end)
                else:
                    reader.append(end)
            process = Process(subprocess.Popen(command, stderr=error), port, nothing)
            os.close(error)
            stack.callback(process.popen.wait)
            stack.callback(process.popen.kill)
            wait_for_port(process)
            return process

        yield begin


@pytest.mark.parametrize("fault", [GONE, UNREAD, FULL, CLOSED])
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_log_that_cannot_be_written_harms_nothing(
    start: Start, fault: str, workers: str
) -> None:
    """Exports are whole in HTTP/1.1 and 1.0, other answers come, a worker that is killed is
    replaced, and SIGTERM ends the service with exit code 0."""
    service = start(fault, "--workers", workers)
    whole = curl(service.url)
    assert whole.returncode == 0
    assert whole.stdout.count(b"\n") > 2 * WAITING_LINES
    for version in ("--http1.0", "--http1.1"):
        for _ in range(EXPORTS):
            again = await asyncio.to_thread(curl, service.url, EXPORT, version)
            assert (again.returncode, again.stdout) == (0, whole.stdout)
    if workers == "2":
        process = psutil.Process(service.popen.pid)
        before = process.children()
        before[0].kill()
        await until(lambda: before[0] not in process.children() and len(process.children()) == 2)
        for _ in range(EXPORTS):
            again = await asyncio.to_thread(curl, service.url)
            assert again.stdout == whole.stdout
    assert service.stop() == 0


async def test_lines_that_were_lost_are_counted(start: Start, reader: list[int]) -> None:
    """While nobody reads the log so many lines wait for it; once somebody reads, they come, and
    then how many were lost."""
    service = start(UNREAD)
    asked = 2 * WAITING_LINES
    path = f"{EXPORT}?limit=1&columns=id&header=false&after=[1-{asked}]"
    answers = await asyncio.to_thread(curl, service.url, path, "--fail")
    assert answers.stdout.count(b"\n") == asked - 1  # behind the last task there is none
    said = ""
    async with asyncio.timeout(20):
        while not (notice := re.search(r"log lines could not be written +since_start=(\d+)", said)):
            said += (await asyncio.to_thread(os.read, reader[-1], PIPE_BYTES)).decode()
    came = said.count("stream started") + said.count("stream ended")
    assert came >= WAITING_LINES
    assert came + int(notice[1]) == 2 * asked
    assert service.stop() == 0
