"""The first promise, measured from outside: what a reader that stops costs the server."""

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path
from time import monotonic

import psutil
import pytest

from service.errors import ConfigurationError
from service.generate import tasks
from service.settings import KIB, MIB, Settings
from service.stores import open_store
from service.stream.admission import Bound, fit_memory
from simulator.probe import memory, queues
from simulator.stalled import StalledReaders
from tests.conftest import AUTHORIZATION, Process, StartProcess, free_port, wait_for_port

HARD_BOUND = 64 * KIB
FEW, MORE = 200, 400
WITHOUT_WAITING = """
import service.stream.flow
async def return_at_once(self, slow=lambda: None): pass
service.stream.flow.Flow.room = return_at_once
from service.__main__ import cli
cli()
"""
"""The service with its heart taken out: it writes on without waiting for the client."""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table whose export, 1 MB, is far larger than the bound."""

    async def fill() -> None:
        store = await open_store(Settings(database=f"sqlite:///{tmp_path}/tasks.db"))
        await store.fill(tasks(20_000, seed=8))
        await store.close()

    asyncio.run(fill())
    return tmp_path / "tasks.db"


def steady_cost(process: Process) -> int:
    """Bytes of process and kernel, once two looks at them agree within 1 %."""
    previous, deadline = 0, monotonic() + 30
    while monotonic() < deadline:
        now = memory(process.popen.pid).uss + queues(process.port).tx_queue
        if abs(now - previous) < now / 100:
            return now
        previous = now
        with pytest.raises(subprocess.TimeoutExpired):
            process.popen.wait(1)
    raise AssertionError("memory does not come to rest")


def cost_of_a_reader(process: Process, first: int) -> float:
    """Bytes that one more stopped reader costs, from two plateaus, so that no fixed cost counts."""
    url = process.url + "/tasks/export.csv"
    headers = [f"Authorization: {AUTHORIZATION['Authorization']}"]
    with StalledReaders(url, FEW, headers=headers, first=first) as few:
        low = steady_cost(process)
        with StalledReaders(url, MORE, headers=headers, first=first) as more:
            high = steady_cost(process)
            assert (few.counts().established, more.counts().established) == (FEW, MORE)
            assert queues(process.port).sockets == FEW + MORE
    return (high - low) / MORE


@pytest.mark.parametrize("first", [0, 200_000], ids=["from the first byte", "after 200 kB"])
def test_a_stopped_reader_costs_no_more_than_the_bound(
    spawn: StartProcess, table: Path, first: int
) -> None:
    """Process and kernel together, a reader that has stopped costs at most 64 KiB."""
    cost = cost_of_a_reader(spawn(database=table), first)
    assert 4 * KIB < cost <= HARD_BOUND


def test_without_the_wait_the_bound_breaks(tmp_path: Path, table: Path) -> None:
    """The measurement above can fail: it does when the service does not await its client."""
    port, log = free_port(), tmp_path / "mutant.log"
    with log.open("wb") as file:
        popen = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_WAITING, "--port", str(port)]
            + ["--database", f"sqlite:///{table}"],
            stderr=file,
            env=os.environ,
        )
    try:
        process = Process(popen, port, log, table)
        wait_for_port(process)
        assert cost_of_a_reader(process, first=0) > 4 * HARD_BOUND
    finally:
        popen.kill()
        popen.wait()


def test_the_default_settings_promise_what_is_promised() -> None:
    """The formula, with the defaults, gives 64 KiB a stream, and the total that it prints."""
    bound = Bound.of(Settings(), base=0)
    assert bound.stream == HARD_BOUND
    assert bound.total == Settings().max_streams * bound.stream + bound.fixed
    assert "10,000 streams x 64 KiB" in str(bound)


def test_a_waiting_stream_holds_no_thread_and_no_file(spawn: StartProcess, table: Path) -> None:
    """Streams that wait hold no thread, and no open file but their socket."""
    process = spawn(database=table)
    before = psutil.Process(process.popen.pid)
    url = process.url + "/tasks/export.csv"
    headers = [f"Authorization: {AUTHORIZATION['Authorization']}"]
    with StalledReaders(url, FEW, headers=headers):
        threads, files = before.num_threads(), before.num_fds()
        with StalledReaders(url, MORE, headers=headers):
            assert before.num_threads() == threads
            assert before.num_fds() == files + MORE


def test_streams_are_cut_down_to_the_memory_there_is() -> None:
    """A memory limit lowers max_streams until the worst case fits, and says so."""
    settings, notes = fit_memory(Settings(), base=50 * MIB, limit=512 * MIB)
    assert 0 < settings.max_streams < Settings().max_streams
    assert Bound.of(settings, 50 * MIB).total <= 512 * MIB
    assert str(settings.max_streams) in notes[0]
    assert fit_memory(Settings(), base=50 * MIB, limit=0) == (Settings(), [])
    with pytest.raises(ConfigurationError, match="not one stream fits"):
        fit_memory(Settings(), base=50 * MIB, limit=60 * MIB)


def test_limits_are_cut_down_to_the_open_files_there_are(
    spawn: StartProcess, tmp_path: Path
) -> None:
    """With few open files allowed the service starts all the same, with fewer connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wide = hard - 200
    process = spawn("--max-connections", str(wide + 150), "--max-streams", str(wide))
    assert "max_connections is cut down" in process.log
    assert f"{hard} open files are allowed" in process.log
    assert soft <= hard
