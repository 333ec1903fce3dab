"""Whatever legal tasks there are: the exports are read back as stored, and resume at any byte."""

import asyncio
import csv
import io
import json
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.tasks.model import STATUSES, TITLE_CHARACTERS
from tests.conftest import Running, StartService
from tests.databases import EVERY_STORE

pytestmark = EVERY_STORE

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
PAGE_BYTES = 1_024
"""The smallest page, so that a few tasks are several."""
CSV, NDJSON = "/tasks/export.csv", "/tasks/stream.ndjson"
FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")

Made = list[dict[str, Any]]
Places = list[int]

LEGAL = st.characters(codec="utf-8", exclude_characters="\0")
HARD = st.sampled_from("\",\n\r\t\\'\x01\x1f\x7f\x85\u2028\ufeff\ufffe\uffff\U0010ffff =+-@;")
TITLES = (
    st.text(LEGAL, min_size=1, max_size=40)
    | st.text(HARD, min_size=1, max_size=40)
    | st.builds(
        lambda part: part * (TITLE_CHARACTERS // len(part)), st.text(LEGAL | HARD, min_size=1)
    )
)
TASKS = st.lists(
    st.fixed_dictionaries(
        {"title": TITLES, "priority": st.integers(1, 10), "status": st.sampled_from(STATUSES)}
    ),
    min_size=1,
    max_size=25,
)
PLACES = st.lists(st.integers(0, 100_000), min_size=3, max_size=3)


async def in_thread(check: Callable[[], None]) -> None:
    """Run a property beside the loop that serves what it asks for."""
    await asyncio.to_thread(check)


def on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine on the service's loop returns, waited for in another thread."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(60)


async def stored(service: Running, made: Made) -> list[dict[str, Any]]:
    """The tasks as the service has stored them, each with its id."""
    async with service.client.post(service.url + "/tasks", json=made) as response:
        assert response.status == 201, await response.text()
        found: list[dict[str, Any]] = await response.json()
        return found


def behind(made: list[dict[str, Any]]) -> int:
    """The `after` that makes an export start with these tasks."""
    return int(made[0]["id"]) - 1


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def cells(task: dict[str, Any]) -> list[str]:
    return [task["id"], task["title"], str(task["priority"]), task["status"]]


def whole_csv_rows(part: bytes) -> bytes:
    """The part up to its last line end that is not inside quotes."""
    end = len(part)
    while end := part.rfind(b"\n", 0, end) + 1:
        if part.count(b'"', 0, end) % 2 == 0:
            return part[:end]
        end -= 1
    return b""


def continued(kept: bytes, first: int) -> dict[str, Any]:
    """What to ask for to go on behind the whole rows of a CSV file, its head among them."""
    rows = rows_of(kept.decode("utf-8-sig"))
    return {
        "after": rows[-1][0] if len(rows) > 1 else first,
        "header": "false" if rows else "true",
    }


def cuts(whole: bytes, places: Places) -> list[int]:
    """The bytes to cut behind: the length of the file differs from run to run, as ids grow."""
    return [place % (len(whole) + 1) for place in places]


async def test_any_title_is_read_back(start: StartService) -> None:
    """Any legal tasks come out of CSV, Excel's CSV and NDJSON as they were put in."""
    service = await start(page_bytes=PAGE_BYTES)
    loop = asyncio.get_running_loop()

    async def example(made: Made) -> None:
        tasks = await stored(service, made)
        assert [{**task, "id": None} for task in tasks] == [{**task, "id": None} for task in made]
        after = behind(tasks)
        expected = [cells(task) for task in tasks]
        text = (await service.get(CSV, after=after)).decode()
        assert rows_of(text)[1:] == expected
        lines = (await service.get(NDJSON, after=after)).split(b"\n")
        assert [json.loads(line) for line in lines[:-1]] == tasks
        assert lines[-1] == b""
        text = (await service.get(CSV, after=after, dialect="excel")).decode("utf-8-sig")
        assert rows_of(text)[1:] == [
            [number, "'" * title.startswith(FORMULA_STARTS) + title, *others]
            for number, title, *others in expected
        ]

    @EXAMPLES
    @given(TASKS)
    def check(made: Made) -> None:
        on(loop, example(made))

    await in_thread(check)


async def test_any_cut_of_csv_is_resumed(start: StartService) -> None:
    """CSV cut at any byte and continued behind its last whole row is the whole file."""
    service = await start(page_bytes=PAGE_BYTES)
    loop = asyncio.get_running_loop()

    async def example(made: Made, places: Places, dialect: str) -> None:
        first = behind(await stored(service, made))
        whole = await service.get(CSV, after=first, dialect=dialect)
        for cut in cuts(whole, places):
            kept = whole_csv_rows(whole[:cut])
            rest = await service.get(CSV, **continued(kept, first), dialect=dialect)
            assert kept + rest == whole

    @EXAMPLES
    @given(TASKS, PLACES, st.sampled_from(["standard", "excel"]))
    def check(made: Made, places: Places, dialect: str) -> None:
        on(loop, example(made, places, dialect))

    await in_thread(check)


async def test_any_cut_of_ndjson_is_resumed(start: StartService) -> None:
    """NDJSON cut at any byte and continued behind its last whole line is the whole file."""
    service = await start(page_bytes=PAGE_BYTES)
    loop = asyncio.get_running_loop()

    async def example(made: Made, places: Places) -> None:
        first = behind(await stored(service, made))
        whole = await service.get(NDJSON, after=first)
        for cut in cuts(whole, places):
            kept = whole[: whole.rfind(b"\n", 0, cut) + 1]
            last = json.loads(kept.splitlines()[-1])["id"] if kept else first
            assert kept + await service.get(NDJSON, after=last) == whole

    @EXAMPLES
    @given(TASKS, PLACES)
    def check(made: Made, places: Places) -> None:
        on(loop, example(made, places))

    await in_thread(check)


async def test_every_cut_of_a_small_file_is_resumed(start: StartService) -> None:
    """Each byte of a file with quotes and line ends in its titles is a place to resume from."""
    service = await start(page_bytes=PAGE_BYTES)
    titles = ['a "b"\n', "\n", '"', '""', ",\r\n", "'", "plain", '\n"\n"', "é🎉"]
    first = behind(await stored(service, [{"title": t, "priority": 1} for t in titles]))
    whole = await service.get(CSV, after=first)
    joined = {}
    for cut in range(len(whole) + 1):
        kept = whole_csv_rows(whole[:cut])
        joined[cut] = kept + await service.get(CSV, **continued(kept, first))
    assert set(joined.values()) == {whole}
