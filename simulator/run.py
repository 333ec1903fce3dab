"""One trial from beginning to end: find or start the server, self-test, try, judge."""

from collections.abc import Sequence
from contextlib import ExitStack

from .fleet_process import allow_files
from .judge import judge
from .launch import started
from .plan import Plan
from .record import Record, SelfTestLine
from .selftest import tell_apart
from .target import find_target
from .trial import Show, Trial
from .verdict import Verdict


def run_trial(
    plan: Plan,
    record: Record,
    *,
    pid: int | None = None,
    command: Sequence[str] | None = None,
    self_test: SelfTestLine | None = None,
    show: Show = lambda what, part: None,
) -> Verdict:
    """Try the server at plan.url, which `pid` is, or `command` starts, or which listens there.

    self_test: of this machine, if it has been made before.

    Raises UsageError or InconclusiveError for what keeps the trial from beginning; what happens
    in it is in the record, and in the verdict.
    """
    allow_files(plan.readers)
    with ExitStack() as stack:
        if command is not None:
            pid = stack.enter_context(started(command, plan.url))
        trial = Trial(plan, find_target(plan, pid), record, show)
        trial.prepare()
        if plan.self_test:
            show("self-test", 0.0)
            record.add(self_test or tell_apart())
        if record.self_test is None or record.self_test.passed:
            trial.run()
    return judge(record)
