"""What keeps a file whole beside the reset: no range of a live stream, connections that go on, and
one response for each request."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from service.settings import KIB
from service.stream.stream import Stream
from service.tasks.generate import tasks
from service.web.streams import StreamsOfAll
from tests.conftest import (
    AUTHORIZATION_LINE,
    Logged,
    StartService,
    request_bytes,
    small_reader,
    until,
)
from tests.test_failures import BROKEN, EXPORT, curl
from tests.test_hostile import read_to_the_end, wait_for_streams

NDJSON = "/tasks/stream.ndjson"
TABLE = list(tasks(20_000, seed=11))
"""800 KB of CSV."""
LAST_CHUNK = b"0\r\n\r\n"


# -- ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ranges",
    [
        "bytes=1-",
        "bytes=5-9",
        "Bytes = 5-",
        "bytes=-500",
        "bytes=0-9,20-30",
        "bytes=x",
        "bytes=",
        "bytes=00-,5-",
    ],
)
@pytest.mark.parametrize("path", [EXPORT, NDJSON])
async def test_a_range_that_starts_above_0_is_refused(
    start: StartService, path: str, ranges: str
) -> None:
    """Nothing is read for it, `If-Range` or not, and the hint says how to resume."""
    service = await start(TABLE[:10])
    for more in ({}, {"If-Range": '"any"'}):
        async with service.client.get(service.url + path, headers={"Range": ranges} | more) as got:
            assert got.status == 400
            problem = await got.json(content_type=None)
        assert problem["code"] == "range_not_supported"
        assert "after=" in problem["hint"]
    assert await service.outcomes() == {}


@pytest.mark.parametrize("ranges", ["bytes=0-", "bytes=0-99", "BYTES = 0 - ", "rows=5-", ""])
async def test_a_range_from_the_start_is_served_whole(start: StartService, ranges: str) -> None:
    """Whoever asks from the first byte, or in a unit that nobody knows, gets all with 200; and a
    Range means nothing to HEAD."""
    service = await start(TABLE[:10])
    whole = await service.get(EXPORT)
    async with service.client.get(service.url + EXPORT, headers={"Range": ranges}) as answer:
        assert (answer.status, await answer.read()) == (200, whole)
    async with service.client.head(service.url + EXPORT, headers={"Range": "bytes=5-"}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["curl", "--silent", "--continue-at", "-", "--header", AUTHORIZATION_LINE, "-o"], 33),
        (["wget", "--quiet", "--continue", "--header", AUTHORIZATION_LINE, "-O"], 8),
    ],
    ids=["curl", "wget"],
)
async def test_a_client_that_resumes_leaves_its_file_alone(
    start: StartService, tmp_path: Path, command: list[str], code: int
) -> None:
    """Told to go on with a part of a file, curl and wget say that they cannot, and add nothing."""
    service = await start(TABLE)
    part = (await service.get(EXPORT))[: 300 * KIB]
    (file := tmp_path / "tasks.csv").write_bytes(part)
    client = await asyncio.create_subprocess_exec(*command, file, service.url + EXPORT)
    assert await client.wait() == code
    assert file.read_bytes() == part


async def test_a_file_is_resumed_as_the_hint_says(start: StartService) -> None:
    """A part cut behind its last whole record, and what comes with after=, are the whole."""
    service = await start(TABLE)
    for path, more in ((EXPORT, {"header": "false"}), (NDJSON, {})):
        whole = await service.get(path)
        last = await service.get(path, after="9999", limit="1", **more)
        part = whole[: whole.index(last) + len(last)]
        assert part + await service.get(path, after="10000", **more) == whole


# -- connections -------------------------------------------------------------------------------


async def test_a_connection_carries_one_export_after_the_other(
    start: StartService, logged: Logged
) -> None:
    """A complete export leaves its connection open, and does not say that it closes: some take
    any end for a whole file then. Each counts its own waiting."""
    service = await start(TABLE)
    url = service.url + EXPORT
    result = await asyncio.to_thread(
        curl,
        service.url,
        EXPORT,
        "--include",
        "--limit-rate",
        "1M",
        url,
        "--next",
        "--silent",
        url,
        "-H",
        AUTHORIZATION_LINE,
        "--write-out",
        "%{num_connects}",
    )
    assert result.returncode == 0
    assert result.stdout.endswith(b"0")
    assert b"onnection:" not in result.stdout
    await until(lambda: len([entry for entry in logged if entry["event"] == "stream ended"]) == 3)
    ended = [entry for entry in logged if entry["event"] == "stream ended"]
    assert {entry["outcome"] for entry in ended} == {"complete"}
    assert ended[2]["waiting"] < ended[0]["waiting"]


async def test_what_is_sent_in_mid_stream_ends_the_connection(start: StartService) -> None:
    """The export is whole; what came meanwhile was dropped, so no next request is looked for."""
    service = await start(TABLE)
    loop = asyncio.get_running_loop()
    with small_reader(service.port, request_bytes(EXPORT)) as connection:
        await wait_for_streams(service, 1)
        await loop.sock_sendall(connection, request_bytes("/healthz"))
        got = await read_to_the_end(connection)
    assert got.endswith(LAST_CHUNK)
    assert got.count(b"HTTP/1.1 ") == 1


async def test_requests_sent_together_are_answered_in_turn(start: StartService) -> None:
    """What came before the first export began is answered behind it, on the same connection."""
    service = await start(TABLE)
    last = request_bytes("/healthz", last=True)
    with small_reader(service.port, request_bytes(EXPORT) * 2 + last) as connection:
        got = await read_to_the_end(connection)
    assert got.count(b"HTTP/1.1 200 OK") == 3
    assert got.count(LAST_CHUNK) == 2
    assert got.endswith(b'{"status": "alive"}')


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_an_export_in_http_1_0_closes(start: StartService, connection: str) -> None:
    """Without chunks it is the end of the connection that ends the body, whatever was asked."""
    service = await start(TABLE)
    result = await asyncio.to_thread(
        curl, service.url, EXPORT, "--http1.0", "-H", f"Connection: {connection}"
    )
    assert result.returncode == 0
    assert result.stdout == await service.get(EXPORT)


# -- one response ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
async def test_a_fault_behind_the_head_brings_no_second_head(
    start: StartService, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Whatever fails once a response has begun, in an export or elsewhere, nothing is told in the
    middle of its body, and it does not end clean."""
    service = await start(TABLE)

    def fail(self: object, *_: Any) -> Any:
        raise BrokenPipeError("not the client's")

    monkeypatch.setattr(Stream, "count", fail)
    monkeypatch.setattr(StreamsOfAll, "parts", fail)
    for path in (EXPORT, "/streams"):
        result = await asyncio.to_thread(curl, service.url, path, "--include", version)
        assert result.returncode in BROKEN
        assert result.stdout.count(b"HTTP/1.") == 1
