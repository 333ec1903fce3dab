"""The first promise, judged from outside: under every way of reading slowly, memory stays
within the bound that the service publishes; and the judge can say no."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simulator import selftest
from simulator.pacing import PROFILES
from simulator.pytest_plugin import SlowReaders
from simulator.selftest import expected, try_specimen
from simulator.specimens import EXPECTED
from simulator.verdict import Outcome, Verdict
from tests.conftest import AUTHORIZATION_LINE

WITHOUT_WAITING = """
import service.stream.flow
async def return_at_once(self, slow=lambda: None): pass
service.stream.flow.Flow.room = return_at_once
from service.command_line import cli
cli()
"""
"""The service with its heart taken out: it writes on without waiting for the client."""
EXPORT = "/tasks/export.csv"
READERS = 400
"""At the top: what they cost must stand out of what memory moves by itself, some megabytes."""
MILDER = {"read-then-stall": "read-then-stall:first=256KiB", "abort": "abort:pause=5"}
"""A megabyte for each of 400 readers through 4 KiB buffers takes half a minute, and 200 new
connections a second are half of what a service takes in."""
HALF_CLOSE = "half-close-then-stall"


def judge(
    slow_readers: SlowReaders, program: str, table: Path, profile: str, **options: Any
) -> Verdict:
    """The verdict on a fresh service by the bound that it publishes itself."""
    url = slow_readers.start(
        f"{sys.executable} {program} --port {{port}} --database sqlite:///{table} "
        # What all streams share is no reader's cost, and 16 MiB of it would hide theirs.
        "--read-ahead-bytes 1MiB"
    )
    metrics = subprocess.run(
        ["curl", "-sf", f"{url}/metrics", "-H", AUTHORIZATION_LINE],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r'^weir_bound_bytes\{part="stream"\} (\S+)$', metrics, re.MULTILINE)
    assert found
    bound = int(float(found[1]))
    verdict = slow_readers.judge(
        url + EXPORT,
        readers=READERS,
        headers=(AUTHORIZATION_LINE,),
        small_url=f"{url}{EXPORT}?limit=50000",
        profile=MILDER.get(profile, profile),
        user_budget=bound,
        kernel_budget=bound,
        **options,
    )
    if verdict.bounded:
        assert verdict.process_cost
        assert verdict.kernel_cost
        assert verdict.process_cost.value + verdict.kernel_cost.value <= bound, verdict
    return verdict


@pytest.mark.parametrize("profile", [*PROFILES, "mix"])
def test_memory_stays_within_the_published_bound(
    slow_readers: SlowReaders, table: Path, profile: str
) -> None:
    """Under every profile, and under all of them at once, the service is bounded, however long
    the body is."""
    drops = profile in (HALF_CLOSE, "mix")
    for _ in range(2):
        verdict = judge(slow_readers, "-m service", table, profile, allow_shed=drops, rounds=1)
        if verdict.outcome is not Outcome.INCONCLUSIVE:
            break  # nothing was proved, as beside much other load: once more
    assert verdict.outcome is (Outcome.SHED if drops else Outcome.BOUNDED), verdict
    assert verdict.passed, verdict
    if drops:
        # A client that shuts its sending side counts as gone, and nobody else is dropped.
        assert verdict.check("shed").reason.endswith(f" {HALF_CLOSE})"), verdict
    if profile == "stall":
        assert verdict.check("dose").status == "passed", verdict


def test_without_the_wait_the_verdict_is_red(slow_readers: SlowReaders, table: Path) -> None:
    """The assertion above can fail: it does when the service does not await its client."""
    mutant = table.with_name("mutant.py")
    mutant.write_text(WITHOUT_WAITING)
    verdict = judge(slow_readers, str(mutant), table, "stall")
    assert verdict.process is Outcome.UNBOUNDED, verdict
    assert verdict.exit_code == 1


@pytest.mark.parametrize("name", EXPECTED)
def test_each_specimen_gets_its_verdict(name: str) -> None:
    """Servers with a known verdict get it, so that a verdict means something."""
    verdict = try_specimen(name)
    assert expected(name, verdict), verdict
    assert sum(verdict.readers.values()) == selftest.READERS
