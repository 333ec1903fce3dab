"""One request at a time: pipelined, in pieces, with bodies that are wanted and that are not."""

import asyncio
import gzip
import json
import re
from typing import Any

import pytest

from service.settings import KIB, MIB
from service.tasks.generate import tasks
from tests.conftest import AUTHORIZATION_LINE, Running, StartService
from tests.test_openapi import description, operations

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TASK = b'{"title":"a","priority":1}'
KIND = "Content-Type: application/json"
HUGE = 64 * MIB
"""Bytes, more than the service may read of a body that it has refused."""
FIRST_PARTS = (1, 40, 200)
"""Bytes of a request that come before the others."""


def request(first: str, *headers: str, body: bytes = b"", token: bool = True) -> bytes:
    """A request as it goes over a raw socket, on a connection that is kept."""
    lines = [f"{first} HTTP/1.1", "Host: localhost", *headers]
    if token:
        lines.append(AUTHORIZATION_LINE)
    return "\r\n".join([*lines, "", ""]).encode() + body


def post(*headers: str, body: bytes = TASK) -> bytes:
    """A POST of a task with its Content-Length."""
    return request("POST /tasks", KIND, f"Content-Length: {len(body)}", *headers, body=body)


async def answers(service: Running, *parts: bytes, count: int) -> list[tuple[int, bytes]]:
    """Status and body of `count` answers to what is sent in these parts, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.get_extra_info("socket").setsockopt(6, 1, 1)  # TCP_NODELAY: a segment for each part
    found = []
    async with asyncio.timeout(20):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert length is not None, head
            found.append((int(head.split()[1]), await reader.readexactly(int(length[1]))))
    writer.close()
    return found


async def stored(service: Running) -> int:
    """How many tasks there are."""
    return (await service.get("/tasks/export.csv")).count(b"\n") - 1


@pytest.mark.parametrize("first", FIRST_PARTS)
async def test_pipelined_requests_are_answered_in_order(start: StartService, first: int) -> None:
    """Requests that come together, bodies among them, get their answers one after the other."""
    service = await start(list(tasks(3, seed=1)))
    chunked = request("POST /tasks", KIND, "Transfer-Encoding: chunked")
    sent = b"".join(
        [
            request("GET /tasks/1"),
            request("GET /healthz"),
            post(),
            chunked + b"5;x=y\r\n" + TASK[:5] + b"\r\n%x\r\n" % len(TASK[5:]),
            TASK[5:] + b"\r\n0\r\nTrailer: t\r\n\r\n\r\n",
            request("GET /tasks/5"),
        ]
    )
    found = await answers(service, sent[:first], sent[first:], count=5)
    assert [status for status, _ in found] == [200, 200, 201, 201, 200]
    ids = [json.loads(body).get("id") for _, body in found]
    assert ids == ["1", None, "4", "5", "5"]


async def test_hundreds_of_pipelined_requests_are_answered(start: StartService) -> None:
    """However many requests come at once, each gets its answer: those held back are not lost."""
    service = await start()
    found = await answers(service, request("GET /healthz") * 500, count=500)
    assert {status for status, _ in found} == {200}


async def test_a_request_may_be_split_anywhere(start: StartService) -> None:
    """A request in two segments is stored, wherever it was split, and so is one byte by byte."""
    service = await start()
    body = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\nA: b\r\n\r\n" % (3, TASK[:3], len(TASK) - 3, TASK[3:])
    whole = request("POST /tasks", KIND, "Transfer-Encoding: chunked") + body
    cuts = range(1, len(whole), 3)
    for cut in cuts:
        ((status, _),) = await answers(service, whole[:cut], whole[cut:], count=1)
        assert status == 201, cut
    bites = [whole[at : at + 1] for at in range(len(whole))]
    assert [status for status, _ in await answers(service, *bites, count=1)] == [201]
    assert await stored(service) == len(cuts) + 1


@pytest.mark.parametrize("kind", ["h2c", "websocket"])
async def test_an_upgrade_is_not_granted_and_does_no_harm(start: StartService, kind: str) -> None:
    """Who asks to upgrade gets an ordinary answer, and so do the requests behind that one."""
    service = await start()
    upgrade = request("GET /healthz", f"Upgrade: {kind}", "Connection: Upgrade")
    both = upgrade + request("GET /healthz") + upgrade
    found = await answers(service, both, request("GET /healthz"), count=4)
    assert [status for status, _ in found] == [200] * 4


ENCODED = gzip.compress(TASK)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["gzip"], ENCODED),
        (["gzip"], ENCODED[:-4]),
        (["deflate"], TASK),
        (["br"], TASK),
        (["identity", "gzip"], ENCODED),
        (["unheard-of"], TASK),
    ],
    ids=["gzip", "cut gzip", "deflate", "br", "two", "unknown"],
)
async def test_an_encoded_body_is_refused(
    start: StartService, headers: list[str], body: bytes
) -> None:
    """A body with a Content-Encoding is a 415 with a hint on every route, with a token or not."""
    service = await start(list(tasks(1, seed=1)))
    encodings = [f"Content-Encoding: {each}" for each in headers]
    for method, path, _ in operations(await description(service)):
        if method == "head":
            continue
        first = f"{method.upper()} {path.replace('{id}', '1')}"
        sent = request(first, KIND, *encodings, f"Content-Length: {len(body)}", token=False)
        ((status, answer),) = await answers(service, sent + body, count=1)
        problem = json.loads(answer)
        assert (status, problem["code"]) == (415, "content_encoding_unsupported")
        assert "Content-Encoding" in problem["hint"]
    assert await stored(service) == 1


async def test_a_body_that_is_called_plain_is_taken(start: StartService) -> None:
    """Content-Encoding: identity is no encoding."""
    service = await start()
    assert [s for s, _ in await answers(service, post("Content-Encoding: identity"), count=1)] == [
        201
    ]


@pytest.mark.parametrize(
    "head",
    [
        request("POST /tasks", KIND, f"Content-Length: {HUGE}", token=False),
        request("POST /tasks", KIND, f"Content-Length: {HUGE}"),
        request("GET /healthz", "Content-Encoding: gzip", f"Content-Length: {HUGE}", token=False),
        request("PUT /nothing/at/all", f"Content-Length: {HUGE}", token=False),
    ],
    ids=["without a token", "too long", "gzip", "no route"],
)
async def test_a_refused_body_is_read_for_so_long_only(start: StartService, head: bytes) -> None:
    """Of a refused body no more is read than the longest one may have, then comes a reset."""
    most = 256 * KIB
    service = await start(max_body_bytes=most)
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(head)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert answer.split()[1] in (b"401", b"413", b"415", b"404")
    assert b"Connection: close" in answer
    sent = 0
    with pytest.raises(ConnectionError):
        while sent < HUGE:
            writer.write(bytes(64 * KIB))
            await writer.drain()
            sent += 64 * KIB
    writer.close()
    assert most <= sent <= most + 8 * MIB  # what the kernels have in between


async def test_who_sends_a_whole_body_sees_why_it_is_refused(start: StartService) -> None:
    """A client that looks for its answer only behind a long body finds it, and no reset."""
    service = await start()
    head = request("POST /tasks", KIND, f"Content-Length: {MIB}", token=False)
    ((status, _),) = await answers(service, head, bytes(MIB), count=1)
    assert status == 401


@pytest.mark.parametrize(
    "sent",
    [
        post()[:-1],
        post(body=TASK + b"   ")[:-1],
        request("POST /tasks", KIND, "Transfer-Encoding: chunked") + b"1a\r\n%s\r\n" % TASK,
        request("POST /tasks", KIND, "Transfer-Encoding: chunked") + b"1a\r\n%s\r\n0\r\n" % TASK,
    ],
    ids=["cut", "cut behind its JSON", "no last chunk", "no end"],
)
async def test_a_truncated_body_is_not_stored(start: StartService, sent: bytes) -> None:
    """A client that ends before its body does has stored nothing, be it JSON so far or not."""
    service = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    assert await stored(service) == 0


CHECKED: dict[str, tuple[bytes, int]] = {
    "no token": (request("POST /tasks", KIND, "Content-Length: 26", token=False), 401),
    "no such type": (request("POST /tasks", "Content-Length: 26"), 415),
    "too long": (request("POST /tasks", KIND, "Content-Length: 999999999"), 413),
    "encoded": (request("POST /tasks", KIND, "Content-Encoding: br", "Content-Length: 26"), 415),
    "no body wanted": (request("GET /tasks", "Content-Length: 26"), 400),
    "no such method": (request("TRACE /tasks", "Content-Length: 26"), 405),
    "no such route": (request("POST /nothing/at/all", "Content-Length: 26"), 404),
    "no such id": (request("PATCH /tasks/x", KIND, "Content-Length: 26"), 400),
}


@pytest.mark.parametrize(("head", "status"), CHECKED.values(), ids=CHECKED)
async def test_a_body_is_asked_for_after_all_that_can_be_checked(
    start: StartService, head: bytes, status: int
) -> None:
    """A client that waits for 100 Continue hears at once what is wrong, and sends no body."""
    service = await start()
    head = head[:-2] + b"Expect: 100-continue\r\n\r\n"
    assert [found for found, _ in await answers(service, head, count=1)] == [status]


async def test_a_body_that_is_wanted_is_asked_for(start: StartService) -> None:
    """With all in order 100 Continue comes, then the answer, and the connection is kept."""
    service = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    async with asyncio.timeout(20):
        for _ in range(2):
            sent = post("Expect: 100-continue")
            writer.write(sent[: -len(TASK)])
            assert await reader.readexactly(len(CONTINUE)) == CONTINUE
            writer.write(TASK)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201 ")
            await reader.readuntil(b"}")
    writer.close()
    assert await stored(service) == 2


@pytest.mark.parametrize("priority", ["4.0", "4e0", "40.0e-1"])
async def test_a_whole_number_may_be_written_as_a_float(start: StartService, priority: str) -> None:
    """JSON Schema counts 4.0 as an integer, and so do we, in a POST and in a PATCH."""
    service = await start(list(tasks(1, seed=1)))
    options: dict[str, Any] = {
        "data": f'{{"title": "a", "priority": {priority}}}',
        "headers": {"Content-Type": "application/json"},
    }
    for method, path in (("POST", "/tasks"), ("PATCH", "/tasks/1")):
        async with service.client.request(method, service.url + path, **options) as response:
            assert response.status < 300
            assert (await response.json())["priority"] == 4
