"""The trial: a staircase of slow readers, a hold, a dose, a ratchet; all of it written down."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic, sleep

import psutil

from .body import Body, check_body, measure_body
from .checks import Questions
from .errors import InconclusiveError
from .fleet import Counts
from .fleet_process import Asking, FleetProcess
from .judge import judge
from .plan import GIB, KIB, MIB, Plan
from .record import (
    EndLine,
    FaultLine,
    Kind,
    PhaseLine,
    PlanLine,
    Record,
    Sample,
    ServerLine,
    this_machine,
)
from .survey import survey
from .target import Target
from .verdict import PARTS, Status

LEAST_MEMORY = GIB // 2
"""Bytes that this machine must have left: before that, the readers are sent away."""
OWN_SHARE = 5
"""A look may take a fifth of the time: after a slow one, the next comes later."""
REST_SHARE, REST_BYTES = 0.005, 64 * KIB
"""Memory has come to rest when samples in a row lie within half a percent, or within half of
what glibc takes from the system at a time."""
MOST_ROUNDS = 12
"""Of connecting and aborting, while peaks climb: a leak is there in the last ones, too."""
GONE_SECONDS = 5.0
"""Until a server must have noticed that its readers are gone."""

Show = Callable[[str, float], None]
"""What is being done, and which part of the whole is done (0 to 1)."""


class _CeilingError(Exception):
    """The server has grown past the ceiling: no need to see more."""


@dataclass
class Trial:
    """One server, one plan, one record: `prepare`, then `run`, once."""

    plan: Plan
    target: Target
    record: Record
    show: Show = lambda what, part: None
    _phase: PhaseLine | None = None
    _start: float = field(default_factory=monotonic)
    _next_look: float = 0.0
    _base: float | None = None
    _done: int = 0

    def prepare(self) -> None:
        """Ask for the bodies, and write down what is tried. Raises SimulatorError if they will
        not do, or if nothing of the server can be measured."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        if len(self.target.missing) == len(PARTS):
            reason = "; ".join(sorted(set(self.target.missing.values())))
            raise InconclusiveError(f"process and kernel memory cannot be measured: {reason}")
        body = measure_body(self.plan, self.plan.url)
        check_body(self.plan, body)
        small = Body(0, at_least=False)
        if self.plan.small_url:
            small = measure_body(self.plan, self.plan.small_url)
            _check_dose(self.plan, body, small)
        self.record.add(PlanLine(started=started, plan=self.plan.without_secrets()))
        self.record.add(this_machine())
        self.record.add(
            ServerLine(
                pids=self.target.roots,
                program=self.target.program(),
                allocator=self.target.allocator(),
                missing=self.target.missing,
                body=body.bytes,
                at_least=body.at_least,
                small_body=small.bytes,
            )
        )

    def run(self) -> None:
        """All parts. What goes wrong in them is in the record."""
        try:
            with suppress(_CeilingError):
                self._parts()
        except InconclusiveError as error:
            self._fault(str(error))
        except KeyboardInterrupt:
            self._fault("the trial was interrupted")
            raise
        self.record.add(EndLine(at=monotonic() - self._start))

    def _parts(self) -> None:
        pace = self.plan.pace
        first, *_ = self.plan.steps
        with self._fleet(self.plan.small_url or self.plan.url) as fleet:
            # No more than the first step: what it leaves behind would hide what the others cost.
            self._plateau(fleet, "warm-up", "warm-up", first)
        self._enter("base", "base", 0)
        self._gone()
        self._rest()
        self._look()
        self._base = self._total(self.record.samples[-1])
        self.target.forget_touched()
        if self.plan.small_url:
            with self._fleet(self.plan.small_url) as fleet:
                self._plateau(fleet, "dose", "dose", first)
        with self._fleet(self.plan.url) as fleet:
            for readers in self.plan.steps:
                self._plateau(fleet, "staircase", f"staircase {readers}", readers)
            self._hold(fleet, pace.hold)
        if self._worth_a_ratchet():
            number = 0
            while number < self.plan.rounds or self._climbs(number):
                number += 1
                self._leave(number)
                with self._fleet(self.plan.url) as fleet:
                    self._plateau(fleet, "ratchet", f"ratchet {number}", self.plan.readers)
            self._leave(number + 1)
            self._look()

    # -- parts -----------------------------------------------------------------------------

    def _fleet(self, url: str) -> FleetProcess:
        plan = self.plan
        return FleetProcess(
            Asking(
                url=url,
                headers=plan.headers,
                mix=plan.mix,
                seed=plan.seed,
                receive_buffer=plan.receive_buffer,
                insecure=plan.insecure,
            )
        )

    def _plateau(self, fleet: FleetProcess, kind: Kind, name: str, readers: int) -> None:
        self._enter(kind, name, readers)
        self._reach(fleet, readers)
        self._rest(fleet)
        self._look(fleet)
        self._survey(fleet)

    def _hold(self, fleet: FleetProcess, seconds: float) -> None:
        self._enter("hold", "hold", self.plan.readers)
        end = monotonic() + seconds
        while monotonic() < end:
            self._sample(fleet.counts().standing, settled=True)
        self._survey(fleet)

    def _leave(self, number: int) -> None:
        """All readers have gone: wait until the server has noticed."""
        self._enter("rest", f"rest {number}", 0)
        self._gone()

    def _worth_a_ratchet(self) -> bool:
        """Whether the trial could still pass: else its most expensive part tells nothing new."""
        found = judge(self.record)
        return not any(check.status is Status.FAILED for check in found.checks)

    def _climbs(self, rounds: int) -> bool:
        """Whether more rounds can tell more: a garbage collector needs some to come round."""
        check = Questions(self.record, self.plan).ratchet()
        open_still = check.status in (Status.FAILED, Status.UNCLEAR) and check.figure is not None
        return open_still and rounds < MOST_ROUNDS

    # -- what parts are made of ------------------------------------------------------------

    def _enter(self, kind: Kind, name: str, readers: int) -> None:
        at = monotonic() - self._start
        self._phase = PhaseLine(at=at, name=name, kind=kind, readers=readers)
        self.record.add(self._phase)
        rounds = 2 * self.plan.rounds + 1
        parts = 6 + rounds + bool(self.plan.small_url)
        self.show(f"{name}: {readers} readers" if readers else name, min(1.0, self._done / parts))
        self._done += 1

    def _reach(self, fleet: FleetProcess, readers: int) -> None:
        def watch(counts: Counts) -> None:
            if monotonic() >= self._next_look:
                self._sample(counts.standing)

        fleet.reach(readers, watch)

    def _rest(self, fleet: FleetProcess | None = None) -> None:
        """Return once memory has come to rest, or the pace's time for that is over."""
        end, last = monotonic() + self.plan.pace.settle, list[float]()
        while monotonic() < end:
            sample = self._sample(fleet.counts().standing if fleet else 0)
            last = [*last, self._total(sample)][-self.plan.pace.quiet :]
            quiet = max(last) - min(last) <= max(REST_BYTES, REST_SHARE * max(last))
            if len(last) == self.plan.pace.quiet and quiet:
                break

    def _look(self, fleet: FleetProcess | None = None) -> None:
        for _ in range(self.plan.pace.looks):
            self._sample(fleet.counts().standing if fleet else 0, settled=True)

    def _gone(self) -> None:
        """Return once the server has no connection left that we know of, or after a while."""
        end = monotonic() + GONE_SECONDS
        while self._sample(0).sockets and monotonic() < end:
            continue

    def _sample(self, readers: int, *, settled: bool = False) -> Sample:
        """Look at the server, when it is time to: a look costs the server something, too."""
        sleep(max(0.0, self._next_look - monotonic()))
        begun = monotonic()
        figures = self.target.figures()
        taken = monotonic() - begun
        self._next_look = begun + max(self.plan.pace.every, OWN_SHARE * taken)
        assert self._phase
        sample = Sample(
            at=begun - self._start,
            phase=self._phase.name,
            settled=settled,
            readers=readers,
            **figures._asdict(),
        )
        self.record.add(sample)
        self._check_growth(sample)
        return sample

    def _check_growth(self, sample: Sample) -> None:
        if self._base is not None and self._total(sample) - self._base > self.plan.ceiling:
            grown = (self._total(sample) - self._base) / MIB
            message = f"the server grew by {grown:,.0f} MiB under {sample.readers} readers"
            self._fault(message, growth=True)
            raise _CeilingError
        if psutil.virtual_memory().available < LEAST_MEMORY:
            raise InconclusiveError("this machine ran out of memory", "try fewer --readers")

    def _total(self, sample: Sample) -> float:
        return (sample.process or 0) + (sample.kernel or 0)

    def _fault(self, message: str, *, growth: bool = False) -> None:
        at = monotonic() - self._start
        self.record.add(FaultLine(at=at, message=message, growth=growth))

    def _survey(self, fleet: FleetProcess) -> None:
        """Write down each reader as it is now, seen from both ends."""
        server = self.record.server
        assert server
        assert self._phase
        for line in survey(self.target, fleet, self._phase.name, server.body):
            self.record.add(line)


def _check_dose(plan: Plan, large: Body, small: Body) -> None:
    if small.bytes < plan.enough_body or large.bytes < 2 * small.bytes:
        raise InconclusiveError(
            f"bodies of {small.bytes:,} bytes (--small-url) and {large.bytes:,} make no dose",
            f"the small one needs {plan.enough_body:,} or more, the large one four times that",
        )
