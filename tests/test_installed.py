"""What is installed, in other people's environments: one name at the top, and two commands."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
BARE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""An environment that does not lead to this checkout."""
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "service", "simulator")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    command = "-m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist ."
    subprocess.run([sys.executable, *command.split()], cwd=source, check=True)
    (made,) = (source / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that has the wheel, and sees what the tests' own has installed.

    It does not see this checkout: files that lead to one are read in an environment's own folder
    for packages only, not on PYTHONPATH.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = str(folder / "bin" / "python")
    command = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    subprocess.run([sys.executable, *command, str(wheel)], env=BARE, check=True)
    return folder


def run(
    environment: Path, *command: str, folder: Path, dependencies: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in a folder."""
    packages = {"PYTHONPATH": sysconfig.get_path("purelib")} if dependencies else {}
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=folder,
        env=BARE | packages,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_wheel_has_one_name_at_the_top(wheel: Path) -> None:
    """Nothing but `tableweir` is put among other people's packages, and no test or script."""
    names = ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"tableweir"}
    assert "tableweir/service/web/index.html" in names
    assert "tableweir/simulator/report/templates/report.html" in names


OWN_TEST = """
import service, simulator
from tableweir.service.settings import Settings

def test_names():
    assert service.mine and simulator.mine
    assert Settings().port == 3000

def test_the_fixture(slow_readers):
    from tableweir.simulator.verdict import Outcome
    url = slow_readers.start(
        "{python} -m tableweir.simulator.specimens kernel-hungry --port {{port}}"
    )
    verdict = slow_readers.judge(f"{{url}}/?bytes=8000000", readers=30)
    assert verdict.process in (Outcome.BOUNDED, Outcome.INCONCLUSIVE), verdict
"""


def test_a_project_keeps_its_own_service_and_simulator(environment: Path, tmp_path: Path) -> None:
    """A project with packages of these names can run pytest, with the fixture, beside ours."""
    for name in ("service", "simulator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("mine = True\n", "utf-8")
    test = OWN_TEST.format(python=environment / "bin" / "python")
    (tmp_path / "test_own.py").write_text(test, "utf-8")
    command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_own.py")
    result = run(environment, *command, folder=tmp_path)
    assert "2 passed" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize("command", ["weir", "weir-sim"])
def test_the_commands_are_there(command: str, environment: Path, tmp_path: Path) -> None:
    """`weir` and `weir-sim` start from any folder, whatever packages stand in it."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise SystemExit('mine')", "utf-8")
    result = run(environment, command, "--help", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage: "), result.stdout


@pytest.mark.parametrize(("command", "extra"), [("weir", "service"), ("weir-sim", "simulator")])
def test_a_bare_installation_says_what_is_missing(
    command: str, extra: str, environment: Path, tmp_path: Path
) -> None:
    """Without its extra, a command says in one line how it is installed."""
    words = ("run", "http://127.0.0.1:1/") if command == "weir-sim" else ()
    result = run(environment, command, *words, folder=tmp_path, dependencies=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert f"pip install 'tableweir[{extra}]'" in result.stderr
