"""What a record means: a record in, a verdict out. Pure, and the same whenever it is asked."""

from collections import Counter
from collections.abc import Iterable

from pydantic import ByteSize

from .checks import Questions
from .errors import EXIT_BOUNDED, EXIT_INCONCLUSIVE, EXIT_NOT_BOUNDED
from .record import Record
from .verdict import PARTS, Check, Outcome, Part, Status, Verdict, size

WHOLE_SHARE = 0.5
"""Of the body: a reader that costs more than that has it in memory, whoever called it streaming."""


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
    return _Judge(Questions(record, plan)).verdict()


class _Judge:
    def __init__(self, questions: Questions) -> None:
        self.questions, self.record = questions, questions.record

    def verdict(self) -> Verdict:
        ask = self.questions
        costs = {part: ask.cost(part) for part in PARTS}
        growths = {part: ask.growth(part) for part in PARTS}
        dose, ratchet, files = ask.dose(), ask.ratchet(), ask.files()
        own = {
            "process": (costs["process"], growths["process"], dose, ratchet, files),
            "kernel": (costs["kernel"], growths["kernel"]),
        }
        checks = (
            ask.self_test(),
            ask.body(),
            ask.pressure(),
            costs["process"],
            costs["kernel"],
            growths["process"],
            growths["kernel"],
            dose,
            ratchet,
            files,
            ask.shed(),
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
            user_budget=ask.budgets["process"],
            kernel_budget=ask.budgets["kernel"],
            readers=dict(Counter(each.fate for each in ask.readers)),
            checks=checks,
        )

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
        broken_off = fault or not self.record.end
        if broken_off or any(check.status is Status.UNCLEAR for check in checks):
            return Outcome.INCONCLUSIVE, EXIT_INCONCLUSIVE
        if self.questions.sheds:
            return (
                Outcome.SHED,
                EXIT_BOUNDED if self.questions.plan.allow_shed else EXIT_NOT_BOUNDED,
            )
        return Outcome.BOUNDED, EXIT_BOUNDED

    def _sentence(
        self, outcome: Outcome, parts: dict[Part, Outcome], checks: Iterable[Check]
    ) -> str:
        if outcome is Outcome.INCONCLUSIVE and self.record.fault:
            return self.record.fault.message
        if outcome is Outcome.INCONCLUSIVE and not self.record.end:
            return "the record breaks off before the end of the trial"
        words = [f"{part} {parts[part]}" for part in PARTS]
        match outcome:
            case Outcome.BOUNDED:
                return "a slow reader costs the server no more than the budgets, " + " and ".join(
                    f"{part} {size(check.figure.value)}"
                    for part, check in zip(PARTS, list(checks)[3:5], strict=True)
                    if check.figure
                )
            case Outcome.SHED:
                return "the server drops slow readers; " + self.questions.shed().reason
            case Outcome.INCONCLUSIVE:
                open_ones = [check for check in checks if check.status is Status.UNCLEAR]
                return "; ".join(f"{check.name}: {check.reason}" for check in open_ones)
            case _:
                reasons = [check for check in checks if check.status is Status.FAILED]
                told = "; ".join(f"{check.name}: {check.reason}" for check in reasons)
                return f"{', '.join(words)}. {told}"
