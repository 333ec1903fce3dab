"""Every command of the README does what the README says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.launch import free_port
from tests.conftest import StartProcess
from tests.postgres import Postgres

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    line.split("   #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
RUNS_THIS = {
    "bash scripts/test.sh",
    '.venv/bin/pip install -c constraints.txt -e ".[bench,service,simulator]"',
}
"""What cannot run inside itself: the first is what runs this test, and installs as the second."""
POSTGRESQL = "postgresql://weir:secret@localhost:5432/weir"
DEMO = "bash scripts/full-demo.sh"
CURL = [command for command in COMMANDS if command.startswith("curl ")]
SIMULATOR = [command for command in COMMANDS if command.startswith(".venv/bin/weir-sim ")]
OURS = [command for command in COMMANDS if command.startswith(".venv/bin/python ")]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_every_command_is_run_by_a_test() -> None:
    """No command stands in the README that none of the tests below would run."""
    assert set(COMMANDS) == {DEMO, *CURL, *SIMULATOR, *OURS, *RUNS_THIS}


@pytest.mark.parametrize("command", CURL)
def test_curl(command: str, spawn: StartProcess, tmp_path: Path) -> None:
    """A curl of the README gets what it asks for, exits 0 and leaves the file that it names."""
    service = spawn()
    result = run(
        command.replace(":3000", f":{service.port}").replace("curl ", "curl -sS --fail-with-body "),
        tmp_path,
    )
    assert result.returncode == 0, result
    file = tmp_path / command.rpartition("> ")[2]
    text = file.read_text("utf-8") if "> tasks" in command else result.stdout
    if "ndjson" in command:
        assert text == ""
    elif "POST" in command:
        assert json.loads(text)["title"] == "Learn Node"
    else:
        assert text.startswith("id,title")


def test_the_demo(tmp_path: Path) -> None:
    """The demo runs to its end and finds that memory stayed constant."""
    settings = {
        "WEIR_DEMO_ROWS": "200000",
        "WEIR_DEMO_READERS": "100",
        "WEIR_PORT": str(free_port()),
        "WEIR_DEMO_OTHER_PORT": str(free_port()),
        "WEIR_DEMO_FOLDER": str(tmp_path / "out"),
        "TMPDIR": str(tmp_path),
    }
    result = subprocess.run(
        DEMO.split(),
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result
    assert "Memory stayed constant." in result.stdout
    assert "100 of 100 readers hold on" in result.stdout
    assert re.search(r"verdict +UNBOUNDED +BOUNDED", result.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the demo leaves nothing else"
    assert (tmp_path / "out/memory.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out/report.html").read_text("utf-8")


@pytest.mark.parametrize("command", SIMULATOR)
def test_the_proof(command: str, spawn: StartProcess, table: Path, tmp_path: Path) -> None:
    """The simulator, as the README calls it, finds the service bounded."""
    service = spawn(database=table)
    words = shlex.split(command.replace(":3000", f":{service.port}"))[1:]
    result = subprocess.run(
        [sys.executable, "-m", "simulator", *words, "--quick", "--readers", "400"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result
    assert "BOUNDED" in result.stdout


def test_the_services_own_commands(postgres: Postgres, tmp_path: Path) -> None:
    """What the README starts with Python runs as it stands there, if on fewer rows."""
    here = tmp_path / "weir"
    here.mkdir()
    url = postgres.create_database("weir_readme")
    for command in OURS:
        words = command.replace("3000000", "3000").replace(POSTGRESQL, url).split()[1:]
        if words[0].startswith("scripts/"):
            words = [str(ROOT / words[0]), *words[1:], "--help"]
        elif "generate" not in words:
            words += ["--help"]
        result = subprocess.run(
            [sys.executable, *words], cwd=here, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result
    assert (here / "tasks.db").exists()
    postgres.drop_database("weir_readme")


def test_curl_is_here() -> None:
    """The README asks for curl, and so do the tests."""
    assert shutil.which("curl")
