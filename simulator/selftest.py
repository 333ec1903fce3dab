"""Can this machine tell a bounded server from an unbounded one? Asked of the specimens."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import sleep

from .fleet_process import Asking, FleetProcess
from .judge import judge
from .launch import own_module, started_anywhere
from .plan import MIB, make_plan
from .probe import memory
from .record import Record, SelfTestLine
from .specimens import EXPECTED
from .target import find_target
from .trial import Trial
from .verdict import Verdict

SMALL_BODY, BODY = 4 * MIB, 16 * MIB
"""Bytes: the smaller one still does not fit into the kernel's buffers, 2.7 MiB on loopback."""
READERS = 48
"""In a trial of a specimen: the unbounded ones take 16 MiB for each."""
FEW, MORE = 2, 14
TOLD_APART = 8
"""Times that the unbounded specimen must cost the bounded one."""
REST_SECONDS = 0.4


def tell_apart() -> SelfTestLine:
    """The short self-test before each trial: process memory a reader of two specimens."""
    with ThreadPoolExecutor() as threads:
        bounded, unbounded = threads.map(_cost, ("bounded", "unbounded"))
    passed = unbounded > TOLD_APART * max(bounded, 1) and unbounded > BODY / 4
    return SelfTestLine(bounded=bounded, unbounded=unbounded, passed=passed)


def try_specimen(name: str) -> Verdict:
    """A whole quick trial of one specimen."""
    with serving(name) as (url, pid):
        plan = make_plan(
            url=f"{url}?bytes={BODY}",
            small_url=f"{url}?bytes={SMALL_BODY}",
            readers=READERS,
            quick=True,
        )
        record = Record(plan)
        trial = Trial(plan, find_target(plan, pid), record)
        trial.prepare()
        trial.run()
    return judge(record)


def expected(name: str, verdict: Verdict) -> bool:
    """Whether a verdict on a specimen is the one that it is known for."""
    known = EXPECTED[name]
    return (
        verdict.outcome is known.outcome
        and known.process in (None, verdict.process)
        and known.kernel in (None, verdict.kernel)
    )


@contextmanager
def serving(name: str) -> Iterator[tuple[str, int]]:
    """A specimen for as long as the context lasts: its URL and process id."""
    command, environment = own_module("specimens")
    with started_anywhere([*command, name, "--port", "0"], environment) as (pid, port):
        yield f"http://127.0.0.1:{port}/", pid


def _cost(name: str) -> float:
    with serving(name) as (url, pid), FleetProcess(Asking(f"{url}?bytes={BODY}")) as fleet:
        levels = []
        for readers in (FEW, MORE):
            fleet.reach(readers)
            sleep(REST_SECONDS)
            levels.append(memory(pid).private)
        return (levels[1] - levels[0]) / (MORE - FEW)
