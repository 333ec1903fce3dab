"""Whatever is wrong with a request: a problem that names it, and nothing stored."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from service.tasks.generate import tasks
from service.web.problems import CONTENT_TYPE
from tests.conftest import AUTHORIZATION, Running, StartService

CSV, NDJSON = "/tasks/export.csv", "/tasks/stream.ndjson"
GOOD = {"title": "a", "priority": 1}
JSON = {"Content-Type": "application/json"}
MAX_BODY = 64 * 1024
TOKENS = "".join(
    f'[[token]]\nname = "{scope}er"\nsecret = "secret-of-{scope}"\nscopes = ["{scope}"]\n'
    for scope in ("read", "write", "ops")
)
OF_ALL = """
    more=1 Limit=1 limit=1&limit=1 limit=0 limit=-1 limit= limit=ten limit=1.0 limit=%2B1 limit=%201
    limit=1_0 limit=%D9%A1 limit=9223372036854775808 limit=99999999999999999999999999 limit=0x1
    after=ten after=1,2 after= after=%00
"""
OF_EXPORTS = """
    columns= columns=id,seq columns=id,id columns=id, columns=id;DROP%20TABLE%20task columns=ID
    priority=high priority__gte=high priority__in=1,high priority__null=1 priority__like=1
    min_priority=3 priority__gte=3&priority__gte=4
"""
BAD_PARAMETERS = [
    (path, query)
    for path, queries in {
        CSV: OF_ALL + OF_EXPORTS + "header=1 header=True dialect=tsv",
        NDJSON: OF_ALL + OF_EXPORTS + "header=true dialect=excel",
        "/tasks": OF_ALL + OF_EXPORTS + "limit=1001 header=true null=x",
        "/tasks/1": "limit=1",
        "/streams": "limit=1",
        "/healthz": "more=1",
    }.items()
    for query in queries.split()
]
"""A path, and a query whose first parameter is wrong."""

NO_JSON = {
    "empty": b"",
    "text": b"hello",
    "cut": b'{"title": "a", "priority": 1',
    "two": b'{"title": "a", "priority": 1}{}',
    "single quotes": b"{'title': 'a', 'priority': 1}",
    "not UTF-8": b'{"title": "\xff", "priority": 1}',
    "Latin-1": '{"title": "ä", "priority": 1}'.encode("latin-1"),
    "UTF-16": '{"title": "a", "priority": 1}'.encode("utf-16"),
    "surrogate in bytes": b'{"title": "\xed\xa0\x80", "priority": 1}',
    "surrogate high": b'{"title": "\\ud800", "priority": 1}',
    "surrogate low": b'{"title": "a\\udc00b", "priority": 1}',
    "line end in a string": b'{"title": "a\nb", "priority": 1}',
    "nested deeply": b"[" * 30_000,
}
WRONG = {
    "number": (7, ""),
    "null": (None, ""),
    "string": ("a", ""),
    "array in an array": ([[GOOD]], "0"),
    "empty array": ([], ""),
    "empty object": ({}, "title"),
    "no title": ({"priority": 1}, "title"),
    "no priority": ({"title": "a"}, "priority"),
    "unknown field": (GOOD | {"more": 1}, "more"),
    "id": (GOOD | {"id": "1"}, "id"),
    "seq": (GOOD | {"seq": 1}, "seq"),
    "title empty": (GOOD | {"title": ""}, "title"),
    "title too long": (GOOD | {"title": "x" * 2_001}, "title"),
    "title too long, emoji": (GOOD | {"title": "🎉" * 2_001}, "title"),
    "title NUL": (GOOD | {"title": "a\0b"}, "title"),
    "title number": (GOOD | {"title": 1}, "title"),
    "title null": (GOOD | {"title": None}, "title"),
    "title array": (GOOD | {"title": ["a"]}, "title"),
    "priority 0": (GOOD | {"priority": 0}, "priority"),
    "priority 11": (GOOD | {"priority": 11}, "priority"),
    "priority true": (GOOD | {"priority": True}, "priority"),
    "priority float": (GOOD | {"priority": 1.5}, "priority"),
    "priority text": (GOOD | {"priority": "1"}, "priority"),
    "priority null": (GOOD | {"priority": None}, "priority"),
    "priority huge": (GOOD | {"priority": 10**40}, "priority"),
    "priority NaN": (GOOD | {"priority": float("nan")}, "priority"),
    "status unknown": (GOOD | {"status": "done"}, "status"),
    "status null": (GOOD | {"status": None}, "status"),
    "last of two": ([GOOD, GOOD | {"priority": 0}], "1.priority"),
}
CHANGES = {
    case: (body, name)
    for case, (body, name) in WRONG.items()
    if case not in ("empty object", "no title", "no priority", "last of two", "array in an array")
} | {"nothing": ({}, "nothing"), "array": ([{"priority": 2}], "")}


def check(
    status: int, headers: Mapping[str, str], body: bytes, expected: tuple[int, str]
) -> dict[str, Any]:
    """The problem in an answer, which has the form that every one of them has."""
    assert headers["Content-Type"] == CONTENT_TYPE, body
    problem: dict[str, Any] = json.loads(body)
    assert (status, problem["code"]) == expected, problem
    assert problem["status"] == status
    assert problem["title"]
    assert len(problem["detail"]) > 5
    return problem


async def refused(
    service: Running, expected: tuple[int, str], method: str, path: str, **options: Any
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The problem and the head that answer a request; and nothing is stored by it."""
    before = await table(service)
    async with service.client.request(method, service.url + path, **options) as response:
        body = await response.read()
        problem = check(response.status, response.headers, body, expected)
        assert await table(service) == before
        return problem, response.headers


async def table(service: Running) -> tuple[bytes, str]:
    """All tasks, and the number of the newest change."""
    async with service.client.get(service.url + NDJSON) as response:
        return await response.read(), response.headers["Weir-Since"]


async def raw(service: Running, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """What comes back for these bytes until the service closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(sent)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def request(first: str, *headers: bytes, body: bytes = b"") -> bytes:
    """A whole request with a token, on a connection that closes after it."""
    lines = [first.encode() + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers]
    if not any(line.startswith(b"Authorization") for line in headers):
        lines.append(b"Authorization: " + AUTHORIZATION["Authorization"].encode())
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


TOO_LARGE, BAD = (431, "head_too_large"), (400, "bad_request")
IS_JSON = b"Content-Type: application/json"
NO_REQUESTS = {
    "many headers": (request("GET /tasks", *[b"X: " + b"a" * 500] * 20), TOO_LARGE),
    "long header": (request("GET /tasks", b"X: " + b"a" * 9_000), TOO_LARGE),
    "long target": (request("GET /tasks?more=" + "a" * 9_000), TOO_LARGE),
    "garbage": (b"\x00\xff garbage\r\n\r\n", BAD),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", BAD),
    "bytes in the target": (request("GET /tasks?\xff"), BAD),
    "length": (request("POST /tasks", b"Content-Length: x"), BAD),
    "chunk": (request("POST /tasks", IS_JSON, b"Transfer-Encoding: chunked") + b"zz\r\n", BAD),
    "expect": (request("POST /tasks", b"Expect: more", body=b"{}"), (417, "expectation_failed")),
    "bytes in a header": (
        request("POST /tasks", b"Content-Type: text/\xff", body=b"{}"),
        (415, "media_type_unsupported"),
    ),
}
"""What no HTTP client sends, and how it is refused."""


@pytest.fixture
async def service(start: StartService) -> Running:
    return await start(list(tasks(2, seed=1)), max_body_bytes=MAX_BODY)


@pytest.mark.parametrize(("path", "query"), BAD_PARAMETERS)
async def test_a_bad_parameter_is_named(service: Running, path: str, query: str) -> None:
    """A parameter that is unknown, repeated or out of range is a 400 that names it."""
    problem, _ = await refused(service, (400, "invalid_parameter"), "GET", f"{path}?{query}")
    assert query.partition("=")[0] in problem["detail"]
    assert problem["hint"]


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("PATCH", "/tasks/1")])
async def test_what_is_no_json_is_refused(
    service: Running, method: str, path: str, body: bytes
) -> None:
    """A body that is not JSON in UTF-8 is a 400."""
    expected = (400, "invalid_json")
    problem, _ = await refused(service, expected, method, path, data=body, headers=JSON)
    assert "UTF-8" in problem["hint"]


@pytest.mark.parametrize(("body", "name"), WRONG.values(), ids=WRONG)
async def test_a_wrong_task_is_refused(service: Running, body: Any, name: str) -> None:
    """A body that is no task, or no array of tasks, is a 422 that names the wrong member."""
    data = json.dumps(body).encode()
    expected = (422, "invalid_task")
    problem, _ = await refused(service, expected, "POST", "/tasks", data=data, headers=JSON)
    assert name in problem["detail"]
    assert any(name in fault["at"] for fault in problem["errors"])


@pytest.mark.parametrize(("body", "name"), CHANGES.values(), ids=CHANGES)
async def test_wrong_changes_are_refused(service: Running, body: Any, name: str) -> None:
    """A PATCH with a wrong member, or with none, is a 422 that says so, and changes nothing."""
    data = json.dumps(body).encode()
    expected = (422, "invalid_task")
    problem, _ = await refused(service, expected, "PATCH", "/tasks/1", data=data, headers=JSON)
    assert name in problem["detail"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("PATCH", "/tasks/1")])
async def test_a_body_too_large_is_refused(
    service: Running, method: str, path: str, chunked: bool
) -> None:
    """A body over the limit is a 413 with the limit in it, whether or not it says its length."""
    body = json.dumps([GOOD]).encode() + b" " * MAX_BODY
    options: dict[str, Any] = {"data": body, "headers": JSON, "chunked": chunked or None}
    problem, _ = await refused(service, (413, "body_too_large"), method, path, **options)
    assert str(MAX_BODY) in problem["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "text/csv", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("PATCH", "/tasks/1")])
async def test_another_content_type_is_refused(
    service: Running, method: str, path: str, kind: str
) -> None:
    """A body that is not called JSON is a 415 that names what it is called."""
    options: dict[str, Any] = {"data": json.dumps(GOOD).encode(), "headers": {"Content-Type": kind}}
    problem, _ = await refused(service, (415, "media_type_unsupported"), method, path, **options)
    assert kind in problem["detail"]


@pytest.mark.parametrize(
    "number",
    ["a", "1a", "-1", "+1", "1,0", "1.0", "%201", "0x1", "%D9%A1", str(2**63), "9" * 40, "%00"],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_what_is_no_id_is_refused(service: Running, method: str, number: str) -> None:
    """An id that is no whole number of 64 bits is a 400."""
    options: dict[str, Any] = {"json": {"priority": 2}} if method == "PATCH" else {}
    path = f"{service.url}/tasks/{number}"
    async with service.client.request(method, path, **options) as response:
        check(response.status, response.headers, await response.read(), (400, "invalid_id"))


@pytest.mark.parametrize("number", ["0", "3", str(2**63 - 1), "0000000000000000003"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_missing_task_is_a_404(service: Running, method: str, number: str) -> None:
    """An id that no task has is a 404 that names it."""
    options: dict[str, Any] = {"json": {"priority": 2}} if method == "PATCH" else {}
    path = f"/tasks/{number}"
    problem, _ = await refused(service, (404, "task_not_found"), method, path, **options)
    assert str(int(number)) in problem["detail"]


@pytest.mark.parametrize("path", ["/tasks/", "/tasks/1/2", "//tasks", "/nothing/export.tsv"])
async def test_an_unknown_route_is_a_404(service: Running, path: str) -> None:
    """A path that is not served is a 404 with a hint at those that are."""
    problem, _ = await refused(service, (404, "route_not_found"), "GET", path)
    assert problem["hint"]


@pytest.mark.parametrize(
    "path", ["/nothing", "/%2e%2e/x", "/task", "/nothing/export.csv", "/task/stream.ndjson"]
)
async def test_an_unknown_table_is_a_404(service: Running, path: str) -> None:
    """A table that is not there is a 404 that names it and says where those are that are."""
    problem, _ = await refused(service, (404, "table_not_found"), "GET", path)
    assert "/tables" in problem["hint"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/tasks", {"GET", "HEAD", "POST"}),
        ("DELETE", "/tasks", {"GET", "HEAD", "POST"}),
        ("POST", "/tasks/1", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("OPTIONS", "/tasks/1", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
        ("DELETE", "/", {"GET", "HEAD"}),
        ("DELETE", CSV, {"GET", "HEAD"}),
        ("POST", NDJSON, {"GET", "HEAD"}),
        ("TRACE", "/tasks", {"GET", "HEAD", "POST"}),
    ],
)
async def test_another_method_is_a_405(
    service: Running, method: str, path: str, allow: set[str]
) -> None:
    """A method that a route does not have is a 405 that names those that it has, body or not."""
    for body in (None, b"{}"):
        expected = (405, "method_not_allowed")
        _, headers = await refused(service, expected, method, path, data=body)
        assert {one.strip() for one in headers["Allow"].split(",")} == allow


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CSV), ("GET", "/healthz"), ("DELETE", "/tasks/1")]
)
async def test_a_body_where_none_is_read_is_refused(
    service: Running, method: str, path: str
) -> None:
    """A body on a GET or a DELETE is a 400: who sends one expects what will not happen."""
    await refused(service, (400, "unexpected_body"), method, path, json={"status": "pending"})


@pytest.mark.parametrize(
    ("given", "code", "error"),
    [
        (b"", "token_missing", ""),
        (b"Bearer", "token_missing", ""),
        (b"Basic dXNlcjpwYXNz", "token_missing", ""),
        (b"Bearer wrong", "token_invalid", ', error="invalid_token"'),
        (b"Bearer secret-user-12", "token_invalid", ', error="invalid_token"'),
        (b"Bearer \xff\xfe", "token_invalid", ', error="invalid_token"'),
    ],
)
@pytest.mark.parametrize("path", [CSV, "/tasks", "/metrics"])
async def test_without_a_token_nobody_gets_in(
    service: Running, path: str, given: bytes, code: str, error: str
) -> None:
    """No token, or one that is not known, is a 401 with the challenge of RFC 6750."""
    answer = await raw(service, request(f"GET {path}", b"Authorization: " + given))
    check(*answer, (401, code))
    assert answer[1]["WWW-Authenticate"] == f'Bearer realm="weir"{error}'


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", CSV, "read"),
        ("HEAD", NDJSON, "read"),
        ("GET", "/tasks", "read"),
        ("GET", "/tasks/1", "read"),
        ("POST", "/tasks", "write"),
        ("PATCH", "/tasks/1", "write"),
        ("DELETE", "/tasks/1", "write"),
        ("GET", "/streams", "ops"),
        ("GET", "/metrics", "ops"),
    ],
)
async def test_each_route_wants_its_scope(
    start: StartService, tmp_path: Path, method: str, path: str, scope: str
) -> None:
    """A token without the scope is a 403 that names the scope; the one that has it gets in."""
    file = tmp_path / "tokens.toml"
    file.write_text(TOKENS)
    service = await start(list(tasks(1, seed=1)), tokens=file)
    for other in ("read", "write", "ops"):
        headers = {"Authorization": f"Bearer secret-of-{other}"}
        options: dict[str, Any] = {"json": GOOD} if method in ("POST", "PATCH") else {}
        url = service.url + path
        async with service.client.request(method, url, headers=headers, **options) as response:
            body = await response.read()
            if other == scope:
                assert response.status < 300
                continue
            assert response.status == 403
            challenge = 'Bearer realm="weir", error="insufficient_scope"'
            assert response.headers["WWW-Authenticate"] == f'{challenge}, scope="{scope}"'
            if method != "HEAD":
                problem = check(403, response.headers, body, (403, "scope_missing"))
                assert scope in problem["detail"]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_streams": 1}, (503, "streams_exhausted")),
        ({"max_streams_per_token": 1}, (429, "token_streams_exhausted")),
    ],
)
async def test_one_stream_too_many_is_refused(
    start: StartService, limits: dict[str, int], expected: tuple[int, str]
) -> None:
    """At a limit of streams the answer says when to come back, and the place is freed again."""
    service = await start(list(tasks(200_000, seed=1)), **limits)
    async with service.client.get(service.url + CSV) as stream:
        assert stream.status == 200
        async with service.client.get(service.url + NDJSON) as response:
            check(response.status, response.headers, await response.read(), expected)
            assert int(response.headers["Retry-After"]) >= 1
        await stream.read()
    while streams := json.loads(await service.get("/streams"))["streams"]:
        assert len(streams) == 1
    assert await service.get(CSV, limit=1)


@pytest.mark.parametrize(("sent", "expected"), NO_REQUESTS.values(), ids=NO_REQUESTS)
async def test_what_is_no_request_gets_a_problem(
    service: Running, sent: bytes, expected: tuple[int, str]
) -> None:
    """Heads too large, encodings that do not hold and what is no HTTP at all get a problem too."""
    check(*await raw(service, sent), expected)
    assert (await table(service))[1] == "2"
