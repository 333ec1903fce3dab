"""The bound as a formula, and what holds to it: memory, threads, open files."""

import resource
from pathlib import Path

import psutil
import pytest

from service.errors import ConfigurationError
from service.settings import KIB, MIB, Settings
from service.stream.admission import Bound, fit_memory
from simulator.fleet_process import Asking, FleetProcess
from tests.conftest import AUTHORIZATION_LINE, StartProcess

FEW, MORE = 200, 400


def test_the_default_settings_promise_what_is_promised() -> None:
    """The formula, with the defaults, gives 64 KiB a stream, and the total that it prints."""
    bound = Bound.of(Settings(), base=0)
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
