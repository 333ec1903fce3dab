"""The house rules: who may import whom, how long a file may be, what the README says."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from service.settings import Settings
from service.tasks.routes import Tasks, task_routes
from service.web.catalogue import Catalogue
from service.web.exports import Exports
from service.web.lists import Lists
from service.web.operations import Operations
from service.web.routes import fixed_routes, relation_routes

ROOT = Path(__file__).parent.parent
SERVICE = (
    ("service.errors", "service.settings", "service.signals", "service.logs", "service.relation"),
    ("service.query", "service.team", "service.memory"),
    ("service.metrics", "service.formats"),
    ("service.engines",),
    ("service.tasks.model", "service.tasks.generate", "service.tasks.bodies"),
    ("service.tasks.sqlite_schema", "service.tasks.postgres_schema"),
    ("service.tasks.sqlite", "service.tasks.postgres"),
    ("service.databases",),
    ("service.stream",),
    ("service.web",),
    ("service.tasks.routes",),
    ("service.app",),
    ("service.workers",),
    ("service.command_line",),
    ("service.__main__",),
)
SIMULATOR = (
    ("simulator.errors", "simulator.pacing", "simulator.estimate", "simulator.probe"),
    ("simulator.plan", "simulator.endpoint"),
    ("simulator.reader", "simulator.fleet", "simulator.fleet_process", "simulator.launch"),
    ("simulator.record", "simulator.verdict"),
    ("simulator.checks", "simulator.judge"),
    ("simulator.body", "simulator.target", "simulator.survey", "simulator.trial"),
    ("simulator.specimens",),
    ("simulator.selftest", "simulator.run", "simulator.report"),
    ("simulator.pytest_plugin", "simulator.command_line"),
    ("simulator.__main__",),
)
LAYERS = {"service": SERVICE, "simulator": SIMULATOR}
"""From the ground up: a module imports from its own layer and from those before it."""
LONGEST_FILE = 400


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def layer(module: str) -> int | None:
    for number, names in enumerate(LAYERS.get(module.partition(".")[0], ())):
        if any(module == name or module.startswith(name + ".") for name in names):
            return number
    return None


def imported(path: Path) -> list[str]:
    """What a file imports, by full names; a relative import counts from the file's own package."""
    package = path.relative_to(ROOT).parent.parts
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{module}.{name.name}" for name in node.names]
    return found


@pytest.mark.parametrize(
    "path",
    [
        path
        for package in LAYERS
        for path in sources(package)
        if path.stem != "__init__" or path.parent.parent != ROOT
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_imports_go_downward(path: Path) -> None:
    """A module imports from its own layer or from one below it."""
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for name in imported(path):
        theirs = layer(name)
        assert theirs is None or (own is not None and theirs <= own), f"{path} imports {name}"


def test_the_simulator_does_not_know_the_service() -> None:
    """The simulator judges any server: it never imports this one."""
    for path in sources("simulator"):
        assert not [name for name in imported(path) if name.split(".")[0] == "service"], path


@pytest.mark.parametrize("package", LAYERS)
def test_imports_inside_a_package_are_relative(package: str) -> None:
    """Installed, the packages are called `tableweir.service` and `tableweir.simulator`."""
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).partition(".")[0] not in LAYERS, f"{path}:{node.lineno}"


OF_A_TASK = {"title", "priority", "status"}
"""Words of the tutorial's table."""
OF_THE_WEB = {"title", "status"}
"""Words that HTTP, RFC 9457 and HTML have, too, in a sense of their own."""


def words(path: Path) -> set[str]:
    """The words in a file's strings and attributes, but for its docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    # A string that is a statement of its own is a docstring.
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts: list[str] = []
    for node in ast.walk(tree):
        for name in ("attr", "value"):
            text = getattr(node, name, None)
            if isinstance(text, str) and id(node) not in said:
                texts.append(text)
    return set(re.findall(r"[a-z]+", " ".join(texts).lower()))


def test_only_one_folder_knows_what_a_task_is() -> None:
    """Outside `tasks/` no string and no attribute is about a column of the tutorial's table."""
    for path in sources("service"):
        folder = path.relative_to(ROOT).parts[1]
        if folder == "tasks":
            continue
        allowed = OF_THE_WEB if folder in ("web", "command_line.py", "errors.py") else set()
        assert not words(path) & OF_A_TASK - allowed, path


def test_every_package_is_installed() -> None:
    """The list of packages in pyproject.toml names each folder that has Python files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {path.parent.relative_to(ROOT) for package in LAYERS for path in sources(package)}
    expected = {"tableweir." + ".".join(folder.parts) for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == expected


def test_no_file_is_too_long() -> None:
    """No source file has more than 400 lines."""
    for package in ("service", "simulator", "scripts", "tests"):
        for path in sources(package):
            assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE, path


def test_the_readme_names_every_setting() -> None:
    """Each flag stands in the README with its default."""
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in Settings.model_fields:
        assert f"`--{name.replace('_', '-')}`" in readme, name


def test_the_readme_names_every_route() -> None:
    """Each route stands in the README."""
    readme = (ROOT / "README.md").read_text("utf-8")
    routes = fixed_routes(Catalogue.__new__(Catalogue), Operations.__new__(Operations))
    routes += relation_routes(Exports.__new__(Exports), Lists.__new__(Lists))
    for route in routes + task_routes(Tasks.__new__(Tasks)):
        assert f"`{route.path}`" in readme or f" {route.path}`" in readme, route.path


def test_no_file_names_an_address_to_install_from() -> None:
    """Dependencies are pinned by version, without download addresses."""
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        assert line.startswith("#") or (line.count("==") == 1 and "/" not in line), line


def test_scripts_are_valid_bash() -> None:
    """Every shell script parses."""
    for path in sorted((ROOT / "scripts").glob("*.sh")):
        subprocess.run(["bash", "-n", path], check=True)
