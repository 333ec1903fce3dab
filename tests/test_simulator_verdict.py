"""What a record means: trials that never were, with figures made up, and the verdict on each."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import estimate
from simulator.errors import EXIT_BOUNDED, EXIT_INCONCLUSIVE, EXIT_NOT_BOUNDED
from simulator.judge import judge
from simulator.plan import KIB, MIB, make_plan
from simulator.reader import State
from simulator.record import (
    EndLine,
    FaultLine,
    Kind,
    Line,
    PhaseLine,
    PlanLine,
    ReaderLine,
    Record,
    Sample,
    SelfTestLine,
    ServerLine,
    this_machine,
)
from simulator.verdict import Outcome, Status, Verdict

EXAMPLES = settings(max_examples=40, deadline=None, database=None)
READERS, ROUNDS = 40, 3
BUDGET = 64 * KIB
BODY, SMALL_BODY = 16 * MIB, 4 * MIB
BASE = 50 * MIB
SPREAD = (0.0, 1.0, -1.0, 0.5)
"""Where the looks at a plateau lie, in parts of its noise; three times so many in the hold."""
Changes = dict[str, object]
FATES: dict[str, Changes] = {
    "pressed": {"pressed": True, "queue": 30 * KIB},
    "dropped": {"state": State.DROPPED, "fault": "closed by the server"},
    "given up": {"closed": True, "queue": 10 * KIB},
    "in the kernel": {"closed": True, "in_kernel": True, "queue": 10 * KIB, "taken": BODY},
    "whole": {"state": State.WHOLE, "received": BODY},
    "refused": {"state": State.REFUSED, "fault": "429"},
    "idle": {},
    "unconnected": {"state": State.CONNECTING},
    "unanswered": {"state": State.ASKING},
    "failed": {"state": State.FAILED, "fault": "Connection reset by peer"},
}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals by fewer draws: figures made up have none that need more."""
    monkeypatch.setattr(estimate, "RESAMPLES", 20)


@dataclass(frozen=True)
class Made:
    """A trial made up. Bytes are a reader's, but for `noise`, which is of all of them.

    held: what it grows by in the hold. less: what it costs less by the small body. leak: what
    stays behind in each round. touched: what is used, and not taken anew. odd: readers of that
    fate, the others hold the server up. stop: the phase in whose middle the trial ends.
    """

    process: float = 20 * KIB
    kernel: float = 30 * KIB
    noise: float = 8 * KIB
    held: float = 0
    kernel_held: float = 0
    less: float = 0
    leak: float = 0
    touched: float = 0
    files: int = 0
    odd: int = 0
    fate: str = "idle"
    self_test: bool | None = True
    missing: tuple[str, ...] = ()
    fault: FaultLine | None = None
    stop: str = ""
    small: bool = True
    plan: tuple[tuple[str, object], ...] = ()

    def record(self, **changes: object) -> Record:
        """The trial, as it would have been written down."""
        made = replace(self, **changes)  # type: ignore[arg-type]
        record = Record(make_plan(url="http://h/"))
        for line in _Lines(made).all():
            record.add(line)
        return record


class _Lines:
    def __init__(self, made: Made) -> None:
        self.made, self.lines = made, list[Line]()
        self.at, self.stopped = 0.0, False

    def all(self) -> list[Line]:
        made = self.made
        plan = make_plan(**({"url": "http://h/", "readers": READERS} | dict(made.plan)))
        self.lines = [PlanLine(started="2026-01-01T00:00:00+00:00", plan=plan), this_machine()]
        if made.self_test is not None:
            told = SelfTestLine(bounded=30.0 * KIB, unbounded=16.0 * MIB, passed=made.self_test)
            self.lines.append(told)
        self.lines.append(
            ServerLine(
                pids=(1,),
                program="made-up",
                allocator={},
                missing=dict.fromkeys(made.missing, "there is no such figure"),
                body=BODY,
                small_body=SMALL_BODY if made.small else 0,
            )
        )
        first, *_ = plan.steps
        self._plateau("warm-up", "warm-up", first)
        self._plateau("base", "base", 0)
        if made.small:
            self._plateau("dose", "dose", first, process=made.process - made.less)
        for readers in plan.steps:
            self._plateau("staircase", f"staircase {readers}", readers)
        self._plateau("hold", "hold", READERS, held=made.held, kernel_held=made.kernel_held)
        for number in range(1, ROUNDS + 1):
            self._plateau("rest", f"rest {number}", 0)
            process = made.process + number * made.leak
            self._plateau("ratchet", f"ratchet {number}", READERS, process=process)
        self._plateau("rest", f"rest {ROUNDS + 1}", 0, files=made.files)
        if made.fault:
            self.lines.append(made.fault)
        if not made.stop:
            self.lines.append(EndLine(at=self.at))
        return self.lines

    def _plateau(
        self,
        kind: Kind,
        name: str,
        readers: int,
        *,
        process: float | None = None,
        held: float = 0,
        kernel_held: float = 0,
        files: int = 0,
    ) -> None:
        made = self.made
        if self.stopped:
            return
        self.lines.append(PhaseLine(at=self.at, name=name, kind=kind, readers=readers))
        self.stopped = name == made.stop
        each = made.process if process is None else process
        looks = SPREAD * (3 if kind == "hold" else 1)
        for number, place in enumerate(looks):
            part = number / (len(looks) - 1)
            noise = place * made.noise
            self.at += 0.5
            process_now = int(BASE + readers * (each + part * held) + noise)
            kernel_now = int(readers * (made.kernel + part * kernel_held) + max(0, noise))
            self.lines.append(
                Sample(
                    at=self.at,
                    phase=name,
                    settled=not self.stopped,
                    readers=readers,
                    process=None if "process" in made.missing else process_now,
                    kernel=None if "kernel" in made.missing else kernel_now,
                    touched=int(readers * max(each, made.touched)),
                    files=10 + readers + files,
                )
            )
        if not self.stopped:
            self.lines += [self._reader(name, number) for number in range(readers)]

    def _reader(self, phase: str, number: int) -> ReaderLine:
        # Odd ones are spread evenly: each step of the staircase has its part of them.
        odd = number * self.made.odd // READERS < (number + 1) * self.made.odd // READERS
        common = {"state": State.STANDING, "received": 4 * KIB, "taken": 40 * KIB, "queue": 0}
        common |= {"pressed": False, "closed": False, "in_kernel": False}
        fate = FATES[self.made.fate if odd else "pressed"]
        line = {"phase": phase, "number": number, "profile": "stall", **common, **fate}
        return ReaderLine.model_validate(line)


GOOD = Made()
DIED = FaultLine(at=9.0, message="the server died in mid-trial")
GREW = FaultLine(at=9.0, message="the server grew by 2,100 MiB under 40 readers", growth=True)


def failed(verdict: Verdict, status: Status = Status.FAILED) -> set[str]:
    return {check.name for check in verdict.checks if check.status is status}


def test_bounded() -> None:
    """A server within both budgets is bounded, with its cost to the KiB, and every check passes."""
    verdict = judge(GOOD.record())
    assert (verdict.outcome, verdict.exit_code) == (Outcome.BOUNDED, EXIT_BOUNDED)
    assert verdict.bounded
    assert verdict.passed
    assert failed(verdict, Status.PASSED) == {check.name for check in verdict.checks}
    assert verdict.process_cost
    assert verdict.process_cost.value == pytest.approx(20 * KIB, abs=KIB)
    assert verdict.kernel_cost
    assert verdict.kernel_cost.value == pytest.approx(30 * KIB, abs=KIB)
    assert verdict.readers == {"held the server up": READERS}
    assert "process 20.0 KiB" in verdict.sentence


COST, KERNEL_COST = "cost of process", "cost of kernel"
NOT_BOUNDED: list[tuple[Changes, str, str, set[str]]] = [
    ({"process": 90 * KIB}, "over budget", "bounded", {COST}),
    ({"kernel": 90 * KIB}, "bounded", "over budget", {KERNEL_COST}),
    ({"kernel": 9 * MIB}, "bounded", "over budget", {KERNEL_COST}),
    ({"process": 90 * KIB, "kernel": MIB}, "over budget", "over budget", {COST, KERNEL_COST}),
    ({"process": BODY, "less": BODY - SMALL_BODY}, "unbounded", "bounded", {COST, "dose"}),
    ({"process": BODY, "small": False}, "unbounded", "bounded", {COST}),
    ({"process": 0.6 * BODY}, "unbounded", "bounded", {COST}),
    ({"process": 0.4 * BODY}, "over budget", "bounded", {COST}),
    ({"process": 400 * KIB, "less": 360 * KIB}, "unbounded", "bounded", {COST, "dose"}),
    ({"held": 30 * KIB}, "unbounded", "bounded", {"growth of process"}),
    ({"kernel_held": 30 * KIB}, "bounded", "over budget", {"growth of kernel"}),
    ({"leak": 40 * KIB}, "unbounded", "bounded", {"ratchet"}),
    ({"files": 30}, "unbounded", "bounded", {"files"}),
]
SMALL_MATTERS: list[Changes] = [
    {"held": 4 * KIB},
    {"held": -9 * KIB},
    {"leak": 8 * KIB},
    {"files": 2},
    {"less": 20 * KIB},
    {"odd": 2},
    {"touched": 24 * KIB},
    {"small": False},
    {"self_test": None},
]
STOPS = ["warm-up", "base", "dose", "staircase 10", "staircase 40", "hold", "rest 1", "ratchet 2"]


@pytest.mark.parametrize(("changes", "process", "kernel", "checks"), NOT_BOUNDED)
def test_not_bounded(changes: Changes, process: str, kernel: str, checks: set[str]) -> None:
    """A server that keeps too much fails, and the checks that saw it say what for."""
    verdict = judge(GOOD.record(**changes))
    assert (verdict.process, verdict.kernel) == (process, kernel)
    assert verdict.outcome == ("unbounded" if process == "unbounded" else "over budget")
    assert failed(verdict) == checks
    assert verdict.exit_code == EXIT_NOT_BOUNDED
    assert not verdict.passed
    for name in checks:
        assert verdict.check(name).reason in verdict.sentence


@pytest.mark.parametrize("changes", SMALL_MATTERS, ids=str)
def test_small_matters(changes: Changes) -> None:
    """What is within its limit, or was not asked for, is no reason against a server."""
    assert judge(GOOD.record(**changes)).bounded


@pytest.mark.parametrize(
    ("changes", "check", "reason"),
    [
        ({"process": 63 * KIB, "noise": 300 * KIB}, "cost of process", "the budget is 64.0 KiB"),
        ({"kernel": 63 * KIB, "noise": 300 * KIB}, "cost of kernel", "the budget is 64.0 KiB"),
        ({"missing": ("process",)}, "cost of process", "there is no such figure"),
        ({"missing": ("kernel",)}, "cost of kernel", "there is no such figure"),
        ({"missing": ("process",)}, "ratchet", "there is no such figure"),
        ({"self_test": False}, "self-test", "ignores backpressure"),
        ({"odd": READERS, "fate": "refused"}, "pressure", "refused (429)"),
        ({"odd": 9, "fate": "refused"}, "pressure", "refused (429)"),
        ({"odd": READERS, "fate": "whole"}, "pressure", "got the whole body"),
        ({"odd": 9, "fate": "in the kernel"}, "pressure", "into the kernel's buffers"),
        ({"odd": READERS, "fate": "idle"}, "pressure", "kept nothing waiting"),
        ({"odd": READERS, "fate": "unconnected"}, "pressure", "did not get a connection"),
        ({"odd": READERS, "fate": "unanswered"}, "pressure", "did not get an answer"),
        ({"odd": 9, "fate": "failed"}, "pressure", "failed (Connection reset by peer)"),
    ],
)
def test_inconclusive(changes: Changes, check: str, reason: str) -> None:
    """What is not proved is never green: exit code 3, and the reason in words."""
    verdict = judge(GOOD.record(**changes))
    assert (verdict.outcome, verdict.exit_code) == (Outcome.INCONCLUSIVE, EXIT_INCONCLUSIVE)
    assert verdict.check(check).status is Status.UNCLEAR
    assert reason in verdict.check(check).reason
    assert f"{check}: {verdict.check(check).reason}" in verdict.sentence
    assert not verdict.passed


@pytest.mark.parametrize("stop", [*STOPS, "rest 4", pytest.param("ratchet 1")])
@pytest.mark.parametrize("fault", [DIED, GREW], ids=["died", "grew"])
def test_a_trial_that_ended_early(stop: str, fault: FaultLine) -> None:
    """Wherever a fault ends a trial there is a verdict, and never that all is well."""
    process = 60 * MIB if fault.growth else 20 * KIB
    verdict = judge(GOOD.record(process=process, stop=stop, fault=fault))
    assert not verdict.passed
    if fault is DIED:
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.sentence == DIED.message


@pytest.mark.parametrize("changes", [{"process": BODY}, {"leak": BODY}, {"files": 99}], ids=str)
def test_a_fault_tells_nothing_of_the_server(changes: Changes) -> None:
    """When something else broke the trial off, its figures are not judged."""
    assert judge(GOOD.record(fault=DIED, **changes)).exit_code == EXIT_INCONCLUSIVE
    assert judge(GOOD.record(self_test=False, **changes)).exit_code == EXIT_INCONCLUSIVE


@pytest.mark.parametrize("stop", ["staircase 10", "staircase 40", "hold"])
def test_growth_past_the_ceiling(stop: str) -> None:
    """A server that had to be left before it took all memory is unbounded, whatever its body."""
    verdict = judge(GOOD.record(process=3 * MIB, less=2 * MIB, stop=stop, fault=GREW))
    assert (verdict.outcome, verdict.process) == (Outcome.UNBOUNDED, Outcome.UNBOUNDED)
    assert verdict.exit_code == EXIT_NOT_BOUNDED
    assert "when the readers were sent away" in verdict.sentence


@pytest.mark.parametrize("fate", ["dropped", "given up"])
@pytest.mark.parametrize("odd", [3, 12, 38])
def test_shed(fate: str, odd: int) -> None:
    """A server that drops slow readers sheds: it fails, or passes where that is allowed."""
    record = GOOD.record(odd=odd, fate=fate)
    for allowed, code in ((False, EXIT_NOT_BOUNDED), (True, EXIT_BOUNDED)):
        verdict = judge(record, allow_shed=allowed)
        assert (verdict.outcome, verdict.exit_code) == (Outcome.SHED, code)
        assert (verdict.check("shed").status is Status.PASSED) == allowed
        assert f"{odd} of 40 were dropped by the server ({odd} stall)" in verdict.sentence
        assert not verdict.bounded
    assert judge(GOOD.record(odd=odd, fate=fate, plan=(("allow_shed", True),))).passed


@pytest.mark.parametrize("changes", [{"process": 90 * KIB}, {"leak": 40 * KIB}], ids=str)
def test_shedding_excuses_nothing(changes: Changes) -> None:
    """A server that drops some readers, and keeps too much for the others, fails all the same."""
    verdict = judge(GOOD.record(odd=12, fate="dropped", **changes), allow_shed=True)
    assert verdict.exit_code == EXIT_NOT_BOUNDED


def test_each_step_needs_its_own_pressure() -> None:
    """Readers dropped at the top of the staircase do not stand in for pressure further down."""
    record = GOOD.record(odd=16, fate="dropped")
    record.readers = [
        each.model_copy(update={"pressed": False, "queue": 0, "state": State.STANDING})
        if each.phase == "staircase 10"
        else each
        for each in record.readers
    ]
    assert judge(record, allow_shed=True).check("pressure").status is Status.UNCLEAR


def test_memory_used_again_widens_the_figure() -> None:
    """What is freed, kept and used again costs as well: up to it, nothing is certain."""
    frugal = Made(process=2 * KIB)
    plain, again = judge(frugal.record()), judge(frugal.record(touched=100 * KIB))
    assert plain.process_cost
    assert again.process_cost
    assert again.process_cost.value == again.process_cost.high == pytest.approx(100 * KIB, rel=0.01)
    assert again.process_cost.low == plain.process_cost.low
    assert again.outcome is Outcome.INCONCLUSIVE
    assert "freed before and used again" in again.sentence
    assert judge(frugal.record(touched=50 * KIB)).bounded


def test_one_look_without_a_figure() -> None:
    """A figure that was missing at any moment is missing."""
    record = GOOD.record()
    record.samples[20] = record.samples[20].model_copy(update={"kernel": None})
    verdict = judge(record)
    assert verdict.exit_code == EXIT_INCONCLUSIVE
    assert verdict.check("cost of kernel").reason == "could not be measured all the time"


READINGS = st.builds(
    Made,
    process=st.floats(0, 80 * KIB),
    kernel=st.floats(0, 80 * KIB),
    noise=st.floats(0, 400 * KIB),
    held=st.floats(0, 8 * KIB),
    touched=st.floats(0, 120 * KIB),
    odd=st.integers(0, 3),
    small=st.booleans(),
)


@EXAMPLES
@given(made=READINGS, wobble=st.lists(st.integers(-400 * KIB, 400 * KIB), min_size=1, max_size=7))
def test_bounded_means_within_both_budgets(made: Made, wobble: list[int]) -> None:
    """Whatever the readings: bounded are only those whose intervals end within the budgets."""
    record = made.record()
    record.samples = [
        each.model_copy(update={"process": (each.process or 0) + wobble[number % len(wobble)]})
        for number, each in enumerate(record.samples)
    ]
    verdict = judge(record)
    assert verdict == judge(record)
    assert (verdict.exit_code == EXIT_BOUNDED) == verdict.passed == verdict.bounded
    for figure in (verdict.process_cost, verdict.kernel_cost):
        assert figure
        assert figure.low <= figure.value <= figure.high
        assert figure.high <= BUDGET or not verdict.bounded
