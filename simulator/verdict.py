"""What a trial comes to: checks, each with its figure and reason, and the outcome of them all."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from .errors import EXIT_BOUNDED
from .estimate import Figure
from .plan import KIB, MIB

Part = Literal["process", "kernel"]
PARTS: tuple[Part, Part] = ("process", "kernel")


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNCLEAR = "inconclusive"
    NOT_RUN = "not run"


class Outcome(StrEnum):
    BOUNDED = "bounded"
    OVER_BUDGET = "over budget"
    UNBOUNDED = "unbounded"
    SHED = "shed"
    INCONCLUSIVE = "inconclusive"


class Check(BaseModel):
    """One question put to the record. figure and limit are in bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: Status
    reason: str
    figure: Figure | None = None
    limit: float | None = None


class Verdict(BaseModel):
    """What became of it all. cost: bytes a reader. readers: how many ended in which state."""

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    exit_code: int
    sentence: str
    process: Outcome
    kernel: Outcome
    process_cost: Figure | None
    kernel_cost: Figure | None
    user_budget: int
    kernel_budget: int
    readers: dict[str, int]
    checks: tuple[Check, ...]

    @property
    def bounded(self) -> bool:
        return self.outcome is Outcome.BOUNDED

    @property
    def passed(self) -> bool:
        """Bounded, or shed where that was allowed."""
        return self.exit_code == EXIT_BOUNDED

    def check(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def __str__(self) -> str:
        lines = [f"{self.outcome.upper()}: {self.sentence}"]
        lines += [f"  {check.name}: {check.status}: {check.reason}" for check in self.checks]
        return "\n".join(lines)


def size(value: float) -> str:
    """Bytes for people: `30.3 KiB`."""
    if abs(value) < MIB:
        return f"{value / KIB:.1f} KiB"
    return f"{value / MIB:.1f} MiB"
