"""The questions that are put to a record, each answered by a check.

It is an equivalence test: an interval wholly within a limit passes, one wholly outside fails,
and one that straddles it is inconclusive, never green.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from .estimate import Figure, difference, slope, stairs
from .plan import KIB, Plan
from .record import Looks, ReaderLine, Record, middle
from .verdict import Check, Part, Status, size

PRESSED_SHARE = 0.9
"""Of the readers wanted, those that must be seen to hold the server up."""
SHED_SHARE = 0.05
"""Of the readers, those that a server may lose before it counts as dropping slow ones."""
GROWTH_SHARE, LEAST_GROWTH = 0.1, 4 * KIB
"""Of a budget, or in bytes if that is more, what a reader's cost may grow by while it is held."""
LEFT_BYTES = 16 * KIB
"""What a connection may leave behind in each round of the ratchet: less is an allocator settling
in. It does not grow with the budget: a leak is a leak."""
FEWEST_FOR_LEAK = 20
"""Readers below which a climbing peak is no proof."""
DOSE_SHARE = 0.02
"""Of the bytes that the larger body has more, what it may add to one reader's cost: a server
without backpressure keeps all of them, and memory moves a little by itself."""
GONE_SHARE = 0.5
"""Of the readers: when more are lost, those left are too few to measure a cost by."""
LEAST_COST = 4 * KIB
"""A connection costs any server more than that, unless it lives on memory freed before."""
REUSE = 1.5
"""Times that the last readers may cost the first, before memory counts as used again."""
ALIKE = 1.25
"""Times that what readers touch may differ between steps, and still be what each of them uses."""
FILES_SHARE = 0.05
"""Of the readers: open files that may stay behind, for logs and pools opened meanwhile."""


class Questions:
    """A record, asked. plan: the record's, or with other budgets."""

    def __init__(self, record: Record, plan: Plan) -> None:
        self.record, self.plan = record, plan
        self.budgets: dict[Part, int] = {"process": plan.user_budget, "kernel": plan.kernel_budget}
        self.stairs = record.of_kind("staircase")
        last = [*self.stairs, *record.of_kind("hold")][-1:]
        self.readers = record.readers_of(last[0]) if last else []
        self.lost = [each for each in self.readers if each.lost]
        self.sheds = len(self.lost) > SHED_SHARE * len(self.readers)
        self.gone = len(self.lost) > GONE_SHARE * len(self.readers)

    def self_test(self) -> Check:
        found = self.record.self_test
        if found is None:
            return Check(name="self-test", status=Status.NOT_RUN, reason="was not asked for")
        reason = (
            f"a bounded specimen cost {size(found.bounded)} a reader here, "
            f"one that ignores backpressure {size(found.unbounded)}"
        )
        status = Status.PASSED if found.passed else Status.UNCLEAR
        return Check(name="self-test", status=status, reason=reason)

    def body(self) -> Check:
        server, enough = self.record.server, self.plan.enough_body
        if server is None:
            return _unclear("body", "the server was not reached")
        if server.body < enough:
            return _unclear(
                "body", f"{size(server.body)}: budgets could hold it, {size(enough)} not"
            )
        about = "at least " if server.at_least else ""
        reason = f"{about}{size(server.body)}, and {size(enough)} are enough to prove something"
        return Check(name="body", status=Status.PASSED, reason=reason)

    def pressure(self) -> Check:
        worst: tuple[float, str] = (1.0, "no reader was tried")
        for phase in self.stairs + self.record.of_kind("hold") + self.record.of_kind("ratchet"):
            readers = self.record.readers_of(phase)
            if not readers:
                return _unclear("pressure", f"the readers of {phase.name} are not known")
            pressed = sum(each.pressed for each in readers)
            wanted = sum(not (self.sheds and each.lost) for each in readers)
            share = min(1.0, pressed / wanted) if wanted else 1.0
            others = Counter(each.fate for each in readers if not each.pressed)
            said = ", ".join(f"{number} {name}" for name, number in others.most_common())
            text = f"{pressed} of {len(readers)} held the server up in {phase.name}"
            text += said and f"; {said}"
            if share <= worst[0]:
                worst = share, text
        passed = self.stairs and worst[0] >= PRESSED_SHARE
        status = Status.PASSED if passed else Status.UNCLEAR
        return Check(name="pressure", status=status, reason=worst[1])

    def cost(self, part: Part) -> Check:
        name, limit = f"cost of {part}", self.budgets[part]
        if missing := self._missing(part):
            return _unclear(name, missing)
        if self.record.fault and self.record.fault.growth:
            figure = self._at_the_end(part)
            what = "it had cost so much a reader when the readers were sent away"
        elif self.gone:
            figure = self._peak(part)
            what = "at most, for each that came: most did not stay"
        else:
            looks = [each for each in map(self.record.looks, self.stairs) if each.samples]
            figure = stairs([(each.readers, each.values(part)) for each in looks])
            what = "a reader"
            if part == "process" and figure:
                figure, what = self._with_reused(figure, looks)
        if figure is None:
            return _unclear(name, "too few plateaus with different numbers of readers")
        return _compare(name, figure, limit, f"{{}} {what}; the budget is {size(limit)}")

    def _with_reused(self, taken: Figure, looks: Sequence[Looks]) -> tuple[Figure, str]:
        """The cost, with what was not taken anew but touched: memory freed before and kept.

        That is so where the first readers cost next to nothing, or far less than the later ones,
        or where each touches as much more than it takes.
        Readers that move touch more and more as time goes by: what the same readers touch in
        the hold does not count. Whatever else is touched once, as by a garbage collector, makes
        one step of the staircase too high: the lower of them counts.
        """
        drift = self._drift() if any(share.profile.moves for share in self.plan.mix) else 0.0
        steps, touched = [], []
        for low, high in pairwise(looks):
            more = middle(high.readers) - middle(low.readers)
            seconds = middle(high.times) - middle(low.times)
            if more > 0 and low.values("touched") and high.values("touched"):
                steps.append(_risen(low, high, "process") / more)
                touched.append((_risen(low, high, "touched") - seconds * drift) / more)
        if not steps or max(touched) <= taken.high:
            return taken, "a reader"
        straight = steps[0] > LEAST_COST and steps[-1] <= REUSE * steps[0]
        if straight and max(touched) > ALIKE * max(min(touched), 0.0):
            return taken, "a reader"
        used = min(touched)
        if used <= taken.value:
            return taken, "a reader"
        figure = Figure(used, taken.low, max(taken.high, used))
        said = f"{size(taken.value)} of it taken anew, the rest freed before and used again"
        return figure, f"a reader, {said} (a fresh server would tell more)"

    def _drift(self) -> float:
        """Bytes a second that the same readers touch anew."""
        held = self.record.looks(*self.record.of_kind("hold"))
        values = held.values("touched")
        rate = slope(held.times, values) if len(values) > 1 else None
        return rate.value if rate else 0.0

    def growth(self, part: Part) -> Check:
        name = f"growth of {part}"
        limit = max(LEAST_GROWTH, GROWTH_SHARE * self.budgets[part])
        looks = self.record.looks(*self.record.of_kind("hold"))
        readers = middle(looks.readers)
        if not readers or self.gone:
            return _not_run(name, "nobody was held")
        if missing := self._missing(part):
            return _unclear(name, missing)
        rate = slope(looks.times, looks.values(part))
        if rate is None:
            return _unclear(name, "too few looks")
        seconds = looks.times[-1] - looks.times[0]
        text = f"{{}} a reader in {seconds:.0f} s of waiting; {size(limit)} is allowed"
        return _compare(name, rate * (seconds / readers), limit, text)

    def dose(self) -> Check:
        doses, server = self.record.of_kind("dose"), self.record.server
        small, large = self.record.looks(*doses), self.record.looks(*self.stairs[:1])
        if doses and not self._mostly_pressed(self.record.readers_of(doses[0])):
            return _not_run("dose", "the small body went into the kernel's buffers, or was refused")
        if not small.samples or not large.samples or not server:
            return _not_run("dose", "needs a second, smaller body: give --small-url")
        if missing := self._missing("process"):
            return _unclear("dose", missing)
        readers = min(middle(small.readers), middle(large.readers))
        if not readers:
            return _not_run("dose", "nobody stayed")
        more = difference(small.values("process"), large.values("process")) * (1 / readers)
        limit = DOSE_SHARE * (server.body - server.small_body)
        text = (
            f"{{}} a reader for a body of {size(server.body)} instead of "
            f"{size(server.small_body)}; {size(limit)} is allowed"
        )
        return _compare("dose", more, limit, text)

    def ratchet(self) -> Check:
        held = self.record.looks(*self.record.of_kind("hold"))
        rounds = [self.record.looks(phase) for phase in self.record.of_kind("ratchet")]
        rounds = [looks for looks in rounds if looks.samples]
        readers = middle(held.readers)
        if not rounds or not readers or self.gone:
            return _not_run("ratchet", "the rounds were not reached")
        if missing := self._missing("process"):
            return _unclear("ratchet", missing)
        peaks = [looks.values("process") for looks in rounds]
        peaks.insert(0, held.values("process")[-len(peaks[0]) :])
        # The last ones: a garbage collector takes some rounds to come round.
        peaks = peaks[-self.plan.rounds - 1 :]
        leak = slope(
            [number for number, values in enumerate(peaks) for _ in values],
            [value for values in peaks for value in values],
        )
        assert leak
        text = (
            f"{{}} a connection in each of the last {len(peaks) - 1} of {len(rounds)} rounds of "
            f"connecting and aborting; {size(LEFT_BYTES)} is allowed"
        )
        check = _compare("ratchet", leak * (1 / readers), LEFT_BYTES, text)
        climbs = [middle(high) - middle(low) for low, high in pairwise(peaks)]
        steady = min(climbs) > LEFT_BYTES * readers and readers >= FEWEST_FOR_LEAK
        if check.status is Status.FAILED and not steady:
            # A leak is there in every round; an allocator that settles in is not.
            said = f"{check.reason}; it is no proof of a leak: give it more --rounds, or --readers"
            return check.model_copy(update={"status": Status.UNCLEAR, "reason": said})
        return check

    def files(self) -> Check:
        before = self.record.looks(*self.record.of_kind("base")).values("files")
        after = self.record.looks(*self.record.of_kind("rest")[-1:]).values("files")
        if not before or not after:
            return _not_run("files", "open files cannot be seen, or the rounds were not reached")
        first, last = before[0], min(after)
        allowed = first + max(2, int(FILES_SHARE * self.plan.readers))
        status = Status.PASSED if last <= allowed else Status.FAILED
        reason = f"{first} were open before the readers came, {last} after they had gone"
        return Check(name="files", status=status, reason=reason)

    def shed(self) -> Check:
        total, lost = len(self.readers), Counter(each.profile for each in self.lost)
        if not total:
            return _not_run("shed", "no reader was tried")
        by_profile = ", ".join(f"{number} {name}" for name, number in lost.items())
        reason = f"{len(self.lost)} of {total} were dropped by the server"
        reason += f" ({by_profile})" if lost else ""
        failed = self.sheds and not self.plan.allow_shed
        return Check(name="shed", status=Status.FAILED if failed else Status.PASSED, reason=reason)

    def _mostly_pressed(self, readers: Sequence[ReaderLine]) -> bool:
        return sum(each.pressed for each in readers) >= PRESSED_SHARE * len(readers)

    def _missing(self, part: Part) -> str:
        if self.record.server and (reason := self.record.server.missing.get(part)):
            return f"cannot be measured: {reason}"
        if any(getattr(look, part) is None for look in self.record.samples):
            return "could not be measured all the time"
        return ""

    def _at_the_end(self, part: Part) -> Figure | None:
        """Growth over the base by the last sample, for each reader of it."""
        last, wanted = Looks(tuple(self.record.samples[-1:])), self.record.phases[-1:]
        readers = middle(last.readers) or sum(phase.readers for phase in wanted)
        return self._above_base(part, last, readers)

    def _peak(self, part: Part) -> Figure | None:
        """The highest growth over the base, for each reader that came."""
        every = Looks(tuple(self.record.samples))
        return self._above_base(part, every, self.plan.readers)

    def _above_base(self, part: Part, looks: Looks, readers: float) -> Figure | None:
        base = self.record.looks(*self.record.of_kind("base")).values(part)
        values = looks.values(part)
        if not base or not values or not readers:
            return None
        value = (max(values) - middle(base)) / readers
        return Figure(value, value, value)


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


def _risen(low: Looks, high: Looks, name: str) -> float:
    return middle(high.values(name)) - middle(low.values(name))


def _unclear(name: str, reason: str) -> Check:
    return Check(name=name, status=Status.UNCLEAR, reason=reason)


def _not_run(name: str, reason: str) -> Check:
    return Check(name=name, status=Status.NOT_RUN, reason=reason)
