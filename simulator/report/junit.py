"""The report for CI: a test suite a record, a test a check."""

import re
from collections.abc import Sequence

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from ..errors import EXIT_INCONCLUSIVE
from ..verdict import Status
from .judged import Judged

RESULTS = {Status.FAILED: Failure, Status.UNCLEAR: Error, Status.NOT_RUN: Skipped}

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 does not allow, and a server's status line may hold."""


def render(judged: Sequence[Judged], *, color: bool = False) -> str:
    """JUnit XML: failed checks are failures, inconclusive ones errors."""
    report = JUnitXml("weir-sim")
    for each in judged:
        suite = TestSuite(_legal(each.name))
        for check in each.verdict.checks:
            case = TestCase(check.name, classname=_legal(each.name))
            if result := RESULTS.get(check.status):
                case.result = [result(_legal(check.reason))]
            suite.add_testcase(case)
        case = TestCase("verdict", classname=_legal(each.name))
        if not each.verdict.passed:
            inconclusive = each.verdict.exit_code == EXIT_INCONCLUSIVE
            result = Error if inconclusive else Failure
            case.result = [result(_legal(f"{each.verdict.outcome}: {each.verdict.sentence}"))]
        suite.add_testcase(case)
        report.add_testsuite(suite)
    report.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = report.tostring()  # type: ignore[no-untyped-call]
    return text.decode("utf-8")


def _legal(text: str) -> str:
    return ILLEGAL.sub("\ufffd", text)
