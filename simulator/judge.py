"""What a record means: is the cost of a slow reader within its budgets, and how sure is that.

Pure: a record in, a verdict out. It is an equivalence test: an interval wholly within a limit
passes, one wholly outside fails, and one that straddles it is inconclusive, never green.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from pydantic import ByteSize

from simulator.errors import EXIT_BOUNDED, EXIT_INCONCLUSIVE, EXIT_NOT_BOUNDED
from simulator.estimate import Figure, difference, slope, stairs
from simulator.reader import State
from simulator.record import ReaderLine, Record, Sample
from simulator.verdict import PARTS, Check, Outcome, Part, Status, Verdict, size

PRESSED_SHARE = 0.9
"""Of the readers wanted, those that must be seen to hold the server up."""
SHED_SHARE = 0.05
"""Of the readers, those that a server may lose before it counts as dropping slow ones."""
GROWTH_SHARE = 0.1
"""Of a budget, what one reader's cost may grow by while it is held."""
ROUND_SHARE = 0.25
"""Of a budget, what one connection may leave behind in each round of the ratchet."""
DOSE_SHARE = 0.5
"""Of a budget, what the larger body may add to one reader's cost."""
WHOLE_SHARE = 0.5
"""Of the body: a reader that costs more than that has it in memory, whoever called it streaming."""
FILES_SHARE = 0.05
"""Of the readers: open files that may stay behind, for logs and pools opened meanwhile."""


def judge(
    record: Record,
    *,
    user_budget: int | None = None,
    kernel_budget: int | None = None,
    allow_shed: bool | None = None,
) -> Verdict:
    """The verdict on a record, by its own plan's budgets (bytes a reader) or by others."""
    changes = {"user_budget": user_budget, "kernel_budget": kernel_budget, "allow_shed": allow_shed}
    plan = record.plan.model_copy(
        update={
            name: value if name == "allow_shed" else ByteSize(value)
            for name, value in changes.items()
            if value is not None
        }
    )
    return _Judge(
        record, plan.user_budget, plan.kernel_budget, allow_shed=plan.allow_shed
    ).verdict()


class _Judge:
    def __init__(
        self, record: Record, user_budget: int, kernel_budget: int, *, allow_shed: bool
    ) -> None:
        self.record, self.allow_shed = record, allow_shed
        self.budgets: dict[Part, int] = {"process": user_budget, "kernel": kernel_budget}
        self.stairs = record.of_kind("staircase")
        self.top = next(iter(reversed(self.stairs + record.of_kind("hold"))), None)
        self.last_readers = record.readers_of(self.top) if self.top else []
        self.lost = [each for each in self.last_readers if lost(each)]
        self.sheds = len(self.lost) > SHED_SHARE * len(self.last_readers)

    def verdict(self) -> Verdict:
        costs = {part: self._cost(part) for part in PARTS}
        growths = {part: self._growth(part) for part in PARTS}
        dose, ratchet, files = self._dose(), self._ratchet(), self._files()
        own = {
            "process": (costs["process"], growths["process"], dose, ratchet, files),
            "kernel": (costs["kernel"], growths["kernel"]),
        }
        checks = (
            self._self_test(),
            self._pressure(),
            costs["process"],
            costs["kernel"],
            growths["process"],
            growths["kernel"],
            dose,
            ratchet,
            files,
            self._shed(),
        )
        parts = {part: self._part(part, own[part]) for part in PARTS}
        outcome, exit_code = self._outcome(parts, checks)
        return Verdict(
            outcome=outcome,
            exit_code=exit_code,
            sentence=self._sentence(outcome, parts, checks),
            process=parts["process"],
            kernel=parts["kernel"],
            process_cost=costs["process"].figure,
            kernel_cost=costs["kernel"].figure,
            user_budget=self.budgets["process"],
            kernel_budget=self.budgets["kernel"],
            readers=dict(Counter(state(each) for each in self.last_readers)),
            checks=checks,
        )

    # -- the questions ---------------------------------------------------------------------

    def _self_test(self) -> Check:
        found = self.record.self_test
        if found is None:
            return Check(name="self-test", status=Status.NOT_RUN, reason="was not asked for")
        reason = (
            f"a bounded specimen cost {size(found.bounded)} a reader here, "
            f"one that ignores backpressure {size(found.unbounded)}"
        )
        status = Status.PASSED if found.passed else Status.UNCLEAR
        return Check(name="self-test", status=status, reason=reason)

    def _pressure(self) -> Check:
        worst: tuple[float, str] = (1.0, "no reader was tried")
        for phase in self.stairs + self.record.of_kind("hold"):
            readers = self.record.readers_of(phase)
            if not readers:
                return _unclear("pressure", f"the readers of {phase.name} are not known")
            pressed = sum(each.pressed for each in readers)
            wanted = len(readers) - (len(self.lost) if self.sheds else 0)
            share = pressed / wanted if wanted > 0 else 1.0
            others = Counter(state(each) for each in readers if not each.pressed)
            said = ", ".join(f"{number} {name}" for name, number in others.most_common())
            text = f"{pressed} of {len(readers)} held the server up" + (said and f"; {said}")
            if share < worst[0] or worst[1].startswith("no "):
                worst = min(share, 1.0), text
        passed = self.stairs and worst[0] >= PRESSED_SHARE
        status = Status.PASSED if passed else Status.UNCLEAR
        return Check(name="pressure", status=status, reason=worst[1])

    def _cost(self, part: Part) -> Check:
        name, limit = f"cost of {part}", self.budgets[part]
        if missing := self._missing(part):
            return _unclear(name, missing)
        if self.record.fault and self.record.fault.growth:
            figure = self._at_the_end(part)
            what = "it had cost so much a reader when the readers were sent away"
        elif self.sheds:
            figure = self._peak(part)
            what = "at most, for each that came: most did not stay"
        else:
            looks = [self.record.looks(phase) for phase in self.stairs]
            figure = stairs([(_readers(each), _values(each, part)) for each in looks if each])
            what = "a reader"
        if figure is None:
            return _unclear(name, "too few plateaus with different numbers of readers")
        return _compare(name, figure, limit, f"{{}} {what}; the budget is {size(limit)}")

    def _growth(self, part: Part) -> Check:
        name, limit = f"growth of {part}", GROWTH_SHARE * self.budgets[part]
        looks = [each for phase in self.record.of_kind("hold") for each in self.record.looks(phase)]
        readers = _middle(_readers(looks))
        if not readers or self.sheds:
            return _not_run(name, "nobody was held")
        if missing := self._missing(part):
            return _unclear(name, missing)
        times = [each.at for each in looks]
        rate = slope(times, _values(looks, part))
        if rate is None:
            return _unclear(name, "too few looks")
        seconds = times[-1] - times[0]
        text = f"{{}} a reader in {seconds:.0f} s of waiting; {size(limit)} is allowed"
        return _compare(name, rate * (seconds / readers), limit, text)

    def _dose(self) -> Check:
        doses, server = self.record.of_kind("dose"), self.record.server
        small = self.record.looks(doses[0]) if doses else []
        if doses and not self._mostly_pressed(self.record.readers_of(doses[0])):
            return _not_run("dose", "the small body went into the kernel's buffers, or was refused")
        large = self.record.looks(self.stairs[0]) if self.stairs else []
        if not small or not large or not server:
            return _not_run("dose", "needs a second, smaller body: give --small-url")
        if missing := self._missing("process"):
            return _unclear("dose", missing)
        readers = min(_middle(_readers(small)), _middle(_readers(large)))
        if not readers:
            return _not_run("dose", "nobody stayed")
        more = difference(_values(small, "process"), _values(large, "process")) * (1 / readers)
        limit = DOSE_SHARE * self.budgets["process"]
        text = (
            f"{{}} a reader for a body of {size(server.body)} instead of "
            f"{size(server.small_body)}; {size(limit)} is allowed"
        )
        return _compare("dose", more, limit, text)

    def _ratchet(self) -> Check:
        rounds = [*self.record.of_kind("hold"), *self.record.of_kind("ratchet")]
        peaks = [looks for looks in map(self.record.looks, rounds) if looks]
        readers = _middle([each for looks in peaks for each in _readers(looks)])
        if len(peaks) < 2 or not readers or self.sheds:
            return _not_run("ratchet", "the rounds were not reached")
        if missing := self._missing("process"):
            return _unclear("ratchet", missing)
        last = peaks[0][-len(peaks[1]) :], *peaks[1:]
        leak = slope(
            [number for number, looks in enumerate(last) for _ in looks],
            [value for looks in last for value in _values(looks, "process")],
        )
        limit = ROUND_SHARE * self.budgets["process"]
        text = (
            f"{{}} a connection in each of {len(peaks) - 1} rounds of connecting and "
            f"aborting; {size(limit)} is allowed"
        )
        assert leak
        return _compare("ratchet", leak * (1 / readers), limit, text)

    def _files(self) -> Check:
        rests = self.record.of_kind("rest")
        before = [
            each for phase in self.record.of_kind("base") for each in self.record.looks(phase)
        ]
        after = self.record.looks(rests[-1]) if rests else []
        known = [look.files for look in (*before, *after) if look.files is not None]
        if not before or not after or len(known) < len(before) + len(after):
            return _not_run("files", "open files cannot be seen, or the rounds were not reached")
        first, last = known[0], min(known[len(before) :])
        allowed = first + max(2, int(FILES_SHARE * self.record.plan.readers))
        status = Status.PASSED if last <= allowed else Status.FAILED
        reason = f"{first} were open before the readers came, {last} after they had gone"
        return Check(name="files", status=status, reason=reason)

    def _shed(self) -> Check:
        total, lost = len(self.last_readers), Counter(each.profile for each in self.lost)
        if not total:
            return _not_run("shed", "no reader was tried")
        by_profile = ", ".join(f"{number} {name}" for name, number in lost.items())
        reason = f"{len(self.lost)} of {total} were dropped by the server"
        reason += f" ({by_profile})" if lost else ""
        failed = self.sheds and not self.allow_shed
        return Check(name="shed", status=Status.FAILED if failed else Status.PASSED, reason=reason)

    def _mostly_pressed(self, readers: Sequence[ReaderLine]) -> bool:
        return sum(each.pressed for each in readers) >= PRESSED_SHARE * len(readers)

    # -- the answer ------------------------------------------------------------------------

    def _part(self, part: Part, checks: Iterable[Check]) -> Outcome:
        cost, *others = checks
        if any(check.status is Status.FAILED for check in others):
            # The kernel's buffers end somewhere by themselves, at megabytes for each socket.
            return Outcome.UNBOUNDED if part == "process" else Outcome.OVER_BUDGET
        if cost.status is Status.FAILED:
            body = self.record.server.body if self.record.server else 0
            whole = bool(cost.figure and cost.figure.value >= WHOLE_SHARE * body)
            grew = bool(self.record.fault and self.record.fault.growth)
            unbounded = part == "process" and (whole or grew)
            return Outcome.UNBOUNDED if unbounded else Outcome.OVER_BUDGET
        if any(check.status is Status.UNCLEAR for check in (cost, *others)):
            return Outcome.INCONCLUSIVE
        return Outcome.BOUNDED

    def _outcome(self, parts: dict[Part, Outcome], checks: Iterable[Check]) -> tuple[Outcome, int]:
        fault, self_test = self.record.fault, self.record.self_test
        if (fault and not fault.growth) or (self_test and not self_test.passed):
            return Outcome.INCONCLUSIVE, EXIT_INCONCLUSIVE
        for bad in (Outcome.UNBOUNDED, Outcome.OVER_BUDGET):
            if bad in parts.values():
                return bad, EXIT_NOT_BOUNDED
        if any(check.status is Status.UNCLEAR for check in checks):
            return Outcome.INCONCLUSIVE, EXIT_INCONCLUSIVE
        if self.sheds:
            return Outcome.SHED, EXIT_BOUNDED if self.allow_shed else EXIT_NOT_BOUNDED
        return Outcome.BOUNDED, EXIT_BOUNDED

    def _sentence(
        self, outcome: Outcome, parts: dict[Part, Outcome], checks: Iterable[Check]
    ) -> str:
        if self.record.fault and not self.record.fault.growth:
            return self.record.fault.message
        words = [f"{part} {parts[part]}" for part in PARTS]
        match outcome:
            case Outcome.BOUNDED:
                return "a slow reader costs the server no more than the budgets, " + " and ".join(
                    f"{part} {size(check.figure.value)}"
                    for part, check in zip(PARTS, list(checks)[2:4], strict=True)
                    if check.figure
                )
            case Outcome.SHED:
                return "the server drops slow readers; " + self._shed().reason
            case Outcome.INCONCLUSIVE:
                open_ones = [check for check in checks if check.status is Status.UNCLEAR]
                return "; ".join(f"{check.name}: {check.reason}" for check in open_ones)
            case _:
                reasons = [check for check in checks if check.status is Status.FAILED]
                told = "; ".join(f"{check.name}: {check.reason}" for check in reasons)
                return f"{', '.join(words)}. {told}"

    # -- figures ---------------------------------------------------------------------------

    def _missing(self, part: Part) -> str:
        if self.record.server and (reason := self.record.server.missing.get(part)):
            return f"cannot be measured: {reason}"
        if any(getattr(look, part) is None for look in self.record.samples):
            return "could not be measured all the time"
        return ""

    def _at_the_end(self, part: Part) -> Figure | None:
        """Growth over the base by the last sample, for each reader of it."""
        last = [each for each in self.record.samples if each.phase != "base"][-1:]
        return self._above_base(part, last, _middle(_readers(last)))

    def _peak(self, part: Part) -> Figure | None:
        """The highest growth over the base, for each reader wanted."""
        return self._above_base(part, self.record.samples, self.record.plan.readers)

    def _above_base(self, part: Part, samples: Sequence[Sample], readers: float) -> Figure | None:
        base, values = self._base(part), _values(samples, part)
        if base is None or not values or not readers:
            return None
        value = (max(values) - base) / readers
        return Figure(value, value, value)

    def _base(self, part: Part) -> float | None:
        looks = [each for phase in self.record.of_kind("base") for each in self.record.looks(phase)]
        return _middle(_values(looks, part)) if looks else None


def lost(reader: ReaderLine) -> bool:
    """Whether the server gave it up before the whole body was on its way."""
    return reader.state is State.DROPPED or (reader.closed and not reader.in_kernel)


def state(reader: ReaderLine) -> str:
    """What became of a reader, in words."""
    if reader.pressed:
        return "held it up"
    if reader.in_kernel:
        return "got the whole body into the kernel's buffers"
    if lost(reader):
        return "dropped by the server"
    return {
        State.CONNECTING: "did not get a connection",
        State.ASKING: "did not get an answer",
        State.STANDING: "kept nothing waiting",
        State.WHOLE: "got the whole body",
        State.REFUSED: f"refused ({reader.fault})",
    }.get(reader.state, f"failed ({reader.fault})")


def _compare(name: str, figure: Figure, limit: float, text: str) -> Check:
    """An interval against a limit. text: the reason, with {} for the figure."""
    if figure.high <= limit:
        status = Status.PASSED
    elif figure.low > limit:
        status = Status.FAILED
    else:
        status = Status.UNCLEAR
    shown = f"{size(figure.value)} ({size(figure.low)} to {size(figure.high)})"
    reason = text.format(shown)
    return Check(name=name, status=status, reason=reason, figure=figure, limit=limit)


def _unclear(name: str, reason: str) -> Check:
    return Check(name=name, status=Status.UNCLEAR, reason=reason)


def _not_run(name: str, reason: str) -> Check:
    return Check(name=name, status=Status.NOT_RUN, reason=reason)


def _readers(looks: Iterable[Sample]) -> list[int]:
    return [look.readers for look in looks]


def _values(looks: Iterable[Sample], part: Part) -> list[int]:
    known = [look.process if part == "process" else look.kernel for look in looks]
    return [value for value in known if value is not None]


def _middle(values: Sequence[float]) -> float:
    return median(values) if values else 0.0
