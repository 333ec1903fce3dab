"""Weir under slow readers, writers and fast downloads at once, for as long as it is told.

    .venv/bin/python scripts/soak.py --minutes 60

Wants curl, and nothing but what it starts itself, on loopback. The exit code is 0 if every
promise held, 1 if one did not, 2 if it could not begin and 3 if it cannot tell.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from statistics import median_low
from time import monotonic, sleep
from typing import Never

import _checkout  # noqa: F401
import click
import psutil
from bench_servers import AUTHORIZATION, STOP_SECONDS, Server, run
from rich.console import Console
from soak_files import CSV, NDJSON
from soak_load import GENERATE_SEED, SLOW, Load
from soak_verdict import MIB, Sample, Seen, conclude, figures, judge, verdicts

from simulator.errors import EXIT_INCONCLUSIVE, EXIT_USAGE, SimulatorError
from simulator.fleet import Counts, Outcome
from simulator.fleet_process import Asking, FleetProcess, allow_files
from simulator.pacing import PROFILES
from simulator.plan import parse_mix
from simulator.probe import STANDING, connections, memory, open_files, queues
from simulator.reader import State

FEWEST_READERS, MOST_READERS = 4, 9_000
"""Weir lets 10,000 streams in; the downloads want a place, too."""
MOST_MINUTES = 7 * 24 * 60
LOOK_SECONDS = 0.5
"""Between two samples: a reader that was dropped shows for a second before it begins anew."""
PROFILES_AT_ONCE = (3, 5)
HEAVIEST = 9
STILL = ("stall", "drip", "steady", "tiny-window")
STILL_EVERY = 4
"""Of so many fleets the first is of STILL ones only, which never keep up, so that nothing is
read ahead for them: what memory it takes is the readers' own. Others keep up for a while."""
SHORT_ROWS = 1_000
"""Rows of the export that every third fleet asks for: its readers get to the end, and anew."""
REST_SECONDS = 2.2
"""What a rest takes out of a fleet's time: Weir gives freed memory back within a second."""
SETTLE_SECONDS = 1.6
REST_LOOKS = 3
DRAIN_SECONDS = 10.0
"""Until those who were sent away are gone, at most; a fast download ends within it."""
CALM_SECONDS = 2.5
"""At a fleet's end without new fast downloads: memory is the readers', as what was read ahead is
given back within a second. In a short turn it is less, a quarter."""
OTHERS = SLOW + 1
"""Connections that stay during a rest: the slow downloads and the writer."""
DROPPED_BY_DESIGN = "half-close-then-stall"
"""A client that shuts its sending side counts as gone."""
LOST = (State.DROPPED, State.REFUSED, State.FAILED)
GRACE_SECONDS = 2


class Weir(Server):
    """The service under test, as it comes but for its log."""

    def __init__(self, database: Path, log: Path) -> None:
        command = [sys.executable, "-m", "service", "--port", "0", "--log-format", "json"]
        command += ["--grace", str(GRACE_SECONDS), "--database", f"sqlite:///{database}"]
        super().__init__(command, log)

    @property
    def died(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> int | None:
        """Its exit code after SIGTERM; None if it does not end."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def complaints(self) -> list[str]:
        """Lines of its log that should not be there: errors, tracebacks, what is no JSON."""
        return [line for line in self._log.read_text("utf-8").splitlines() if _complains(line)]


def _complains(line: str) -> bool:
    try:
        told = json.loads(line)
    except ValueError:
        return True
    return told.get("level") not in ("info", "warning") or "Traceback" in line


@dataclass(frozen=True)
class Crew:
    """One fleet: how many readers, of which profiles by weight, and what they ask for."""

    number: int
    readers: int
    mix: str
    target: str
    receive_buffer: int
    seed: int
    still: bool


def crews(most: int, seed: int) -> Iterator[Crew]:
    """Fleets without end. But for the still ones, which are full, every profile has its turn
    before any has another."""
    random = Random(seed)
    deck: list[str] = []
    for number in count(1):
        still = number % STILL_EVERY == 1
        chosen = dict.fromkeys(STILL)
        if not still:
            wanted = random.randint(*PROFILES_AT_ONCE)
            while len(deck) < wanted:
                deck += random.sample(list(PROFILES), len(PROFILES))
            chosen, deck = dict.fromkeys(deck[:wanted]), deck[wanted:]
        mix = "+".join(f"{random.randint(1, HEAVIEST)}*{name}" for name in chosen)
        readers = most if still else random.randint(max(1, most // 4), most)
        route = random.choice((CSV, NDJSON))
        target = route if number % 3 else f"{route}?limit={SHORT_ROWS}"
        yield Crew(number, readers, mix, target, random.choice((4096, 0)), number, still)


class _TimeIsUpError(Exception):
    """The fleet's time has passed while its readers were still on their way."""


class _EndError(Exception):
    """The soak cannot go on."""


class Soak:
    """The main thread's part: one fleet after the other, with samples of memory all the while."""

    def __init__(self, server: Weir, load: Load, database: Path, seen: Seen) -> None:
        self.server, self.load, self.seen = server, load, seen
        self._wal = Path(f"{database}-wal")
        self._process = psutil.Process(server.pid)
        self._start = self._looked = monotonic()
        self._calm_at = 0.0

    @property
    def at(self) -> float:
        return monotonic() - self._start

    def run(self, change: float, seed: int, console: Console) -> None:
        """Fleet after fleet until the minutes are over; a rest before, between and behind."""
        end = self.seen.minutes * 60
        self.rest()
        for crew in crews(self.seen.readers, seed):
            begin = self.at
            if begin >= end:
                break
            until = min(begin + max(change - REST_SECONDS, change / 2), end)
            highest = self.hold(crew, until)
            self.rest()
            resting = self.seen.rests[-1]
            console.print(
                f"{begin:6.0f} s  fleet {crew.number}: {highest} of {crew.readers} standing, "
                f"receive buffer {crew.receive_buffer}, {crew.mix}, {crew.target}; at rest "
                f"{resting.process / MIB:.1f} + {resting.kernel / MIB:.1f} MiB",
                highlight=False,
                soft_wrap=True,
            )

    def hold(self, crew: Crew, until: float) -> int:
        """Have a fleet read until then; returns the most readers that stood at once."""
        seconds = until - self.at + DRAIN_SECONDS  # should this process be killed, it ends, too
        asking = Asking(
            self.server.url + crew.target,
            (AUTHORIZATION,),
            parse_mix(crew.mix),
            crew.seed,
            crew.receive_buffer,
            again=True,
            seconds=seconds,
        )
        before = len(self.seen.samples)
        self._calm_at = until - min(CALM_SECONDS, (until - self.at) / 4)
        with FleetProcess(asking) as fleet:
            self._stay(fleet, crew, until)
            self._sample(fleet, crew)
            if crew.still:
                self.seen.calm.append(self.seen.samples[-1])
            self.seen.begun += fleet.counts().begun
        self.seen.fleets += 1
        return max(each.standing for each in self.seen.samples[before:])

    def rest(self) -> None:
        """Let all but the slow downloads go, and note the memory that is left."""
        self.load.fast_may_go.clear()
        deadline = monotonic() + DRAIN_SECONDS
        while queues(self.server.port).sockets > OTHERS and monotonic() < deadline:
            sleep(0.05)
        sleep(SETTLE_SECONDS)
        looks = []
        for _ in range(REST_LOOKS):
            looks.append(self._now([]))
            sleep(0.1)
        columns = list(zip(*looks, strict=True))
        self.seen.rests.append(Sample(*(median_low(column) for column in columns)))
        self.load.fast_may_go.set()

    def files_at_end(self, expected: int) -> int:
        """Open files once nobody is connected; looked at until they are as few as expected."""
        deadline = monotonic() + DRAIN_SECONDS
        while (files := open_files([self._process])) > expected and monotonic() < deadline:
            sleep(0.1)
        return files

    def _stay(self, fleet: FleetProcess, crew: Crew, until: float) -> None:
        # Readers that abort, or end and begin anew, are on their way again all the time.
        try:
            fleet.reach(crew.readers, partial(self._look, fleet, crew, until))
            while True:
                self._look(fleet, crew, until, fleet.counts())
                sleep(0.1)
        except _TimeIsUpError:
            return

    def _look(self, fleet: FleetProcess, crew: Crew, until: float, _: Counts) -> None:
        """Take a sample if one is due; called many times a second."""
        if self.load.crash:
            raise _EndError(f"a part of the load ended: {self.load.crash}")
        if monotonic() - self._looked >= LOOK_SECONDS:
            self._sample(fleet, crew)
        if self.at >= self._calm_at:
            self.load.fast_may_go.clear()
        if self.at >= until:
            raise _TimeIsUpError

    def _sample(self, fleet: FleetProcess, crew: Crew) -> None:
        self._looked = monotonic()
        outcomes = fleet.outcomes()
        self.seen.samples.append(self._now(outcomes))
        for each in outcomes:
            self.seen.profiles.add(each.profile)
            if each.state in LOST and each.profile != DROPPED_BY_DESIGN:
                told = f"fleet {crew.number}, reader {each.number} ({each.profile}): {each.fault}"
                if told not in self.seen.lost:
                    self.seen.lost.append(told)

    def _now(self, outcomes: list[Outcome]) -> Sample:
        ports = {each.port for each in outcomes if each.state is State.STANDING}
        ends = connections(self.server.port)
        files = open_files([self._process])
        return Sample(
            at=self.at,
            process=memory(self.server.pid).private,
            kernel=sum(each.tx_queue for each in ends),
            readers_kernel=sum(each.tx_queue for each in ends if each.peer in ports),
            standing=len(ports),
            files=files - sum(each.state in STANDING for each in ends),
            wal=self._wal.stat().st_size if self._wal.exists() else 0,
        )


def soak(
    folder: Path, seen: Seen, console: Console, *, rows: int, change: float, seed: int
) -> None:
    """Run it all, and note what is seen. Raises ClickException or UsageError before it begins."""
    database = folder / "tasks.db"
    console.print(f"generating {rows:,} tasks", style="dim", highlight=False)
    generate = [sys.executable, "-m", "service", "generate", "--rows", str(rows)]
    run([*generate, "--seed", str(GENERATE_SEED), "--database", f"sqlite:///{database}"])
    with Weir(database, folder / "service.log") as server:
        load = Load(server, folder, rows, seed)
        whole = Soak(server, load, database, seen)
        begin = monotonic()
        try:
            with load:
                whole.run(change, seed, console)
                load.finish()
                load.check_last()
                seen.files_at_end = whole.files_at_end(seen.rests[0].files)
        except (_EndError, SimulatorError, psutil.Error, OSError) as fault:
            seen.trouble = "the service died" if server.died else str(fault)
        seen.seconds = monotonic() - begin
        seen.tallies, seen.faults = load.tallies, load.faults
        seen.died = server.died
        seen.exit_code = server.stop()
        seen.complaints = server.complaints()


def _stop(*_: object) -> Never:
    raise KeyboardInterrupt


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.1, max=MOST_MINUTES),
    default=10,
    show_default=True,
    help="how long",
)
@click.option(
    "--rows",
    type=click.IntRange(min=SHORT_ROWS, max=10_000_000),
    default=200_000,
    show_default=True,
    help="generated tasks, which every download must hold",
)
@click.option(
    "--readers",
    type=click.IntRange(FEWEST_READERS, MOST_READERS),
    default=300,
    show_default=True,
    help="slow readers at once, at most",
)
@click.option(
    "--change",
    type=click.FloatRange(min=2, max=3_000),
    default=15,
    show_default=True,
    help="seconds until another fleet comes",
)
@click.option("--seed", type=int, default=1, show_default=True, help="of mixes and of writes")
def main(*, minutes: float, rows: int, readers: int, change: float, seed: int) -> None:
    """Hold Weir to its promises while slow readers come and go, beside writes and downloads."""
    if shutil.which("curl") is None:
        raise click.UsageError("curl is not in PATH")
    signal.signal(signal.SIGTERM, _stop)
    console = Console(width=None if sys.stdout.isatty() else 120)
    seen = Seen(minutes, readers)
    try:
        allow_files(readers)
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-soak-"))
            soak(Path(folder), seen, console, rows=rows, change=change, seed=seed)
    except (SimulatorError, click.ClickException, OSError) as fault:
        said = fault.message if isinstance(fault, click.ClickException) else fault
        click.echo(f"soak: {said}", err=True)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        click.echo("VERDICT: could not tell: stopped before its time")
        sys.exit(EXIT_INCONCLUSIVE)
    promises = judge(seen)
    console.print(figures(seen))
    console.print(verdicts(promises))
    for told in [*seen.faults, *seen.lost[:5], *seen.complaints[:5]]:
        console.print(told, style="red", markup=False, highlight=False, soft_wrap=True)
    exit_code, sentence = conclude(seen, promises)
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
