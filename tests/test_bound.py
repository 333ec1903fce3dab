"""The bound as a formula, and what holds to it: memory, threads, open files."""

import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pydantic import ByteSize

from service.engines import OTHER_CONNECTIONS, appetite
from service.errors import ConfigurationError
from service.memory import container_memory
from service.settings import KIB, MIB, Settings
from service.stream.bound import (
    OTHER_FILES,
    Bound,
    check_large_rows,
    fit_connections,
    fit_memory,
)
from simulator.fleet_process import Asking, FleetProcess
from tests.conftest import AUTHORIZATION_LINE, StartProcess

FEW, MORE = 200, 400


def test_the_default_settings_promise_what_is_promised() -> None:
    """The formula, with the defaults, gives 64 KiB a stream, and the total that it prints."""
    bound = Bound.of(Settings(), base=0, readers=2)
    assert bound.stream == 64 * KIB
    assert bound.total == Settings().max_streams * bound.stream + bound.fixed
    assert "10,000 streams x 64 KiB" in str(bound)


def test_a_waiting_stream_holds_no_thread_and_no_file(spawn: StartProcess, table: Path) -> None:
    """Streams that wait hold no thread, and no open file but their socket."""
    process = spawn(database=table)
    before = psutil.Process(process.popen.pid)
    with FleetProcess(Asking(process.url + "/tasks/export.csv", (AUTHORIZATION_LINE,))) as fleet:
        fleet.reach(FEW)
        threads, files = before.num_threads(), before.num_fds()
        assert fleet.reach(FEW + MORE).standing == FEW + MORE
        assert before.num_threads() == threads
        assert before.num_fds() == files + MORE


def test_streams_are_cut_down_to_the_memory_there_is() -> None:
    """A memory limit lowers max_streams until the worst case fits, and says so."""
    settings, notes = fit_memory(Settings(), base=50 * MIB, limit=512 * MIB, readers=2)
    assert 0 < settings.max_streams < Settings().max_streams
    assert Bound.of(settings, 50 * MIB, readers=2).total <= 512 * MIB
    assert str(settings.max_streams) in notes[0]
    assert fit_memory(Settings(), base=50 * MIB, limit=0, readers=2) == (Settings(), [])
    with pytest.raises(ConfigurationError, match="not one stream fits"):
        fit_memory(Settings(), base=50 * MIB, limit=60 * MIB, readers=2)


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


def test_no_more_streams_than_connections() -> None:
    """Fewer connections than streams lower the streams, and the bound that is printed."""
    settings, notes = fit_connections(Settings(max_connections=50))
    assert settings.max_streams == 50
    assert "max_streams is cut down from 10000 to 50" in notes[0]
    assert "50 streams x 64 KiB" in str(Bound.of(settings, base=0, readers=2))
    assert fit_connections(Settings()) == (Settings(), [])


@pytest.mark.parametrize("connections", [400, 11_000])
def test_few_open_files(connections: int) -> None:
    """With 300 open files there are no more streams than connections, and these fit."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); "
        "from service.settings import Settings; "
        "from service.stream.bound import fit_open_files; "
        f"cut, _ = fit_open_files(Settings(max_connections={connections}), 9); "
        "print(cut.max_streams, cut.max_connections)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    streams, allowed = map(int, result.stdout.split())
    assert 0 < streams <= allowed == 300 - OTHER_FILES - 9


def test_the_files_of_each_database_are_counted(tmp_path: Path) -> None:
    """PostgreSQL's connections are counted among the open files, of each server."""
    one = Settings(database="postgresql://h/d", pool_size=10)
    two = one.model_copy(update={"read_database": ("postgresql://r/d",)})
    assert appetite(one) == (10, 10 + 1 + OTHER_CONNECTIONS)
    assert appetite(two) == (20, 20 + 2 + OTHER_CONNECTIONS)
    assert appetite(Settings(read_threads=4)).readers == 4


GROUPS = {
    "version 2, in a container": ("0::/\n", {"memory.max": "1000"}, 1000),
    "version 2, of a unit": ("0::/system/weir\n", {"system/weir/memory.max": "900"}, 900),
    "version 2, above it": (
        "0::/system/weir\n",
        {"system/weir/memory.max": "max", "system/memory.max": "800"},
        800,
    ),
    "version 1": (
        "4:memory:/docker/1\n0::/\n",
        {"memory/docker/1/memory.limit_in_bytes": "700"},
        700,
    ),
    "version 1, the host's path": (
        "4:cpu,memory:/docker/1\n",
        {"memory/memory.limit_in_bytes": "600"},
        600,
    ),
    "version 1, no limit": (
        "4:memory:/\n",
        {"memory/memory.limit_in_bytes": "9223372036854771712"},
        0,
    ),
    "another group's": ("4:cpu:/a\n0::/\n", {"memory/memory.limit_in_bytes": "500"}, 0),
    "none": ("", {}, 0),
}


@pytest.mark.parametrize(("groups", "files", "expected"), GROUPS.values(), ids=GROUPS)
def test_the_limit_of_the_container_is_seen(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    """Control groups of either version, nested or not, tell how much memory there is."""
    (tmp_path / "groups").write_text(groups, "ascii")
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", "ascii")
    assert container_memory(tmp_path / "groups", tmp_path / "root") == expected


def test_a_budget_that_holds_no_row_is_refused() -> None:
    """Each worker's part of the budget for long rows must hold one, or no stream could go on."""
    settings = Settings(row_bytes=ByteSize(2 * MIB), large_row_bytes=ByteSize(3 * MIB))
    check_large_rows(settings)
    with pytest.raises(ConfigurationError, match="one in each worker"):
        check_large_rows(settings.model_copy(update={"workers": 2}))
