"""What the benchmark's measurements share: sizes, targets, tables, and servers at rest."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

import click
from bench_servers import AUTHORIZATION, CSV, SERVERS, STOP_SECONDS, Server, fetch, run
from rich.console import Console
from rich.table import Table

from simulator.fleet_process import Asking, FleetProcess
from simulator.plan import parse_mix
from simulator.probe import memory, queues

KIB, MIB = 1024, 1024 * 1024
LOOK_SECONDS = 2.0
"""Between two looks at memory; it is steady when two differ by less than 1 %."""
STEADY_LOOKS = 60


class Sizes(NamedTuple):
    """How much is measured.

    rows: of rates, beside and stalled. long_rows: of first-byte and scale. busy: seconds that
    each size of scale takes at least. settle: seconds for a service to give back what it has
    freed, which Weir does within 10 s. posted: rows by POST. stalled: readers, SO_RCVBUF, bytes
    read first.
    """

    rows: int = 3_000_000
    rounds: int = 5
    long_rows: int = 10_000_000
    first_bytes: int = 20
    scale: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    busy: float = 3.0
    settle: float = 15.0
    beside: int = 1_000
    warm_up: int = 200
    posted: int = 300_000
    stalled: tuple[tuple[int, int, int], ...] = (
        (1_000, 4096, 0),
        (5_000, 4096, 0),
        (10_000, 4096, 0),
        (1_000, 0, 0),
        (1_000, 0, 10_000_000),
    )


QUICK = Sizes(
    rows=200_000,
    rounds=2,
    long_rows=200_000,
    settle=0.5,
    busy=1.0,
    first_bytes=5,
    scale=(2_000, 20_000, 200_000),
    beside=100,
    warm_up=50,
    posted=20_000,
    stalled=((200, 4096, 0), (50, 0, 100_000)),
)


Found = tuple[Table, Any]
"""What a measurement hands back: a table for people, and figures for the JSON file."""


class Goal(NamedTuple):
    """A figure and the target beside it: at least `target`, or at most."""

    figure: str
    value: float
    target: float
    unit: str = ""
    at_least: bool = False

    @property
    def reached(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass
class Bench:
    """What all measurements share: sizes, where files go, and what has been found."""

    sizes: Sizes
    folder: Path
    console: Console
    goals: list[Goal] = field(default_factory=list)

    def table(self, rows: int) -> Path:
        """A database of so many tasks, made at its first use."""
        path = self.folder / f"tasks-{rows}.db"
        if not path.exists():
            self.say(f"generating {rows:,} tasks")
            unfinished = path.with_suffix(".part")
            for old in self.folder.glob(unfinished.name + "*"):
                old.unlink()
            command = [sys.executable, "-m", "service", "generate", "--rows", str(rows)]
            run([*command, "--database", f"sqlite:///{unfinished}"])
            unfinished.rename(path)
        return path

    def weir(self, rows: int, *flags: str) -> Server:
        """Weir on a table of so many rows, as it comes but for these flags."""
        command = [sys.executable, "-m", "service", "--port", "0", "--log-format", "json"]
        database = f"sqlite:///{self.table(rows)}"
        return Server([*command, "--grace", "1", "--database", database, *flags], self._log())

    def other(self, kind: str) -> Server:
        command = [sys.executable, str(SERVERS), kind, str(self.table(self.sizes.rows))]
        return Server(command, self._log())

    @contextmanager
    def companion(self) -> Iterator[None]:
        """A second, idle Weir. Memory shared with another process is not in the USS: it would
        move by 13 MB whenever anybody starts or ends a Python with the same libraries."""
        with self.weir(min(self.sizes.scale)) as server:
            run(fetch(server, CSV))
            yield

    def say(self, text: str) -> None:
        self.console.print(text, style="dim", highlight=False)

    def settled(self, server: Server) -> int:
        """Bytes of USS when nobody is connected and what was freed is given back."""
        nobody_left(server)
        sleep(self.sizes.settle)
        return steady(server)[0]

    def judge(self, goal: Goal) -> str:
        """Note a figure with its target, and return the mark that stands beside it."""
        self.goals.append(goal)
        return verdict(goal)

    def _log(self) -> Path:
        number = len(list(self.folder.glob("server-*.log")))
        return self.folder / f"server-{number}.log"


def verdict(goal: Goal) -> str:
    return "[green]reached[/]" if goal.reached else "[bold red]missed[/]"


def steady(server: Server) -> tuple[int, int]:
    """Bytes of USS and of send queues, once two looks in a row are alike, or at last anyway."""
    last = memory(server.pid).uss, queues(server.port).tx_queue
    for _ in range(STEADY_LOOKS):
        sleep(LOOK_SECONDS)
        now = memory(server.pid).uss, queues(server.port).tx_queue
        if all(abs(a - b) <= 0.01 * max(a, b) for a, b in zip(last, now, strict=True)):
            return now
        last = now
    return last


def nobody_left(server: Server) -> None:
    for _ in range(STOP_SECONDS * 10):
        if not queues(server.port).sockets:
            return
        sleep(0.1)
    raise click.ClickException("connections that were closed are still there")


@contextmanager
def stall(
    server: Server, readers: int, receive_buffer: int = 4096, first: int = 0, *, path: str = CSV
) -> Iterator[FleetProcess]:
    """Readers that have stopped, from the first byte or after so many bytes."""
    mix = parse_mix(f"read-then-stall:first={first}" if first else "stall")
    asking = Asking(server.url + path, (AUTHORIZATION,), mix, receive_buffer=receive_buffer)
    with FleetProcess(asking) as fleet:
        fleet.reach(readers)
        yield fleet
