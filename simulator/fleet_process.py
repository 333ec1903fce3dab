"""A fleet in a process of its own, and the handle on it.

    with FleetProcess(Asking(url, headers=["Authorization: Bearer ..."])) as fleet:
        fleet.reach(200)
        print(fleet.counts())

The two talk in JSON lines over the child's standard input and output, one answer to each
command. The child resets all connections and ends when its input ends, or after `seconds`.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from .endpoint import find_endpoint
from .errors import InconclusiveError, UsageError
from .fleet import Counts, Fleet, Outcome
from .launch import own_module
from .pacing import PROFILES, Share
from .reader import State

SMALL_BUFFER = 4096
"""SO_RCVBUF that makes a reader's own side hold next to nothing, so that the server must."""
OTHER_FILES = 64
"""Open files of the child that are no readers."""
LONGEST_SECONDS = 3600.0
PATIENCE = 20.0
"""Seconds without one more answer or byte after which those missing are left out."""
REACH_SECONDS = 300.0
"""Longest time for all to be there; thousands that read megabytes first take minutes."""
POLL_SECONDS = 0.05
END_SECONDS = 10.0
STALL = (Share(1, PROFILES["stall"]),)


@dataclass(frozen=True)
class Asking:
    """What all readers of a fleet ask for, and how they read.

    headers: lines as in `Authorization: Bearer ...`. receive_buffer: SO_RCVBUF in bytes, set
    before connect; 0 leaves the system's default. again: begin again when a body has ended.
    insecure: any certificate will do.
    """

    url: str
    headers: tuple[str, ...] = ()
    mix: tuple[Share, ...] = STALL
    seed: int = 1
    receive_buffer: int = SMALL_BUFFER
    again: bool = False
    insecure: bool = False
    seconds: float = LONGEST_SECONDS


def allow_files(readers: int) -> None:
    """Raise the limit of open files as far as it goes. Raises UsageError if it does not reach."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if readers + OTHER_FILES > hard:
        raise UsageError(
            f"{readers} readers need {readers + OTHER_FILES} open files, and {hard} are allowed",
            "raise `ulimit -Hn`, or ask for fewer --readers",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class FleetProcess:
    """Readers in another process, for as long as the context lasts."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def __enter__(self) -> Self:
        command, environment = own_module("fleet_process")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        try:
            shares = [
                (weight, profile.name, profile.parameters) for weight, profile in self._asking.mix
            ]
            self._tell(asking={**vars(self._asking), "mix": shares})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def reach(self, readers: int, watch: Callable[[Counts], None] = lambda counts: None) -> Counts:
        """Have so many readers; return when each is answered and has read what it reads first.

        Returns before that if nothing moves for PATIENCE, and after REACH_SECONDS whatever moves.
        watch: called with the counts, many times a second.
        """
        allow_files(readers)
        self._tell(reach=readers)
        before, start = (-1, -1), monotonic()
        progress = start
        while True:
            counts = self.counts()
            watch(counts)
            there = counts.readers == readers and not counts.on_their_way and not counts.behind
            # Some are always on their way where all begin again.
            enough = monotonic() - start > REACH_SECONDS
            if there or enough:
                return counts
            now = counts.readers - counts.on_their_way, counts.received
            if now != before:
                before, progress = now, monotonic()
            elif monotonic() - progress > PATIENCE:
                return counts
            sleep(POLL_SECONDS)

    def counts(self) -> Counts:
        return Counts(*self._tell(counts=True))

    def outcomes(self) -> list[Outcome]:
        return [Outcome(*row)._replace(state=State(row[2])) for row in self._tell(outcomes=True)]

    def close(self) -> None:
        """Reset all connections and end the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, **command: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise InconclusiveError("the process of the readers has ended")
        answer = json.loads(line)
        if "usage" in answer:
            raise UsageError(answer["usage"])
        return answer["done"]


def main() -> None:
    """The child: let the fleet turn, and answer each command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it, too, and hangs up
    commands = sys.stdin.fileno()
    wanted = json.loads(_line(commands))["asking"]
    shares = [
        Share(weight, replace(PROFILES[name], parameters=parameters))
        for weight, name, parameters in wanted["mix"]
    ]
    asking = Asking(**{**wanted, "headers": tuple(wanted["headers"]), "mix": tuple(shares)})
    deadline = monotonic() + asking.seconds
    try:
        endpoint = find_endpoint(
            asking.url,
            asking.headers,
            receive_buffer=asking.receive_buffer,
            insecure=asking.insecure,
        )
    except UsageError as error:
        _answer(usage=str(error))
        return
    fleet = Fleet(endpoint, asking.mix, asking.seed, again=asking.again)
    _answer(done=True)
    while monotonic() < deadline:
        ready, _, _ = select.select([commands, fleet], [], [], fleet.due())
        fleet.turn()
        if commands in ready:
            line = _line(commands)
            if not line:
                break
            _obey(fleet, json.loads(line))
    fleet.close()


def _obey(fleet: Fleet, command: dict[str, Any]) -> None:
    if "reach" in command:
        allow_files(command["reach"])
        fleet.reach(command["reach"])
        _answer(done=True)
    elif "counts" in command:
        _answer(done=fleet.counts())
    else:
        _answer(done=fleet.outcomes())


def _line(descriptor: int) -> bytes:
    """The next command: whole, as the parent writes one only after the answer to the last."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 65_536)
        if not piece:
            return b""
        line += piece
    return line


def _answer(**answer: object) -> None:
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
