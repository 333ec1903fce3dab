"""What comes out of the two exports is the table, byte by byte as the contract says."""

import csv
import io
import json
import re
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

from service.tasks.generate import tasks
from service.tasks.model import COLUMNS, ID_HIGHEST, STATUSES, NewTask
from tests.conftest import Running, StartService
from tests.databases import EVERY_STORE, Database

pytestmark = EVERY_STORE

ROWS = 5_000
MANY_ROWS = 60_000
"""More, in whole lines, than the buffers of a client that does not read hold."""
CSV, NDJSON = "/tasks/export.csv", "/tasks/stream.ndjson"
BOTH = pytest.mark.parametrize("path", [CSV, NDJSON])
LINE_ID = re.compile(rb'^(?:{"id":")?(\d+)', re.MULTILINE)
LONGEST = ('"\n' * 1_000, "\r\n" * 1_000, "\x01" * 2_000, "🎉" * 2_000, '\\"' * 1_000)
FILTERS: list[dict[str, Any]] = [
    {"status": "pending"},
    {"status": "in-progress"},
    {"status": "completed"},
    {"priority__gte": 10},
    {"priority__lte": 1},
    {"priority__gte": 4, "priority__lte": 6},
    {"priority__gte": 5, "priority__lte": 5, "status": "completed"},
    {"status": "pending", "after": 1_234},
    {"status": "pending", "after": 1_234, "limit": 7},
    {"priority__gte": 9, "limit": 800},
    {"priority__lte": 2, "limit": ROWS},
]


def lines_of(made: Sequence[NewTask], **chosen: Any) -> list[list[str]]:
    """The cells that these parameters select, worked out in Python."""
    found = [
        [str(number), task.title, str(task.priority), task.status]
        for number, task in enumerate(made, 1)
        if number > chosen.get("after", 0)
        and task.status == chosen.get("status", task.status)
        and chosen.get("priority__gte", 1) <= task.priority <= chosen.get("priority__lte", 10)
    ]
    return found[: chosen.get("limit", len(found))]


async def csv_rows(service: Running, **parameters: Any) -> list[list[str]]:
    """The CSV export's lines but for the first, as Python's reader understands them."""
    text = (await service.get(CSV, **parameters)).decode()
    return list(csv.reader(io.StringIO(text, newline="")))[1:]


async def ndjson_rows(service: Running, **parameters: Any) -> list[list[str]]:
    """The NDJSON export's values as text, as Python's reader understands them."""
    body = await service.get(NDJSON, **parameters)
    return [[str(value) for value in json.loads(line).values()] for line in body.splitlines()]


async def test_csv_is_read_back_by_pythons_reader(start: StartService) -> None:
    """Every task comes out once, in order, as Python's csv module understands it."""
    made = list(tasks(ROWS, seed=3))
    service = await start(made)
    text = (await service.get(CSV)).decode()
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert head == list(COLUMNS)
    assert rows == lines_of(made)


async def test_ndjson_is_read_back_by_pythons_reader(start: StartService) -> None:
    """Every task comes out once, in order, as Python's json module understands it."""
    made = list(tasks(ROWS, seed=4))
    service = await start(made)
    body = await service.get(NDJSON)
    assert [json.loads(line) for line in body.splitlines()] == [
        {"id": str(number)} | task._asdict() for number, task in enumerate(made, 1)
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "content_type", "file_name"),
    [
        (CSV, "text/csv; charset=utf-8; header=present", "tasks.csv"),
        (CSV + "?header=false", "text/csv; charset=utf-8; header=absent", "tasks.csv"),
        (CSV + "?dialect=excel", "text/csv; charset=utf-8; header=present", "tasks.csv"),
        (NDJSON, "application/x-ndjson", "tasks.ndjson"),
    ],
)
async def test_head_is_that_of_the_contract(
    start: StartService, method: str, path: str, content_type: str, file_name: str
) -> None:
    """An export says what it is, how to save it, and that nothing on the way may keep it."""
    service = await start(list(tasks(10, seed=1)))
    async with service.client.request(method, service.url + path) as response:
        assert response.status == 200
        head, body = response.headers, await response.read()
    assert head["Content-Type"] == content_type
    assert head["Content-Disposition"] == f'attachment; filename="{file_name}"'
    assert head["Cache-Control"] == "no-store"
    assert head["X-Accel-Buffering"] == "no"
    assert head["Weir-Stream-Id"]
    assert head["Weir-Since"] == "10"
    assert (body == b"") is (method == "HEAD")


@BOTH
async def test_head_request_has_the_same_head_and_no_body(start: StartService, path: str) -> None:
    """HEAD answers as GET does but for the body, its framing and what each stream has anew."""
    service = await start(list(tasks(10, seed=1)))
    heads = []
    for method in ("GET", "HEAD"):
        async with service.client.request(method, service.url + path) as response:
            await response.read()
            heads.append(
                {
                    name: value
                    for name, value in response.headers.items()
                    if name not in ("Date", "Transfer-Encoding", "Weir-Stream-Id")
                }
            )
    assert heads[0] == heads[1]


async def test_each_stream_has_an_id_of_its_own(start: StartService) -> None:
    """Two streams can be told apart by their ids."""
    service = await start()
    found = set()
    for path in (CSV, NDJSON, CSV):
        async with service.client.get(service.url + path) as response:
            found.add(response.headers["Weir-Stream-Id"])
    assert len(found) == 3


async def test_columns_come_in_any_order(start: StartService) -> None:
    """Every choice of columns, in every order, gives just those in just that order."""
    made = list(tasks(20, seed=5))
    service = await start(made)
    choices = [some for count in range(1, 5) for some in permutations(COLUMNS, count)]
    for chosen in choices:
        expected = [[line[COLUMNS.index(column)] for column in chosen] for line in lines_of(made)]
        names = ",".join(chosen)
        text = (await service.get(CSV, columns=names)).decode()
        assert list(csv.reader(io.StringIO(text, newline=""))) == [list(chosen), *expected]
        assert await ndjson_rows(service, columns=names) == expected
        first = (await service.get(NDJSON, columns=names, limit=1)).splitlines()[0]
        assert tuple(json.loads(first)) == chosen


async def test_filters_select_what_python_selects(start: StartService) -> None:
    """Every filter, with and without after= and limit=, gives what the same test in Python does."""
    made = list(tasks(ROWS, seed=6))
    service = await start(made)
    for chosen in FILTERS:
        expected = lines_of(made, **chosen)
        assert expected
        assert await csv_rows(service, **chosen) == expected
        assert await ndjson_rows(service, **chosen) == expected


async def test_limit_cuts_at_the_row(start: StartService) -> None:
    """limit= gives that many rows, fewer or more than a page holds, or all that there are."""
    made = list(tasks(ROWS, seed=7))
    service = await start(made)
    for limit in (1, 2, 127, 128, 129, 3_000, ROWS - 1, ROWS, ROWS + 1, 10**18):
        assert await csv_rows(service, limit=limit) == lines_of(made, limit=limit)
        after = {"after": 40, "limit": limit}
        assert await ndjson_rows(service, **after) == lines_of(made, **after)


async def test_after_starts_behind_the_id(start: StartService) -> None:
    """after= leaves out that id and all below it, and is no error behind the last row."""
    made = list(tasks(ROWS, seed=8))
    service = await start(made)
    for after in (0, 1, 128, ROWS - 1, ROWS, ROWS + 1, ID_HIGHEST):
        assert await csv_rows(service, after=after) == lines_of(made, after=after)
        assert await ndjson_rows(service, after=after) == lines_of(made, after=after)


async def test_header_false_leaves_the_names_out(start: StartService) -> None:
    """header=false is the same file without its first line."""
    service = await start(list(tasks(50, seed=9)))
    with_names = await service.get(CSV, header="true")
    assert with_names == await service.get(CSV)
    assert await service.get(CSV, header="false") == with_names.partition(b"\n")[2]


async def test_excel_gets_a_mark_crlf_and_no_formulas(start: StartService) -> None:
    """dialect=excel is byte order mark, CRLF, and ' before each cell that would run."""
    titles = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "\nx",
        "\uff1d1",
        "a=1",
        "'=1",
        'say "=1"',
    ]
    service = await start([NewTask(title, 1, "pending") for title in titles])
    body = await service.get(CSV, dialect="excel")
    assert body.startswith("\ufeffid,title,priority,status\r\n1,'=1+1,1,pending\r\n".encode())
    assert b'\n11,"say ""=1""",1,pending\r\n' in body
    text = body.decode("utf-8-sig")
    cells = [row[1] for row in csv.reader(io.StringIO(text, newline=""))][1:]
    assert cells == [f"'{title}" for title in titles[:8]] + titles[8:]


async def test_standard_csv_quotes_only_where_it_must(start: StartService) -> None:
    """A title without comma, quote or line end stands bare, formulas and tabs among them."""
    service = await start(
        [NewTask(title, 2, "completed") for title in ("=1+1", "a\tb", " a ", "a,b", 'a"b', "a\rb")]
    )
    assert await service.get(CSV) == (
        b"id,title,priority,status\n1,=1+1,2,completed\n2,a\tb,2,completed\n3, a ,2,completed\n"
        b'4,"a,b",2,completed\n5,"a""b",2,completed\n6,"a\rb",2,completed\n'
    )


@BOTH
async def test_rows_of_after_the_start_are_left_out(start: StartService, path: str) -> None:
    """A stream ends at the highest id of its start, whatever is stored while it runs."""
    service = await start(list(tasks(MANY_ROWS, seed=10)), read_ahead_bytes=0)
    async with service.client.get(service.url + path) as response:
        assert response.headers["Weir-Since"] == str(MANY_ROWS)
        new = [{"title": "late", "priority": 1}] * 1_000
        async with service.client.post(service.url + "/tasks", json=new) as stored:
            assert stored.status == 201
        found = LINE_ID.findall(await response.read())
    assert found == [b"%d" % number for number in range(1, MANY_ROWS + 1)]
    assert len(await ndjson_rows(service, after=MANY_ROWS)) == 1_000


@BOTH
async def test_rows_deleted_on_the_way_take_no_others_with_them(
    start: StartService, path: str
) -> None:
    """A row that is there throughout is delivered once, whatever is deleted around it."""
    service = await start(list(tasks(MANY_ROWS, seed=11)), read_ahead_bytes=0)
    async with service.client.get(service.url + path) as response:
        for number in range(MANY_ROWS, 0, -MANY_ROWS // 50):
            async with service.client.delete(f"{service.url}/tasks/{number}") as deleted:
                assert deleted.status == 204
        found = [int(number) for number in LINE_ID.findall(await response.read())]
    stay = set(range(1, MANY_ROWS + 1)) - set(range(MANY_ROWS, 0, -MANY_ROWS // 50))
    assert found == sorted(set(found))
    assert stay <= set(found)
    assert len(found) < MANY_ROWS, "nothing was deleted before it was read"


async def test_ids_far_apart_are_all_delivered(start: StartService, database: Database) -> None:
    """Gaps of any width between ids, up to the last of 64 bits, neither hide a row nor stall."""
    service = await start()
    ids = [1, 2, 3, 1_000_000, *range(10**13, 10**15, 3 * 10**13), 2**53 + 1, 2**62, ID_HIGHEST]
    await database.insert((number, f"task {number}") for number in ids)
    choices: list[dict[str, Any]] = [{}, {"status": "pending"}, {"limit": 20}, {"after": 5}]
    for chosen in choices:
        expected = [number for number in ids if number > chosen.get("after", 0)]
        expected = expected[: chosen.get("limit", len(expected))]
        assert [int(row[0]) for row in await csv_rows(service, **chosen)] == expected
        assert [int(row[0]) for row in await ndjson_rows(service, **chosen)] == expected


async def test_one_match_in_many_is_found(start: StartService) -> None:
    """A filter that only one row of very many passes gives that row, wherever it is."""
    place = 50_001
    made = [NewTask("a", 1, STATUSES[0])] * MANY_ROWS
    made[place - 1] = NewTask("needle", 10, STATUSES[2])
    service = await start(made)
    line = [str(place), "needle", "10", STATUSES[2]]
    assert await csv_rows(service, status=STATUSES[2]) == [line]
    assert await ndjson_rows(service, priority__gte=10) == [line]
    assert await ndjson_rows(service, priority__gte=2, limit=1) == [line]
    assert await csv_rows(service, status=STATUSES[1]) == []


async def test_an_empty_table_is_a_whole_file(start: StartService) -> None:
    """Without tasks CSV is its head and NDJSON is empty, and both end as a whole file does."""
    service = await start()
    assert await service.get(CSV) == b"id,title,priority,status\n"
    assert await service.get(CSV, header="false") == b""
    assert await service.get(NDJSON) == b""


@pytest.mark.parametrize("page_bytes", [1_024, 16_384, 65_536])
async def test_longest_titles_come_out_whole(start: StartService, page_bytes: int) -> None:
    """2,000 characters of quotes, line ends, controls or emoji fit, whatever a page holds."""
    made = [NewTask(title, 10, "in-progress") for title in LONGEST * 40]
    made[100:100] = tasks(500, seed=12)
    service = await start(made, page_bytes=page_bytes)
    assert await csv_rows(service) == lines_of(made)
    assert await ndjson_rows(service) == lines_of(made)
    assert await ndjson_rows(service, limit=120) == lines_of(made, limit=120)


async def test_short_titles_behind_long_ones_and_back(start: StartService) -> None:
    """Rows whose size changes a thousandfold from one page to the next are all delivered once."""
    part = [NewTask("a", 1, "pending")] * 3_000 + [NewTask(LONGEST[2], 1, "pending")] * 30
    service = await start(part * 4)
    assert await csv_rows(service, columns="id") == [[str(n)] for n in range(1, 12_121)]
    assert await ndjson_rows(service) == lines_of(part * 4)
