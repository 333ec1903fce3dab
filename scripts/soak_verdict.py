"""What a soak has seen, and whether the promises held: samples in, promises and a table out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from rich.table import Table
from soak_files import CSV, NDJSON
from soak_load import FAST, SLOW, Tally

from simulator.errors import EXIT_BOUNDED, EXIT_INCONCLUSIVE, EXIT_NOT_BOUNDED
from simulator.estimate import Figure, slope

KIB, MIB = 1024, 1024**2
READER_BYTES = 64 * KIB
"""The promise: what a reader may cost, process and kernel together."""
READ_AHEAD_BYTES = 16 * MIB
"""Weir's --read-ahead-bytes: what all fast downloads together may hold."""
FAST_BYTES = 4 * MIB
"""For a fast download: the highest net.ipv4.tcp_wmem, as its bytes in flight are the path's."""
TRANSFER_BYTES = FAST * FAST_BYTES + (SLOW + 1) * READER_BYTES
"""What is allowed for all transfers in progress: slow ones and the writer count as readers."""
GROWTH_LIMIT = 1.0
"""MiB a minute: a leak of less shows within an hour's soak, not within minutes."""
REST_NOISE = 8.0
"""MiB that memory at rest may differ by from one rest to the next without being a leak, as the
allocator gives back whole pages only: it moved between 49 and 57 over 30 rests without a trend."""
FEWEST_RESTS, ENOUGH_RESTS = 3, 8
"""To compare at all, and for a slope: one through fewer is the noise of any two of them."""
WAL_LIMIT = 16 * MIB
"""Weir starts its log over at 4 MiB, and a large array can take it to 8: twice that."""
WARM_UP = 0.15
"""Part of the time after which memory at rest is the base: pools and caches are filled."""
FREED_SECONDS = 2.5
"""Weir gives back freed memory within a second, and looks are half a second apart: memory is
held against the most readers that stood so shortly before."""
FEWEST_STANDING = 0.25
"""Part of --readers that have to have stood at once: without pressure nothing is proved."""


class Sample(NamedTuple):
    """The service at one moment. at: seconds since the start. standing: readers of the fleet.

    process: private memory; kernel: all send queues; readers_kernel: those of standing readers;
    wal: the write-ahead log; all in bytes. files: open ones that are no connections.
    """

    at: float
    process: int
    kernel: int
    readers_kernel: int
    standing: int
    files: int
    wal: int


@dataclass
class Seen:
    """All that is judged. minutes: asked for; seconds: that it took.

    rests: memory while no fleet stands. calm: at the end of fleets of which none
    keeps up, without fast downloads.
    lost: slow readers dropped or refused, in words.
    complaints: of the service's log. exit_code: the service's, None if it had to be killed.
    """

    minutes: float
    readers: int
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    rests: list[Sample] = field(default_factory=list)
    calm: list[Sample] = field(default_factory=list)
    fleets: int = 0
    profiles: set[str] = field(default_factory=set)
    begun: int = 0
    lost: list[str] = field(default_factory=list)
    files_at_end: int | None = None
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    exit_code: int | None = None
    died: bool = False
    trouble: str = ""


class State(StrEnum):
    HELD = "held"
    BROKEN = "did not hold"
    UNCLEAR = "could not tell"


class Promise(NamedTuple):
    """One promise: what was seen beside what was allowed."""

    name: str
    state: State
    seen: str
    allowed: str


class Headroom(NamedTuple):
    """A sample and the most memory it may show, in bytes."""

    sample: Sample
    allowed: int


class Cost(NamedTuple):
    """Bytes that so many standing readers took together."""

    size: int
    standing: int

    def __str__(self) -> str:
        return f"{self.size / self.standing / KIB:.1f} KiB, {self.standing} standing"


def judge(seen: Seen) -> list[Promise]:
    """All promises, each held, broken or unclear."""
    downloads = [tally for name, tally in seen.tallies.items() if "/" in name]
    writes = [tally for name, tally in seen.tallies.items() if "/" not in name]
    rested = after_warm_up(seen)
    bad, files = sum(each.bad for each in downloads), sum(each.files for each in downloads)
    failed, written = sum(each.bad for each in writes), sum(each.files for each in writes)
    kinds = {route for route in (CSV, NDJSON) for name in seen.tallies if route in name}
    wal = max((each.wal for each in seen.samples), default=0)
    standing = max((each.standing for each in seen.samples), default=0)
    wanted = int(FEWEST_STANDING * seen.readers)
    stopped = "died" if seen.died else f"exit code {seen.exit_code}"
    return [
        _promise("every file is whole", not bad, f"{bad} of {files} broken", "0", len(kinds) == 2),
        _memory(seen, rested),
        _reader(seen, rested),
        _kernel(seen),
        _growth(rested),
        _promise("write-ahead log", wal < WAL_LIMIT, _mib(wal), f"< {_mib(WAL_LIMIT)}", wal > 0),
        _files(seen, rested),
        _promise("slow readers are kept", not seen.lost, f"{len(seen.lost)} lost", "0"),
        _promise("writes are answered", not failed, f"{failed} of {written} failed", "0", written),
        _promise("the log is clean", not seen.complaints, f"{len(seen.complaints)} lines", "0"),
        _promise("ends on SIGTERM", seen.exit_code == 0 and not seen.died, stopped, "exit code 0"),
        _promise("readers stood", True, f"{standing} at once", f">= {wanted}", standing >= wanted),
    ]


def after_warm_up(seen: Seen) -> list[Sample]:
    """The rests that count; the first of them is the base."""
    return [each for each in seen.rests if each.at >= WARM_UP * seen.minutes * 60]


def tightest(seen: Seen, rested: Sequence[Sample]) -> Headroom | None:
    """The sample that came closest to what it may take, or passed it the furthest."""
    if not rested:
        return None
    base = _taken(rested[0]) + READ_AHEAD_BYTES + TRANSFER_BYTES
    rooms = []
    for number, sample in enumerate(seen.samples):
        lately = seen.samples[: number + 1]
        most = max(each.standing for each in lately[-10:] if sample.at - each.at <= FREED_SECONDS)
        rooms.append(Headroom(sample, base + READER_BYTES * most))
    return min(rooms, key=lambda each: each.allowed - _taken(each.sample), default=None)


def growth(rested: Sequence[Sample]) -> Figure | None:
    """MiB a minute of memory at rest, process and kernel; None for too few rests."""
    if len(rested) < ENOUGH_RESTS:
        return None
    minutes = [each.at / 60 for each in rested]
    return slope(minutes, [_taken(each) / MIB for each in rested])


def dearest_reader(seen: Seen, rested: Sequence[Sample]) -> Cost | None:
    """The calm sample that came closest to what its readers may take."""
    costs = [
        Cost(_taken(each) - _taken(rested[0]), each.standing)
        for each in seen.calm
        if each.standing and rested
    ]
    return max(costs, key=lambda each: each.size - READER_BYTES * each.standing, default=None)


def dearest_kernel(seen: Seen) -> Sample | None:
    """The sample whose standing readers had the most in the kernel, each on average."""
    standing = [each for each in seen.samples if each.standing]
    return max(standing, key=lambda each: each.readers_kernel / each.standing, default=None)


def conclude(seen: Seen, promises: Sequence[Promise]) -> tuple[int, str]:
    """The exit code, and the line that says what it is and why."""
    broken = [each for each in promises if each.state is State.BROKEN]
    unclear = [each for each in promises if each.state is State.UNCLEAR]
    state, told = State.HELD, f"{len(promises)} promises, {seen.seconds / 60:.1f} minutes"
    exit_code = EXIT_BOUNDED
    if broken:
        state, exit_code = State.BROKEN, EXIT_NOT_BOUNDED
        told = "; ".join(f"{each.name} ({each.seen}, not {each.allowed})" for each in broken)
    elif unclear or seen.trouble:
        state, exit_code = State.UNCLEAR, EXIT_INCONCLUSIVE
        told = "; ".join(f"{each.name} ({each.seen}, {each.allowed} wanted)" for each in unclear)
    if seen.trouble:
        told = "; ".join(filter(None, (seen.trouble, told)))
    return exit_code, f"VERDICT: {state}: {told}"


def figures(seen: Seen) -> Table:
    """What was done and seen, for people."""
    table = Table("figure", "", title="the soak")
    rested = after_warm_up(seen)
    table.add_row("minutes", f"{seen.seconds / 60:.1f}")
    table.add_row("fleets, profiles", f"{seen.fleets}, {len(seen.profiles)}")
    table.add_row("connections begun by readers", f"{seen.begun:,}")
    for name, tally in sorted(seen.tallies.items()):
        sizes = f", {tally.rows:,} rows, {_mib(tally.size)}" if "/" in name else ""
        broken = f", {tally.bad} BROKEN" if tally.bad else ""
        table.add_row(name, f"{tally.files:,}{sizes}{broken}")
    memory = [_taken(each) for each in seen.samples]
    if rested and memory:
        first, last = rested[0], rested[-1]
        table.add_row("memory at rest, first and last", f"{_both(first)}; {_both(last)}")
        table.add_row("memory, highest", _both(seen.samples[memory.index(max(memory))]))
    if grown := growth(rested):
        low, high = grown.low, grown.high
        told = f"{grown.value:+.2f} MiB/minute [{low:+.2f}, {high:+.2f}], {len(rested)} rests"
        table.add_row("growth at rest", told)
    if cost := dearest_reader(seen, rested):
        table.add_row("each still reader, highest", str(cost))
    table.add_row("kernel, highest", _mib(max((each.kernel for each in seen.samples), default=0)))
    if dearest := dearest_kernel(seen):
        each = dearest.readers_kernel / dearest.standing / KIB
        table.add_row("kernel, each reader, highest", f"{each:.1f} KiB of {dearest.standing}")
    table.add_row("write-ahead log, highest", _mib(max((s.wal for s in seen.samples), default=0)))
    start = rested[0].files if rested else "?"
    table.add_row("open files at rest, and at the end", f"{start}, {seen.files_at_end}")
    return table


def verdicts(promises: Sequence[Promise]) -> Table:
    """The promises, for people."""
    table = Table("promise", "seen", "allowed", "", title="the promises")
    colours = {State.HELD: "green", State.BROKEN: "bold red", State.UNCLEAR: "yellow"}
    for each in promises:
        mark = f"[{colours[each.state]}]{each.state}[/]"
        table.add_row(each.name, each.seen, each.allowed, mark)
    return table


def _promise(name: str, held: bool, seen: str, allowed: str, shown: object = True) -> Promise:
    """shown: whether there was anything to see; without it, what held is unclear."""
    state = State.BROKEN if not held else State.HELD if shown else State.UNCLEAR
    return Promise(name, state, seen, allowed)


def _memory(seen: Seen, rested: Sequence[Sample]) -> Promise:
    room = tightest(seen, rested)
    if room is None:
        return Promise("memory is bounded", State.UNCLEAR, "no base", "one after the warm-up")
    seen_text = (
        f"{_mib(_taken(room.sample))} at {room.sample.at:.0f} s, {room.sample.standing} standing"
    )
    held = _taken(room.sample) <= room.allowed
    return _promise("memory is bounded", held, seen_text, f"<= {_mib(room.allowed)}")


def _reader(seen: Seen, rested: Sequence[Sample]) -> Promise:
    name = "what a reader costs"
    allowed = f"<= {READER_BYTES / KIB:.0f} KiB each + {REST_NOISE:.0f} MiB"
    cost = dearest_reader(seen, rested)
    if cost is None:
        return Promise(name, State.UNCLEAR, "nobody stood", allowed)
    held = cost.size <= READER_BYTES * cost.standing + REST_NOISE * MIB
    return _promise(name, held, str(cost), allowed)


def _kernel(seen: Seen) -> Promise:
    name, allowed = "kernel, for each reader", f"<= {READER_BYTES / KIB:.0f} KiB"
    sample = dearest_kernel(seen)
    if sample is None:
        return Promise(name, State.UNCLEAR, "nobody stood", allowed)
    each = sample.readers_kernel / sample.standing
    return _promise(name, each <= READER_BYTES, f"{each / KIB:.1f} KiB", allowed)


def _growth(rested: Sequence[Sample]) -> Promise:
    if len(rested) < FEWEST_RESTS:
        return Promise(
            "no growth", State.UNCLEAR, f"{len(rested)} rests", f"at least {FEWEST_RESTS}"
        )
    figure = growth(rested)
    if figure is None:
        more = (max(map(_taken, rested)) - _taken(rested[0])) / MIB
        state = State.HELD if more <= REST_NOISE else State.UNCLEAR
        told = f"{more:+.1f} MiB, {len(rested)} rests"
        return Promise("no growth", state, told, f"<= {REST_NOISE:.0f} MiB")
    state = State.UNCLEAR
    if figure.high <= GROWTH_LIMIT:
        state = State.HELD
    elif figure.low > GROWTH_LIMIT:
        state = State.BROKEN
    told = f"{figure.value:+.2f} [{figure.low:+.2f}, {figure.high:+.2f}] MiB/minute"
    return Promise("no growth", state, told, f"<= {GROWTH_LIMIT:g}")


def _files(seen: Seen, rested: Sequence[Sample]) -> Promise:
    if seen.files_at_end is None or not rested:
        return Promise("open files come back", State.UNCLEAR, "not seen", "as at the start")
    limit = rested[0].files
    held = seen.files_at_end <= limit
    return _promise("open files come back", held, f"{seen.files_at_end}", f"<= {limit}")


def _taken(sample: Sample) -> int:
    """Bytes of process and kernel."""
    return sample.process + sample.kernel


def _both(sample: Sample) -> str:
    return f"{sample.process / MIB:.1f} + {sample.kernel / MIB:.1f} MiB"


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"
