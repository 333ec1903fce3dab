"""What an operator types: flags, environment, and one clear line for each thing gone wrong."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import apsw
import pytest

from service.settings import Settings
from tests.conftest import AUTHORIZATION, TOKEN, StartProcess

SECONDS = 60
FLAGS = ["--" + name.replace("_", "-") for name in Settings.model_fields]
FILES_AS_OTHERS_SEE_THEM = """
import ctypes, os, sys
drop_from_bounding_set, override_file_permissions = 24, 1
ctypes.CDLL(None).prctl(drop_from_bounding_set, override_file_permissions, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Runs Python without the privilege of root to write to what is read-only."""
TOKEN_FILES: dict[str, str | bytes] = {
    "no TOML": "[[token]\nname=",
    "no UTF-8": b"\xff\xfe",
    "empty": "",
    "no token": "token = []",
    "no table": "token = 7",
    "no scopes": '[[token]]\nname = "a"\nsecret = "long-secret-1"',
    "unknown scope": '[[token]]\nname = "a"\nsecret = "long-secret-1"\nscopes = ["all"]',
    "unknown key": '[[token]]\nname = "a"\nsecret = "long-secret-1"\nscopes = []\nmore = 1',
    "no secret": '[[token]]\nname = "a"\nscopes = ["read"]',
    "short secret": '[[token]]\nname = "a"\nsecret = "short"\nscopes = ["read"]',
    "both": f'[[token]]\nname = "a"\nsecret = "long-secret-1"\nsha256 = "{"0" * 64}"\nscopes = []',
    "no digest": '[[token]]\nname = "a"\nsha256 = "0"\nscopes = ["read"]',
    "same name": "".join(
        f'[[token]]\nname = "a"\nsecret = "long-secret-{number}"\nscopes = []\n' for number in "12"
    ),
    "too many": "".join(
        f'[[token]]\nname = "{number}"\nsecret = "long-secret-{number}"\nscopes = []\n'
        for number in range(2_001)
    ),
    "same secret": "".join(
        f'[[token]]\nname = "{name}"\nsecret = "long-secret-1"\nscopes = []\n' for name in "ab"
    ),
}


def weir(
    *arguments: str, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; a service that starts after all fails the test."""
    try:
        return subprocess.run(
            [sys.executable, *prefix, "-m", "service", *arguments],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"it went on: {late.stderr!r}") from None


def refused(done: subprocess.CompletedProcess[str], *names: str) -> str:
    """The one line of a refusal, which names the thing, above a hint."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not re.search(r"\[(info|warning) ", line)]
    assert len(lines) == 2, done.stderr
    said, hint = lines
    assert said.startswith("weir: ")
    assert re.match(r"  hint: .{10,}", hint)
    for name in names:
        assert name in said
    return said


def database(path: Path) -> str:
    return f"sqlite:///{path}"


def rows(path: Path) -> list[Any]:
    """All tasks in a database file."""
    connection = apsw.Connection(str(path))
    try:
        return connection.execute("SELECT * FROM task ORDER BY id").fetchall()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with ten tasks, made once."""
    path = tmp_path_factory.mktemp("template") / "made.db"
    done = weir("generate", "--rows", "10", "--database", database(path))
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def made(template: Path, tmp_path: Path) -> Path:
    """A database file with ten tasks, the test's own."""
    return Path(shutil.copy(template, tmp_path / "made.db"))


@pytest.fixture
def locked(made: Path) -> Iterator[Path]:
    """The same, not writable, in a folder that is not writable either."""
    made.chmod(0o444)
    made.parent.chmod(0o555)
    yield made
    made.parent.chmod(0o755)


def test_help_lists_every_flag() -> None:
    """--help names each setting's flag, its meaning, and how to say it in the environment."""
    done = weir("--help")
    assert done.returncode == 0
    assert set(FLAGS) <= set(re.findall(r"--[a-z-]+", done.stdout))
    assert "WEIR_MAX_STREAMS" in done.stdout
    for field in Settings.model_fields.values():
        assert str(field.description).split()[0] in done.stdout


def test_help_says_what_each_flag_takes() -> None:
    """--help shows sizes as they are typed, the choices of a flag, and no description cut short."""
    said = " ".join(weir("--help").stdout.split())
    for words in (
        "--page-bytes SIZE",
        "[default: 16KiB]",
        "[default: 2MiB]",
        "--log-format text|json",
        "--grace SECONDS",
        "--workers NUMBER",
        "[default: none]",
        "generate Append made-up tasks, the same ones for the same seed.",
    ):
        assert words in said
    assert "None" not in said
    assert "16384" not in said
    assert said.count("...") == 1  # in the line of usage
    assert said.index("Limits") < said.index("--max-streams NUMBER") < said.index("How long")


def test_help_of_generate_lists_its_flags() -> None:
    """generate --help names all that it takes."""
    done = weir("generate", "--help")
    assert done.returncode == 0
    assert {"--rows", "--seed", "--database"} <= set(re.findall(r"--[a-z-]+", done.stdout))


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--port", "x", "whole number from 0 to 65535"),
        ("--port", "65536", "whole number from 0 to 65535"),
        ("--port", "-1", "whole number from 0 to 65535"),
        ("--max-streams", "0", "whole number from 1 to 1000000"),
        ("--max-streams", "1.5", "whole number from 1 to 1000000"),
        ("--max-streams-per-token", "-3", "whole number from 1"),
        ("--max-connections", "many", "whole number from 1"),
        ("--page-bytes", "5", "size from 1KiB to 64KiB"),
        ("--page-bytes", "1GiB", "size from 1KiB to 64KiB"),
        ("--row-bytes", "16 apples", "size from 0 to 64MiB"),
        ("--read-ahead-bytes", "-1", "size from 0"),
        ("--workers", "0", "whole number from 1 to 64"),
        ("--stall-timeout", "0", "number of seconds above 0, 86400 at most"),
        ("--head-timeout", "nan", "number of seconds above 0, 86400 at most"),
        ("--grace", "inf", "number of seconds above 0, 86400 at most"),
        ("--log-format", "xml", "text or json"),
        ("--read-threads", "", "whole number from 1"),
        ("--allow-origin", "localhost:5173", "a scheme"),
        ("--allow-origin", "http://localhost:5173/", "nothing behind"),
        ("--allow-origin", "http://localhost/page", "nothing behind"),
        ("--allow-origin", "https://*.example", "a host"),
        ("--allow-origin", "http://localhost:port", "a port"),
        ("--allow-origin", "null", "*"),
        ("--allow-origin", "", "an origin"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, flag: str, value: str, allowed: str) -> None:
    """A value that does not fit is one line with the flag, the value and what is allowed."""
    done = weir("--database", database(tmp_path / "tasks.db"), f"{flag}={value}")
    refused(done, f"{flag} {value!r}: ", allowed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "blamed"),
    [
        ("WEIR_MAX_STREAMS", "many", "WEIR_MAX_STREAMS='many': it takes a whole number"),
        ("WEIR_PAGE_BYTES", "x", "WEIR_PAGE_BYTES='x': it takes a size from 1KiB to 64KiB"),
        ("WEIR_ALLOW_ORIGIN", "http://a:1 http://b:2/", "WEIR_ALLOW_ORIGIN='http://b:2/': "),
    ],
)
@pytest.mark.parametrize("command", [(), ("generate", "--rows", "5")])
def test_a_bad_variable_is_named(
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    name: str,
    value: str,
    blamed: str,
) -> None:
    """A value out of the environment that does not fit is blamed by the name of its variable."""
    monkeypatch.setenv(name, value)
    refused(weir(*command, "--database", database(tmp_path / "tasks.db")), blamed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-steams", "3"), "--max-streams"),
        (("--worker", "3"), "--workers"),
        (("generate", "--row", "3"), "--rows"),
        (("--port",), "--port"),
        (("serve",), "serve"),
    ],
)
def test_an_unknown_word_is_named(arguments: tuple[str, ...], said: str) -> None:
    """A flag or command that there is not is one line, with the one that may have been meant."""
    done = weir(*arguments)
    refused(done, arguments[-2] if len(arguments) > 1 else arguments[0], said)
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    "address", ["", "tasks.db", "sqlite://", "sqlite:///", "sqlite://tasks.db", "mysql://x/y"]
)
def test_an_address_of_no_database_is_named(address: str) -> None:
    """What is no address of a database is refused, with an example of one."""
    refused(weir("--database", address, "--port", "0"), repr(address))


@pytest.mark.parametrize("command", [(), ("generate", "--rows", "5")])
@pytest.mark.parametrize("kind", ["text", "directory", "no folder", "newer"])
def test_an_unfit_database_is_named(
    tmp_path: Path, made: Path, kind: str, command: tuple[str, ...]
) -> None:
    """A file that is not a database of ours is refused by name, and stays as it is."""
    path = tmp_path / "unfit.db"
    match kind:
        case "text":
            path.write_text("name,age\n" * 1_000)
        case "directory":
            path.mkdir()
        case "no folder":
            path = tmp_path / "nowhere" / "tasks.db"
        case "newer":
            path = made
            connection = apsw.Connection(str(path))
            connection.execute("PRAGMA user_version = 99")
            connection.close()
    before = path.read_bytes() if path.is_file() else b""
    said = refused(weir(*command, "--database", database(path)), str(path))
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert kind != "newer" or "99" in said


@pytest.mark.parametrize("command", [(), ("generate", "--rows", "5")])
def test_a_database_that_cannot_be_written_is_named(locked: Path, command: tuple[str, ...]) -> None:
    """A file without leave to write is refused at the start, not at the first write."""
    said = refused(
        weir(*command, "--database", database(locked), prefix=("-c", FILES_AS_OTHERS_SEE_THEM)),
        str(locked),
    )
    assert "writ" in said


def test_nothing_is_generated_in_a_database_of_another_program(tmp_path: Path) -> None:
    """A file with tables that we did not make is only read: it gets no tasks."""
    path = tmp_path / "theirs.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE task (id INTEGER PRIMARY KEY, title TEXT)")
    connection.close()
    before = path.read_bytes()
    said = refused(weir("generate", "--rows", "5", "--database", database(path)), str(path))
    assert "only read" in said
    assert path.read_bytes() == before


def test_a_port_in_use_is_named(made: Path) -> None:
    """Where another program listens already, the service says so and ends."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for workers in ("1", "2"):
            done = weir("--database", database(made), "--port", port, "--workers", workers)
            refused(done, port, "127.0.0.1")
            assert "another program has the port" in done.stderr


def test_a_host_that_is_not_here_is_named(made: Path, tmp_path: Path) -> None:
    """An address that this machine does not have is refused by name."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[[token]]\nname = "a"\nsecret = "long-secret-1"\nscopes = ["read"]')
    flags = ["--database", database(made), "--tokens", str(tokens), "--port", "0"]
    done = weir(*flags, "--host", "192.0.2.1")
    refused(done, "192.0.2.1")
    assert "--host names an address of this machine" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "weir.example"])
def test_others_are_not_let_in_without_tokens(made: Path, host: str) -> None:
    """On an address that others can reach the service does not start without a token file."""
    refused(weir("--database", database(made), "--host", host), host, "token")


@pytest.mark.parametrize("kind", ["missing", "directory", *TOKEN_FILES])
def test_an_unfit_token_file_is_named(made: Path, tmp_path: Path, kind: str) -> None:
    """A token file that is missing or wrong is refused by name, and no secret is shown."""
    path = tmp_path / "tokens.toml"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        text = TOKEN_FILES[kind]
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(weir("--database", database(made), "--tokens", str(path)), str(path))
    assert "long-secret" not in said


async def test_the_environment_sets_what_flags_set(
    spawn: StartProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WEIR_... variables count as flags do, and a flag goes before its variable."""
    tokens = tmp_path / "tokens.toml"
    secret = "a-secret-of-its-own"
    tokens.write_text(f'[[token]]\nname = "ci"\nsecret = "{secret}"\nscopes = ["ops"]')
    monkeypatch.setenv("WEIR_TOKENS", str(tokens))
    monkeypatch.setenv("WEIR_MAX_STREAMS", "7")
    monkeypatch.setenv("WEIR_MAX_CONNECTIONS", "9")
    process = spawn("--max-connections", "55")
    headers = {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession() as client:
        async with client.get(process.url + "/metrics", headers=headers) as response:
            assert response.status == 200
            text = await response.text()
        async with client.get(process.url + "/metrics", headers=AUTHORIZATION) as response:
            assert response.status == 401
    assert re.search(r'weir_limit\{.*"streams".*\} 7\.0', text)
    assert re.search(r'weir_limit\{.*"connections".*\} 55\.0', text)
    assert TOKEN not in process.log


def test_generate_makes_the_same_rows_again(tmp_path: Path) -> None:
    """The same seed makes the same tasks in another file; another seed makes others."""
    files = [tmp_path / name for name in ("one.db", "two.db", "other.db")]
    for path, seed in zip(files, ("7", "7", "8"), strict=True):
        done = weir("generate", "--rows", "2000", "--seed", seed, WEIR_DATABASE=database(path))
        assert done.returncode == 0, done.stderr
        assert "100%" in done.stderr or "generating" in done.stderr
    one, two, other = (rows(path) for path in files)
    assert len(one) == 2_000
    assert one == two
    assert one != other


def test_generate_appends(made: Path) -> None:
    """A second run keeps the tasks that there are and adds its own behind them."""
    before = rows(made)
    assert weir("generate", "--rows", "5", "--database", database(made)).returncode == 0
    after = rows(made)
    assert after[:10] == before
    assert [row[0] for row in after[10:]] == [11, 12, 13, 14, 15]


@pytest.mark.parametrize("flag", [("--rows", "0"), ("--rows", "many"), ("--seed", "x")])
def test_generate_names_a_bad_value(tmp_path: Path, flag: tuple[str, str]) -> None:
    """What generate cannot count is refused, and no file is made."""
    done = weir("generate", *flag, "--database", database(tmp_path / "tasks.db"))
    assert done.returncode == 2
    assert flag[0] in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
