"""Both stores write the same bytes for the same rows, whatever stands in them."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from service.tasks.generate import tasks
from service.tasks.model import COLUMNS, STATUSES, TITLE_CHARACTERS, NewTask
from tests.conftest import Running, StartService
from tests.databases import POSTGRESQL_ALONE, SQLite
from tests.test_properties import (
    CSV,
    EXAMPLES,
    NDJSON,
    PAGE_BYTES,
    TASKS,
    Made,
    behind,
    in_thread,
    on,
    stored,
)

pytestmark = POSTGRESQL_ALONE

FORMS: list[tuple[str, dict[str, str]]] = [(CSV, {}), (CSV, {"dialect": "excel"}), (NDJSON, {})]
HARD = (
    *map(chr, range(1, 32)),
    *map(chr, range(0x7F, 0xA1)),
    *"\"',;\\/|$%?_ =+-@\uff1d\uff0b\uff0d\uff20\u2028\u2029\u200b\u200d\u202e\u0301\u0130\xdf",
    *"\ud7ff\ue000\ufeff\ufffd\ufffe\uffff\U0001f389\U0010ffff",
    *("\r\n", '""', "\\.", "\\N", "\\n", "\\u0000", "\\x41", "$1", "%s", "e\u0301"),
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
)
"""What a format, a spreadsheet or one of the engines gives a meaning to."""
AROUND = ("{}", "a{}", "{}a", "a{}b", "{0}{0}", "={}", '"{}"', ",{}\n")
SHORT = [frame.format(part) for frame in AROUND for part in HARD]
LONG = [part * (TITLE_CHARACTERS // len(part)) for part in HARD]
CHOICES: list[dict[str, Any]] = [
    {},
    {"after": 1, "limit": 1},
    {"after": len(SHORT) - 3, "limit": 40},
    {"after": len(SHORT) + len(LONG) - 3, "limit": 301},
    {"status": "pending"},
    {"status": "completed", "priority__gte": 3, "priority__lte": 4, "limit": 20},
    {"priority__gte": 10, "after": 99},
    {"priority__lte": 1, "after": 100, "limit": 5},
    {"status": "in-progress", "columns": "title"},
    {"after": 10**18},
    *(
        {"columns": ",".join(some), "limit": len(SHORT)}
        for count in range(1, 5)
        for some in permutations(COLUMNS, count)
    ),
]

Pair = tuple[Running, Running]
StartPair = Callable[..., Awaitable[Pair]]


@pytest.fixture
def start_pair(start: StartService, tmp_path: Path) -> StartPair:
    """Start a service on each store, with the same tasks in it."""

    async def begin(made: list[NewTask], **settings: Any) -> Pair:
        other = SQLite(tmp_path / "tasks.db")
        return await start(made, **settings), await start(made, other, **settings)

    return begin


async def assert_same(pair: Pair, path: str, **chosen: Any) -> bytes:
    """Both services answer with these bytes."""
    first, second = [await service.get(path, **chosen) for service in pair]
    assert first == second, (path, chosen)
    return first


async def test_hard_titles_are_the_same_bytes(start_pair: StartPair) -> None:
    """Every format, with columns, filters, after= and limit=, is the same file from each store."""
    made = [
        NewTask(title, number % 10 + 1, STATUSES[number % 3])
        for number, title in enumerate([*SHORT, *LONG])
    ]
    made += tasks(2_000, seed=13)
    pair = await start_pair(made)
    for path, form in FORMS:
        for chosen in CHOICES:
            await assert_same(pair, path, **form, **chosen)
    assert len(await assert_same(pair, CSV, header="false")) > len(LONG) * TITLE_CHARACTERS


async def test_any_titles_are_the_same_bytes(start_pair: StartPair) -> None:
    """Any legal tasks are the same file from each store, and the same answer when stored."""
    pair = await start_pair([], page_bytes=PAGE_BYTES)
    loop = asyncio.get_running_loop()

    async def example(made: Made) -> None:
        first, second = [await stored(service, made) for service in pair]
        assert first == second
        for path, form in FORMS:
            await assert_same(pair, path, after=behind(first), **form)

    @EXAMPLES
    @given(TASKS)
    def check(made: Made) -> None:
        on(loop, example(made))

    await in_thread(check)
