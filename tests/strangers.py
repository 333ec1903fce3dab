"""SQLite files of other programs, and what a client reads of them, beside what `sqlite3` reads."""

import asyncio
import csv
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from math import isinf
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
from yarl import URL

from service.engines.sqlite.connections import transaction
from tests.conftest import Running

NULL = "\\N"
"""What stands for NULL where a test asks for CSV."""
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {0}) "
"""Before an INSERT ... SELECT: the numbers from 1 to so many, as `i` of `n`."""

csv.field_size_limit(2**31)

Row = tuple[Any, ...]


@contextmanager
def program(path: Path) -> Iterator[apsw.Connection]:
    """The file as the program that it belongs to has it open, beside a service or before it.

    Two libraries of SQLite in one process, as Python's and apsw's are, see nothing of each other's
    locks: what writes beside a service of this process has to be of the service's.
    """
    with closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(5_000)
        yield connection


def make(path: Path, *statements: str, many: Iterable[tuple[str, Sequence[Row]]] = ()) -> Path:
    """Make or change a file: its settings first, then all the rest in one transaction."""
    with program(path) as connection:
        settings = [each for each in statements if each.startswith("PRAGMA")]
        for statement in settings:
            connection.execute(statement).fetchall()
        with transaction(connection):
            for statement in statements:
                if statement not in settings:
                    connection.execute(statement)
            for statement, rows in many:
                connection.executemany(statement, rows)
    return path


def read(path: Path, statement: str) -> list[Row]:
    """What Python's own driver reads; not while the service has a log open (see `program`)."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


async def fetch(service: Running, path: str) -> tuple[int, bytes]:
    """The status and the whole body of a GET whose address goes out letter by letter."""
    url = URL(service.url + path, encoded=True)
    async with service.client.get(url) as response:
        return response.status, await response.read()


async def got(service: Running, path: str) -> bytes:
    """The whole body of a GET that succeeds."""
    status, body = await fetch(service, path)
    assert status == 200, (path, body[:500])
    return body


async def refusal(service: Running, path: str) -> tuple[int, str, str]:
    """The status, the code and the words of a problem."""
    status, body = await fetch(service, path)
    problem = json.loads(body)
    return status, problem["code"], f"{problem['detail']}\n{problem.get('hint', '')}"


def part(name: str) -> str:
    """A name or a value as it stands in an address."""
    return quote(name, safe="")


def key_text(values: Iterable[Any]) -> str:
    """A key as `after` takes it, made of what a client has read."""
    return ",".join(part(str(json_value(value))) for value in values)


def json_value(value: Any) -> Any:
    """A value of SQLite as NDJSON has it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def csv_rows(body: bytes) -> list[list[str | None]]:
    """The lines of a CSV file with its head, where `\\N` is NULL."""
    lines = csv.reader(io.StringIO(body.decode(), newline=""))
    return [[None if cell == NULL else cell for cell in line] for line in lines]


def same(cell: str | None, value: Any) -> bool:
    """Whether a cell of CSV is this value of SQLite: to the last digit, if it is a number."""
    value = json_value(value)
    if isinstance(value, float):
        return cell is not None and float(cell) == value
    return cell == (None if value is None else str(value))


def assert_csv(body: bytes, names: Sequence[str], rows: Sequence[Row]) -> None:
    """The file has these names and rows, each once and in this order."""
    head, *lines = csv_rows(body)
    assert head == list(names)
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert len(line) == len(row)
        assert all(map(same, line, row)), (line, row)


def ndjson_rows(body: bytes) -> list[dict[str, Any]]:
    assert not body or body.endswith(b"\n")
    return [json.loads(line) for line in body.split(b"\n")[:-1]]


def as_objects(names: Sequence[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [dict(zip(names, map(json_value, row), strict=True)) for row in rows]


async def listed(service: Running, table: str, limit: int = 7) -> list[dict[str, Any]]:
    """All rows of a table by its lists, from the first page along `next` to the last one."""
    found: list[dict[str, Any]] = []
    after = ""
    for _ in range(10_000):
        answer = json.loads(await got(service, f"/{part(table)}?limit={limit}{after}"))
        found += answer["rows" if table == "next" else table]
        if answer["next"] is None:
            return found
        after = f"&after={quote(answer['next'], safe='')}"
    raise AssertionError("the lists do not end")


async def stalled(service: Running, streams: int = 1) -> None:
    """Return once so many streams wait for their readers."""
    for _ in range(1_000):
        found = json.loads(await service.get("/streams"))["streams"]
        if len(found) == streams and all(each["waiting_seconds"] > 0.05 for each in found):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"no {streams} streams wait")
