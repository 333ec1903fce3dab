"""Servers of our own: started by a command, and ended by the id of their process group."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from secrets import choice
from time import monotonic, sleep

from .endpoint import place
from .errors import UsageError

START_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02
LOG_BYTES = 1024 * 1024
"""Of what a server says, read to tell why it did not start."""
LISTENING = re.compile(r"listening on port (\d+)")
PORTS = range(10_000, 32_768)
"""Those that Linux gives to nobody by itself: above, any connection may take one, and any program
that looks for a port at the same moment would be given the same."""
_given: set[int] = set()


class PortTakenError(UsageError):
    """Somebody else listens on the port that a server was to have."""


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
    Raises PortTakenError if somebody else listens there, and UsageError, with the last that the
    server said, if it does not come to listen.
    """
    where = place(url)
    if _accepts(where.host, where.port):
        raise PortTakenError(
            f"something listens on port {where.port} already, before --command was run",
            "stop it, or leave --command out to judge it",
        )
    with _running(command, environment) as (process, said):
        deadline = monotonic() + START_SECONDS
        while not _accepts(where.host, where.port):
            if process.poll() is not None or monotonic() > deadline:
                raise _silent(command, f"does not listen on port {where.port}", said())
            sleep(POLL_SECONDS)
        yield process.pid


@contextmanager
def started_anywhere(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[int, int]]:
    """Run a server that chooses its port itself and says `listening on port N`, for as long as
    the context lasts; gives its process id and the port.

    Nobody else can take a port that was never free. Raises UsageError as `started` does.
    """
    with _running(command, environment) as (process, said):
        deadline = monotonic() + START_SECONDS
        while not (found := LISTENING.search(said())):
            if process.poll() is not None or monotonic() > deadline:
                raise _silent(command, "does not say on which port it listens", said())
            sleep(POLL_SECONDS)
        yield process.pid, int(found[1])


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str] | None
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """A process in a group of its own, and what it has said so far; the group ends with it."""
    with tempfile.TemporaryFile() as log:

        def said() -> str:
            return os.pread(log.fileno(), LOG_BYTES, 0).decode("utf-8", "replace")

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
            yield process, said
        finally:
            _end(process)


def _silent(command: Sequence[str], what: str, said: str) -> UsageError:
    last = " / ".join(said.split("\n")[-4:]).strip(" /")
    return UsageError(f"{shlex.join(command)!r} {what}", f"it said: {last or 'nothing'}")


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
