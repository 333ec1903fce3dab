"""The record of a trial: one NDJSON line for the plan, the machine, each sample, each reader.

What is measured is written down at once and judged later, so that a record can be judged
again, by other budgets or by a later version.
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NamedTuple, TextIO

import psutil
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import UsageError
from .plan import Plan
from .reader import State

VERSION = 1
Kind = Literal["warm-up", "base", "dose", "staircase", "hold", "ratchet", "rest"]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanLine(_Line):
    """What was asked for, without secrets."""

    type: Literal["plan"] = "plan"
    version: Literal[1] = 1
    started: str
    plan: Plan


class MachineLine(_Line):
    """Where it ran. wmem, rmem: the kernel's least, default and most bytes of a socket's buffer."""

    type: Literal["machine"] = "machine"
    system: str
    cores: int
    memory: int
    python: str
    wmem: tuple[int, ...]
    rmem: tuple[int, ...]


class ServerLine(_Line):
    """What was judged. program: the executable's name. allocator: what its environment sets.
    missing: figures that cannot be had here, with the reason. body, small_body: bytes; the
    least that they are, if `at_least`."""

    type: Literal["server"] = "server"
    pids: tuple[int, ...]
    program: str
    allocator: dict[str, str]
    missing: dict[str, str]
    body: int
    at_least: bool = False
    small_body: int = 0


class SelfTestLine(_Line):
    """Whether this machine can tell: bytes of process memory that a reader cost two specimens."""

    type: Literal["self-test"] = "self-test"
    bounded: float
    unbounded: float
    passed: bool


class PhaseLine(_Line):
    """A part of the trial begins. at: seconds since the start. readers: wanted in it."""

    type: Literal["phase"] = "phase"
    at: float
    name: str
    kind: Kind
    readers: int


class Sample(_Line):
    """One look at the server. process: private memory of its process tree; kernel: its send
    queues; both in bytes, None where they cannot be had. readers: those in the middle of a body.
    touched: bytes used since the base; see probe.Memory. sockets: connections that stand.
    files: open files. settled: memory had come to rest."""

    type: Literal["sample"] = "sample"
    at: float
    phase: str
    settled: bool
    readers: int
    process: int | None
    kernel: int | None
    rss: int | None = None
    uss: int | None = None
    touched: int | None = None
    sockets: int | None = None
    files: int | None = None


class ReaderLine(_Line):
    """One reader at the end of a phase.

    taken: bytes that the server's kernel has accepted for it: received, waiting on its own side,
    and in the server's queue. queue: those in the server's queue; None if unknown. pressed: it
    held the server up: both ends open, the queue not empty. closed: the server has closed its
    end and left the queue to the kernel; in_kernel: with the whole body taken.
    """

    type: Literal["reader"] = "reader"
    phase: str
    number: int
    profile: str
    state: State
    received: int
    taken: int
    queue: int | None
    pressed: bool
    closed: bool
    in_kernel: bool
    fault: str = ""

    @property
    def lost(self) -> bool:
        """Whether the server gave it up before the whole body was on its way."""
        return self.state is State.DROPPED or (self.closed and not self.in_kernel)

    @property
    def fate(self) -> str:
        """What became of it, in words."""
        if self.pressed:
            return "held the server up"
        if self.in_kernel:
            return "got the whole body into the kernel's buffers"
        if self.lost:
            return "dropped by the server"
        known = {
            State.CONNECTING: "did not get a connection",
            State.ASKING: "did not get an answer",
            State.STANDING: "kept nothing waiting",
            State.WHOLE: "got the whole body",
            State.REFUSED: f"refused ({self.fault})",
        }
        return known.get(self.state, f"failed ({self.fault})")


class FaultLine(_Line):
    """What ended the trial early. growth: it was the server's growth, past the ceiling."""

    type: Literal["fault"] = "fault"
    at: float
    message: str
    growth: bool = False


class EndLine(_Line):
    """The trial came to its end: a record without one is a part of a trial, and proves nothing."""

    type: Literal["end"] = "end"
    at: float


Line = Annotated[
    PlanLine
    | MachineLine
    | ServerLine
    | SelfTestLine
    | PhaseLine
    | Sample
    | ReaderLine
    | FaultLine
    | EndLine,
    Field(discriminator="type"),
]
_LINE: TypeAdapter[Line] = TypeAdapter(Line)


class Looks(NamedTuple):
    """Samples that belong together."""

    samples: tuple[Sample, ...]

    @property
    def times(self) -> list[float]:
        return [each.at for each in self.samples]

    @property
    def readers(self) -> list[int]:
        return [each.readers for each in self.samples]

    def values(self, name: str) -> list[int]:
        """Those of a figure that are known, in bytes or files."""
        return [value for each in self.samples if (value := getattr(each, name)) is not None]


class Record:
    """A trial as it was written down; lines are added with `add`, to `file` as well if given."""

    def __init__(self, plan: Plan, file: TextIO | None = None) -> None:
        self.plan = plan
        self.started = ""
        self.machine: MachineLine | None = None
        self.server: ServerLine | None = None
        self.self_test: SelfTestLine | None = None
        self.fault: FaultLine | None = None
        self.end: EndLine | None = None
        self.phases: list[PhaseLine] = []
        self.samples: list[Sample] = []
        self.readers: list[ReaderLine] = []
        self._file = file

    def add(self, line: Line) -> None:
        match line:
            case PlanLine():
                self.plan, self.started = line.plan, line.started
            case MachineLine():
                self.machine = line
            case ServerLine():
                self.server = line
            case SelfTestLine():
                self.self_test = line
            case FaultLine():
                self.fault = line
            case EndLine():
                self.end = line
            case PhaseLine():
                self.phases.append(line)
            case Sample():
                self.samples.append(line)
            case ReaderLine():
                self.readers.append(line)
        if self._file:
            self._file.write(line.model_dump_json(exclude_defaults=False) + "\n")
            self._file.flush()

    def of_kind(self, kind: Kind) -> list[PhaseLine]:
        return [phase for phase in self.phases if phase.kind == kind]

    def looks(self, *phases: PhaseLine) -> Looks:
        """The samples of phases once their memory had come to rest."""
        names = {phase.name for phase in phases}
        return Looks(tuple(each for each in self.samples if each.settled and each.phase in names))

    def readers_of(self, phase: PhaseLine) -> list[ReaderLine]:
        return [each for each in self.readers if each.phase == phase.name]


def read_record(path: Path) -> Record:
    """Raises UsageError, with the number of the line, for what is no record."""
    try:
        # By the line feed alone: what a server said may hold any other end of a line.
        lines = path.read_text("utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as fault:
        said = fault.strerror if isinstance(fault, OSError) else "it is no text"
        raise UsageError(f"{path} cannot be read: {said}", "name a record of `run`") from None
    record: Record | None = None
    for number, text in enumerate(lines, 1):
        try:
            line = _LINE.validate_json(text)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise UsageError(f"{path}, line {number}: {said}", "is it a record of `run`?") from None
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
        if record is None:
            if not isinstance(line, PlanLine):
                break
            record = Record(line.plan)
        elif isinstance(line, PlanLine):
            raise UsageError(f"{path}, line {number}: a second plan", "give each record by itself")
        record.add(line)
    if record is None:
        raise UsageError(f"{path}: no plan in its first line", "is it a record of `run`?")
    return record


def this_machine() -> MachineLine:
    return MachineLine(
        system=f"{platform.system()} {platform.release()}",
        cores=os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        python=platform.python_version(),
        wmem=_sysctl("tcp_wmem"),
        rmem=_sysctl("tcp_rmem"),
    )


def middle(values: Sequence[float]) -> float:
    """The median; 0 of nothing."""
    return median(values) if values else 0.0


def _sysctl(name: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, Path("/proc/sys/net/ipv4", name).read_text("ascii").split()))
    except OSError:
        return ()
