"""Servers of our own: started by a command, and ended by the id of their process group."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from secrets import choice
from time import monotonic, sleep

from .endpoint import place
from .errors import UsageError

START_SECONDS = 30.0
STOP_SECONDS = 10.0
PORTS = range(10_000, 32_768)
"""Those that Linux gives to nobody by itself: above, any connection may take one, and any program
that looks for a port at the same moment would be given the same."""
_given: set[int] = set()


def own_module(name: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that run a module of this package in a process of its own.

    The module is imported from where this one was, under whatever name the package has there, and
    never from the folder that the user happens to stand in.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return [sys.executable, "-P", "-m", f"{__package__}.{name}"], environment


@contextmanager
def started(
    command: Sequence[str], url: str, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a server for as long as the context lasts; gives its process id once it accepts.

    environment: its variables; this process's own if left out. Its whole process group is ended.
    Raises UsageError, with the last it said, if it does not come to listen.
    """
    where = place(url)
    if _accepts(where.host, where.port):
        raise UsageError(
            f"something listens on port {where.port} already, before --command was run",
            "stop it, or leave --command out to judge it",
        )
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        except OSError as fault:
            raise UsageError(f"{command[0]!r} cannot be run: {fault.strerror}") from None
        try:
            deadline = monotonic() + START_SECONDS
            while not _accepts(where.host, where.port):
                if process.poll() is not None or monotonic() > deadline:
                    log.seek(0)
                    said = " / ".join(log.read().decode("utf-8", "replace").split("\n")[-4:])
                    raise UsageError(
                        f"{shlex.join(command)!r} does not listen on port {where.port}",
                        f"it said: {said.strip(' /') or 'nothing'}",
                    )
                sleep(0.05)
            yield process.pid
        finally:
            _end(process)


def free_port() -> int:
    """A port of the loopback address that nobody listens on now; never the same one twice."""
    while True:
        port = choice(PORTS)
        if port not in _given:
            _given.add(port)
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                return port


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group that was started to end, then make it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
