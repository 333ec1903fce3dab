"""Single tasks: stored before they are answered, and never in the way of a stream."""

import asyncio
import signal
from itertools import count
from typing import Any

import aiohttp
import pytest

from service.tasks.generate import tasks
from service.tasks.model import ID_HIGHEST
from tests.conftest import AUTHORIZATION, Running, StartProcess, StartService, request_bytes
from tests.databases import EVERY_STORE, SQLITE_ALONE, Database, SQLite

pytestmark = EVERY_STORE

TASK: dict[str, Any] = {"title": "Learn Node", "priority": 5}
STORED = TASK | {"id": "1", "status": "pending"}
MIB = 1024 * 1024
LOG_BYTES = 8 * MIB
"""What the write-ahead log may grow to beside any number of streams."""


async def ask(service: Running, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """The status of a request, and the JSON that answers it."""
    async with service.client.request(method, service.url + path, json=body) as response:
        return response.status, await response.json() if response.status != 204 else None


async def every_task(client: aiohttp.ClientSession, url: str, limit: int = 1_000) -> list[Any]:
    """All tasks, page by page along `next`."""
    found: list[Any] = []
    after: str | None = "0"
    while after is not None:
        asked = {"after": after, "limit": str(limit)}
        async with client.get(url + "/tasks", params=asked) as response:
            assert response.status == 200
            page = await response.json()
        assert len(page["tasks"]) <= limit
        assert page["next"] is None or int(page["next"]) > int(after)
        found += page["tasks"]
        after = page["next"]
    return found


@pytest.mark.parametrize("status", [None, "pending", "in-progress", "completed"])
async def test_one_task_is_stored_and_found(start: StartService, status: str | None) -> None:
    """POST answers 201, with the task as it was stored and the place where it is from then on."""
    service = await start()
    body = TASK | ({} if status is None else {"status": status})
    async with service.client.post(service.url + "/tasks", json=body) as response:
        assert response.status == 201
        assert response.headers["Location"] == "/tasks/1"
        stored = await response.json()
    assert stored == STORED | {"status": status or "pending"}
    assert await ask(service, "GET", "/tasks/1") == (200, stored)


@pytest.mark.parametrize("size", [1, 2, 1_000])
async def test_an_array_is_stored_in_its_order(start: StartService, size: int) -> None:
    """POST of an array answers with an array of what was stored, in ascending ids."""
    service = await start()
    made = [task._asdict() for task in tasks(size, seed=20)]
    status, stored = await ask(service, "POST", "/tasks", made)
    assert status == 201
    assert stored == [task | {"id": str(number)} for number, task in enumerate(made, 1)]
    assert await every_task(service.client, service.url) == stored


async def test_more_than_a_thousand_are_refused(start: StartService) -> None:
    """An array of 1,001 tasks is a 422, and none of them is stored."""
    service = await start()
    status, answer = await ask(service, "POST", "/tasks", [TASK] * 1_001)
    assert (status, answer["code"]) == (422, "invalid_task")
    assert "1000" in answer["detail"]
    assert await every_task(service.client, service.url) == []


@pytest.mark.parametrize("wrong", [0, 500, 999])
async def test_one_wrong_task_keeps_out_all(
    start: StartService, database: Database, wrong: int
) -> None:
    """An array with one wrong task stores nothing, takes no id, and the answer names its place."""
    service = await start()
    made = [TASK] * 1_000
    made[wrong] = TASK | {"priority": 11}
    status, answer = await ask(service, "POST", "/tasks", made)
    assert (status, answer["code"]) == (422, "invalid_task")
    assert answer["detail"].startswith(f"{wrong}.priority:")
    counts = "SELECT count(*), (SELECT seq FROM clock) FROM task"
    assert await database.execute(counts) == [(0, 0)]
    assert await ask(service, "POST", "/tasks", TASK) == (201, STORED)


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "Learn Deno"},
        {"priority": 10},
        {"status": "completed"},
        {"title": "new", "priority": 1, "status": "in-progress"},
    ],
)
async def test_patch_changes_only_what_it_names(
    start: StartService, changes: dict[str, Any]
) -> None:
    """PATCH sets the named members of one task and leaves the rest, and its neighbours, alone."""
    service = await start()
    _, before = await ask(service, "POST", "/tasks", [TASK] * 3)
    assert await ask(service, "PATCH", "/tasks/2", changes) == (200, before[1] | changes)
    expected = [before[0], before[1] | changes, before[2]]
    assert await every_task(service.client, service.url) == expected


async def test_a_deleted_task_is_gone(start: StartService) -> None:
    """DELETE answers 204 once; from then on the task is a 404 for every method."""
    service = await start()
    await ask(service, "POST", "/tasks", [TASK] * 2)
    assert await ask(service, "DELETE", "/tasks/1") == (204, None)
    for method, body in (("GET", None), ("PATCH", {"priority": 1}), ("DELETE", None)):
        status, answer = await ask(service, method, "/tasks/1", body)
        assert (status, answer["code"]) == (404, "task_not_found")
    assert await every_task(service.client, service.url) == [STORED | {"id": "2"}]


@pytest.mark.parametrize("restarted", [False, True])
async def test_ids_are_never_used_again(start: StartService, restarted: bool) -> None:
    """The id of the newest task is not given away again after it is deleted, nor by a restart."""
    service = await start()
    for number in range(1, 4):
        _, stored = await ask(service, "POST", "/tasks", TASK)
        assert stored["id"] == str(number)
        await ask(service, "DELETE", f"/tasks/{number}")
        if restarted:
            service = await start()


async def test_every_write_takes_a_higher_seq(start: StartService, database: Database) -> None:
    """Each insert, change and deletion gets the next `seq`; a deletion leaves a tombstone."""
    service = await start()
    await ask(service, "POST", "/tasks", [TASK] * 3)  # 1, 2, 3
    await ask(service, "PATCH", "/tasks/1", {"priority": 6})  # 4
    await ask(service, "DELETE", "/tasks/2")  # 5
    await ask(service, "POST", "/tasks", TASK)  # 6
    await ask(service, "DELETE", "/tasks/3")  # 7
    await ask(service, "DELETE", "/tasks/3")  # a 404 changes nothing
    await ask(service, "PATCH", "/tasks/3", {"priority": 6})
    kept = await database.execute("SELECT id, seq FROM task ORDER BY id")
    gone = await database.execute("SELECT id, seq FROM tombstone ORDER BY id")
    assert (kept, gone) == ([(1, 4), (4, 6)], [(2, 5), (3, 7)])
    async with service.client.head(service.url + "/tasks/export.csv") as response:
        assert response.headers["Weir-Since"] == "7"


@pytest.mark.parametrize("limit", [1, 7, 100, 1_000])
async def test_pages_give_each_task_once(start: StartService, limit: int) -> None:
    """GET /tasks followed along `next` gives every task once, in order, across gaps too."""
    made = list(tasks(300, seed=21))
    service = await start(made)
    for number in (*range(1, 4), *range(50, 90), 300):
        await ask(service, "DELETE", f"/tasks/{number}")
    found = await every_task(service.client, service.url, limit)
    assert found == [
        {"id": str(number)} | task._asdict()
        for number, task in enumerate(made, 1)
        if number > 3 and not 50 <= number < 90 and number < 300
    ]


async def test_a_page_of_longest_titles_stays_small(start: StartService) -> None:
    """GET /tasks returns fewer tasks than asked for rather than more bytes than a page has."""
    service = await start()
    _, stored = await ask(service, "POST", "/tasks", [TASK | {"title": "\x01" * 2_000}] * 20)
    body = await service.get("/tasks", limit=1_000)
    assert len(body) < 17 * 1024
    assert await every_task(service.client, service.url) == stored


async def test_the_last_id_of_64_bits_is_served(start: StartService, database: Database) -> None:
    """A task under the highest id there is can be read, listed, changed and deleted."""
    service = await start()
    await database.insert([(ID_HIGHEST, "x")])
    path = f"/tasks/{ID_HIGHEST}"
    last = {"id": str(ID_HIGHEST), "title": "x", "priority": 1, "status": "pending"}
    assert await ask(service, "GET", path) == (200, last)
    assert await every_task(service.client, service.url) == [last]
    assert await ask(service, "PATCH", path, {"title": "y"}) == (200, last | {"title": "y"})
    assert await ask(service, "DELETE", path) == (204, None)


async def test_what_was_answered_survives_kill_9(spawn: StartProcess) -> None:
    """Every change that was answered 2xx before a kill -9 is there after the next start."""
    process = spawn()
    answered: dict[str, str] = {}
    enough = asyncio.Event()
    numbers = count()

    async def write(client: aiohttp.ClientSession) -> None:
        while True:
            title = f"task {next(numbers)}"
            async with client.post(process.url + "/tasks", json=TASK | {"title": title}) as posted:
                stored = await posted.json()
                answered[stored["id"]] = title
            changed = {"title": title + " changed"}
            async with client.patch(f"{process.url}/tasks/{stored['id']}", json=changed) as patched:
                if patched.status == 200:
                    answered[stored["id"]] = changed["title"]
            if len(answered) >= 200:
                enough.set()

    async with aiohttp.ClientSession(headers=AUTHORIZATION) as client:
        writers = [asyncio.create_task(write(client)) for _ in range(8)]
        done = asyncio.create_task(enough.wait())
        await asyncio.wait([done, *writers], return_when=asyncio.FIRST_COMPLETED)
        assert done.done(), [writer for writer in writers if writer.done()]
        process.popen.send_signal(signal.SIGKILL)
        await asyncio.gather(*writers, return_exceptions=True)
        process.popen.wait()
        again = spawn()
        found = {task["id"]: task["title"] for task in await every_task(client, again.url)}
    for number, title in answered.items():
        # A change may be stored whose answer never came.
        assert found[number] in (title, title + " changed")
    assert len(answered) >= 200


@SQLITE_ALONE
async def test_writers_beside_streams_keep_the_log_small(
    start: StartService, database: SQLite
) -> None:
    """Beside stopped and reading streams every write succeeds, and the log stays bounded."""
    service = await start(list(tasks(50_000, seed=22)))
    stopped = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(30)]
    for _, writer in stopped:
        writer.write(request_bytes("/tasks/export.csv"))
        await writer.drain()
    largest, written = 0, 0

    async def stream() -> None:
        while True:
            assert (await service.get("/tasks/stream.ndjson")).endswith(b"}\n")

    async def write() -> None:
        nonlocal largest, written
        for number in range(2):
            many = [TASK | {"title": f"{number} " + "x" * 900}] * 1_000
            status, stored = await ask(service, "POST", "/tasks", many)
            assert status == 201
            for task in stored[:10]:
                assert (await ask(service, "PATCH", f"/tasks/{task['id']}", TASK))[0] == 200
                assert (await ask(service, "DELETE", f"/tasks/{task['id']}"))[0] == 204
            written += 900_000
            largest = max(largest, database.log_bytes())

    readers = [asyncio.create_task(stream()) for _ in range(4)]
    async with asyncio.TaskGroup() as writers:
        for _ in range(8):
            writers.create_task(write())
    assert not any(reader.done() for reader in readers)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    for _, writer in stopped:
        writer.transport.abort()
    assert written > LOG_BYTES
    assert 0 < largest < LOG_BYTES
