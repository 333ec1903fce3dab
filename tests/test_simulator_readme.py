"""The simulator's README: its examples are bounded, its commands run, its tables are whole."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from simulator.command_line import main
from simulator.errors import EXIT_INCONCLUSIVE
from simulator.pacing import PROFILES
from tests.conftest import StartProcess

README = (Path(__file__).parent.parent / "simulator" / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(?:python|javascript)\n(?:#|//) (\S+)\n(.*?)```", README, re.DOTALL)
COMMANDS = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).splitlines()

TRIES = 2
"""A trial that proved nothing, as beside much other load, is tried once more."""


@pytest.mark.parametrize(
    "files",
    [("server.py", "test_export.py"), ("app.py", "test_fastapi.py"), ("server.js", "test_node.py")],
    ids=lambda files: files[1],
)
def test_an_example_is_bounded(files: tuple[str, str], tmp_path: Path) -> None:
    """Server and test of an example, as they stand there, are green in a folder of their own."""
    if files[0].endswith(".js") and not shutil.which("node"):
        pytest.skip("node is not installed")
    for name, text in BLOCKS:
        if name in files:
            (tmp_path / name).write_text(text, "utf-8")
    assert {path.name for path in tmp_path.iterdir()} == set(files)
    for _ in range(TRIES):
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", files[1]],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if "outcome=<Outcome.INCONCLUSIVE" not in result.stdout:
            break
    assert "1 passed" in result.stdout, result.stdout + result.stderr


def test_the_commands(spawn: StartProcess, table: Path, tmp_path: Path) -> None:
    """Each command there runs, and ends as it should: a run, its reports, what is listed."""
    expected = {"run": 0, "--output": 0, "--user-budget": 1, "profiles": 0}
    for number in range(TRIES):
        service = spawn("--read-ahead-bytes", "1MiB", database=table)
        folder = tmp_path / str(number)
        folder.mkdir()
        ends = {word: end_of(word, service.port, folder) for word in expected}
        if EXIT_INCONCLUSIVE not in ends.values():
            break
    assert ends == expected
    assert {"trial.ndjson", "trial.html", "trial.png"} <= {path.name for path in folder.iterdir()}
    # What is left is what tests/test_backpressure.py does, a specimen at a time.
    assert len(COMMANDS) == len(expected) + 1
    assert COMMANDS[3] == ".venv/bin/weir-sim self-test"


def end_of(word: str, port: int, folder: Path) -> int:
    """The exit code of the command there that has this word, with a service at this port."""
    (command,) = [each for each in COMMANDS if word in each.split()]
    words = shlex.split(command.replace(":3000", f":{port}"))
    assert words[0] == ".venv/bin/weir-sim"
    return subprocess.run(
        [sys.executable, "-m", "simulator", *words[1:]],
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=False,
    ).returncode


def test_every_option_and_profile_is_there() -> None:
    """Each option of `run` stands there, and each profile with its parameters."""
    assert isinstance(main, click.Group)
    for parameter in main.commands["run"].params:
        for name in parameter.opts:
            assert f"`{name}`" in README or parameter.param_type_name == "argument", name
    for profile in PROFILES.values():
        _, _, parameters = str(profile).partition(":")
        row = next(line for line in README.splitlines() if line.startswith(f"| `{profile.name}` |"))
        assert row.endswith(f"| `{parameters}` |" if parameters else "| |")
