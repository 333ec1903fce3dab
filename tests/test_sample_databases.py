"""Databases that other people have made, as packages bring them, streamed whole and compared.

`pyproj` brings PROJ's database of coordinate systems: 38 tables with composite keys whose parts are
numbers or texts, triggers, views. `pyzipcode` brings one large table without a primary key.
"""

import asyncio
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import Running, StartService
from tests.databases import SQLite
from tests.strangers import (
    as_objects,
    assert_csv,
    fetch,
    got,
    key_text,
    ndjson_rows,
    part,
    read,
)

SAMPLES = {"pyproj": "proj_dir/share/proj/proj.db", "pyzipcode": "zipcodes.db"}


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the file, in a folder of its own."""
    found = find_spec(request.param)
    if found is None or found.origin is None:
        pytest.skip(f"{request.param} is not installed")
    (tmp_path / "sample").mkdir()
    copy = tmp_path / "sample" / "sample.db"
    return Path(shutil.copy(Path(found.origin).parent / SAMPLES[request.param], copy))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def compare(service: Running, path: Path, table: str, key: list[str]) -> int:
    """All rows in both formats, and the rest behind some of them; how many there are."""
    names = [name for (name,) in read(path, f"SELECT name FROM pragma_table_info('{table}')")]
    order = ", ".join(map(quoted, key))
    rows = read(path, f"SELECT * FROM {quoted(table)} ORDER BY {order}")
    keys = read(path, f"SELECT {order} FROM {quoted(table)} ORDER BY {order}")
    objects = as_objects(names, rows)
    assert_csv(await got(service, f"/{part(table)}/export.csv?null=%5CN"), names, rows)
    assert ndjson_rows(await got(service, f"/{part(table)}/stream.ndjson")) == objects
    for at in range(0, len(keys), max(1, len(keys) // 7)):
        query = f"limit=50&after={key_text(keys[at])}"
        body = await got(service, f"/{part(table)}/stream.ndjson?{query}")
        assert ndjson_rows(body) == objects[at + 1 : at + 51]
    return len(rows)


async def test_each_table_is_streamed_whole(start: StartService, sample: Path) -> None:
    """Every table of the file is what Python's own driver reads, and the file is not changed."""
    before = await asyncio.to_thread(sample.read_bytes)
    service = await start(where=SQLite(sample))
    tables = json.loads(await got(service, "/tables"))["tables"]
    assert {each["name"] for each in tables} == {
        name
        for (name,) in read(
            sample,
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"
            " AND name NOT LIKE 'sqlite_%'",
        )
    }
    total = 0
    for each in tables:
        if each["key"] is None:
            assert each["kind"] == "view"
            assert (await fetch(service, f"/{part(each['name'])}/export.csv"))[0] == 409
        else:
            total += await compare(service, sample, each["name"], each["key"])
    assert total > 40_000
    assert await asyncio.to_thread(sample.read_bytes) == before
    assert await asyncio.to_thread(os.listdir, sample.parent) == ["sample.db"]
