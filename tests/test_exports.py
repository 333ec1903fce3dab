"""What comes out of the two exports is the table, byte by byte as the contract says."""

import csv
import io
import json

from service.generate import tasks
from tests.conftest import StartService

ROWS = 5_000


async def test_csv_is_read_back_by_pythons_reader(start: StartService) -> None:
    """Every task comes out once, in order, as Python's csv module understands it."""
    made = list(tasks(ROWS, seed=3))
    service = await start(made)
    text = (await service.get("/tasks/export.csv")).decode()
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert head == ["id", "title", "priority", "status"]
    assert rows == [
        [str(number), task.title, str(task.priority), task.status]
        for number, task in enumerate(made, 1)
    ]


async def test_ndjson_is_read_back_by_pythons_reader(start: StartService) -> None:
    """Every task comes out once, in order, as Python's json module understands it."""
    made = list(tasks(ROWS, seed=4))
    service = await start(made)
    body = await service.get("/tasks/stream.ndjson")
    assert [json.loads(line) for line in body.splitlines()] == [
        {"id": str(number)} | task._asdict() for number, task in enumerate(made, 1)
    ]
