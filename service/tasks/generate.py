"""Made-up tasks, the same ones for the same seed, with all that is hard to quote in them."""

from collections.abc import Iterator
from random import Random

from .model import PRIORITY_HIGHEST, PRIORITY_LOWEST, STATUSES, NewTask

VERBS = ("Learn", "Write", "Review", "Fix", "Deploy", "Measure", "Call", "Plan", "Buy", "Test")
THINGS = (
    "Node",
    "the report",
    "pull request #42",
    "backpressure",
    "milk, eggs, bread",
    'the "final" draft',
    "line one\nline two",
    "the 5\u2033 bolts",
    "weißen Käse",
    "отчёт за март",
    "日本語の資料",
    "التقرير الشهري",
    "रिपोर्ट",
    "the party 🎉",
    "a family photo 👨‍👩‍👧",
    "C:\\temp\\weir",
    "=SUM(A1:A9)",
    "a\tb",
    "the invoices",
    "the release notes",
)


def tasks(rows: int, seed: int) -> Iterator[NewTask]:
    """`rows` tasks in a fixed order."""
    random = Random(seed)
    choose, number = random.choice, random.random
    priorities = range(PRIORITY_LOWEST, PRIORITY_HIGHEST + 1)
    titles = [f"{verb} {thing}" for verb in VERBS for thing in THINGS]
    for _ in range(rows):
        yield NewTask(
            f"{choose(titles)} {int(number() * 1_000_000)}", choose(priorities), choose(STATUSES)
        )
