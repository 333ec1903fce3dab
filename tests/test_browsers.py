"""What pages in a browser may do: read when their origin is named, and nothing under a name that
was made to lead here."""

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from service.settings import Settings
from service.tasks.generate import tasks
from tests.conftest import AUTHORIZATION, Logged, Running, StartService

CSV, NDJSON = "/tasks/export.csv", "/tasks/stream.ndjson"
PAGE = "http://localhost:5173"
"""The origin of a page that may read."""
ROWS = 5_000
PATHS = (
    CSV,
    NDJSON,
    "/tasks",
    "/tasks/1",
    "/metrics",
    "/healthz",
    "/openapi.json",
    "/",
    "/nothing",
)
TOKENS = '[[token]]\nname = "a"\nsecret = "secret-of-a"\nscopes = ["read", "write", "ops"]\n'
BROWSER = shutil.which("chromium")
BROWSER_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BROWSER_SECONDS = 60
with_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")

SCRIPT = """<!doctype html><title>a page of another origin</title><script>
const headers = { Authorization: "Bearer secret-user-123" };
const service = new URLSearchParams(location.search).get("service");

async function stream() {
  const response = await fetch(service + "/tasks/stream.ndjson", { headers });
  let bytes = 0, lines = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes += value.length;
    for (const byte of value) lines += byte === 10;
  }
  return { bytes, lines, id: response.headers.get("Weir-Stream-Id") };
}

async function problem() {
  const response = await fetch(service + "/tasks/export.csv", {
    headers: { Authorization: "Bearer wrong-secret" },
  });
  return [response.status, (await response.json()).code];
}

async function write() {
  const response = await fetch(service + "/tasks", {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify({ title: "Out of a page", priority: 5 }),
  });
  return [response.status, (await response.json()).title];
}

async function remove() {
  const response = await fetch(service + "/tasks/1", { method: "DELETE", headers });
  return response.status;
}

(async () => {
  const seen = {};
  for (const ask of [stream, problem, write, remove])
    seen[ask.name] = await ask().catch((error) => error.name);
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
})();
</script>
"""
"""The tutorial's page with `fetch`, which tells the server that it came from what it has seen."""
README = Path(__file__).parent.parent / "README.md"
README_PAGE = """<!doctype html><title>the README's</title><script type="module">
const lines = [];
console.log = (line) => lines.push(line);
SCRIPT
await fetch("/seen", { method: "POST", body: JSON.stringify({ lines }) });
</script>
"""


def status_line(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def raw(service: Running, *lines: str) -> tuple[int, bytes]:
    """The status and all of the answer to a request of these lines, closed behind it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return status_line(answer), answer


AUTHORIZED = f"Authorization: {AUTHORIZATION['Authorization']}"


# -- names that were made to lead here ---------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:3000", "localhost.evil.example", "192.0.2.1", "0.0.0.0:3000"]
    + ["[2001:db8::1]:3000", "127.0.0.1.evil.example", "evillocalhost", "", "local host", "\udcff"],
)
@pytest.mark.parametrize("path", [CSV, "/tasks", "/", "/nothing"])
async def test_a_name_that_is_not_local_is_refused(
    start: StartService, host: str, path: str
) -> None:
    """While the development token works, a request under any other name reaches no route."""
    service = await start(list(tasks(10, seed=1)))
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{AUTHORIZED}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode(errors="surrogateescape"))
    answer = await reader.read()
    writer.close()
    if status_line(answer) != 400:  # what aiohttp itself takes for no name
        assert status_line(answer) == 421
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert told["code"] == "host_not_local"
        assert "--tokens" in told["hint"]


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:3000", "LOCALHOST:3000", "weir.localhost:80", "localhost."]
    + ["127.0.0.1", "127.0.0.2:3000", "127.255.255.254", "[::1]", "[::1]:3000"],
)
async def test_local_names_are_served(start: StartService, host: str) -> None:
    """Whatever name this machine has for itself is served, on any port."""
    service = await start(list(tasks(10, seed=1)))
    status, answer = await raw(service, f"GET {CSV} HTTP/1.1", f"Host: {host}", AUTHORIZED)
    assert status == 200
    assert b"id,title" in answer


async def test_a_request_without_a_name_is_served(start: StartService) -> None:
    """HTTP/1.0 without a Host header is no browser's: a load balancer's check, or old tools."""
    service = await start(list(tasks(10, seed=1)))
    assert (await raw(service, "GET /healthz HTTP/1.0"))[0] == 200
    status, _ = await raw(service, "GET /healthz HTTP/1.0", "Host: evil.example")
    assert status == 421


async def test_with_a_token_file_any_name_is_served(start: StartService, tmp_path: Path) -> None:
    """What no web page can know a token of may be asked under whatever name leads there."""
    (tmp_path / "tokens.toml").write_text(TOKENS)
    service = await start(list(tasks(10, seed=1)), tokens=tmp_path / "tokens.toml")
    lines = ("Host: weir.example", "Authorization: Bearer secret-of-a")
    assert (await raw(service, f"GET {CSV} HTTP/1.1", *lines))[0] == 200


# -- pages of other origins --------------------------------------------------------------------


async def ask(
    service: Running, method: str, path: str, origin: str, **headers: str
) -> tuple[int, Mapping[str, str]]:
    """Status and head of what a page of this origin is answered."""
    async with service.client.request(
        method, service.url + path, headers={"Origin": origin} | headers
    ) as response:
        await response.read()
        return response.status, response.headers


async def preflight(
    service: Running, path: str, origin: str = PAGE, method: str = "GET", **headers: str
) -> tuple[int, Mapping[str, str]]:
    """What a browser is told before it lets a page ask; it never sends a token for that."""
    asked = {"Access-Control-Request-Method": method, "Authorization": ""}
    return await ask(service, "OPTIONS", path, origin, **(asked | headers))


def names(header: str) -> set[str]:
    return {name.strip().lower() for name in header.split(",")}


@pytest.mark.parametrize("path", PATHS)
async def test_without_leave_no_page_reads(start: StartService, path: str) -> None:
    """CORS is off: no answer lets a page read it, and a preflight says what would."""
    service = await start(list(tasks(10, seed=1)))
    assert "Access-Control-Allow-Origin" not in (await ask(service, "GET", path, PAGE))[1]
    status, headers = await preflight(service, path)
    assert status == 403
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("allowed", "told"), [([PAGE, "https://other.example"], PAGE), (["*"], "*")]
)
async def test_a_page_with_leave_reads(
    start: StartService, path: str, allowed: list[str], told: str
) -> None:
    """Every answer, exports and problems too, lets a page read whose origin is named."""
    service = await start(list(tasks(10, seed=1)), allow_origin=allowed)
    for secret in (AUTHORIZATION["Authorization"], "Bearer wrong"):
        _, headers = await ask(service, "GET", path, PAGE, Authorization=secret)
        assert headers["Access-Control-Allow-Origin"] == told
        shown = names(headers["Access-Control-Expose-Headers"])
        assert shown >= {"weir-stream-id", "weir-since", "retry-after", "content-disposition"}
        assert "origin" in names(",".join(headers.getall("Vary")))  # type: ignore[attr-defined]
        assert "Access-Control-Allow-Credentials" not in headers


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (CSV, {"get", "head"}),
        ("/tasks", {"get", "head", "post"}),
        ("/tasks/1", {"get", "head", "patch", "delete"}),
        ("/nothing/here", {"get", "head", "post", "patch", "delete"}),
    ],
)
async def test_a_preflight_names_what_may_be_asked(
    start: StartService, path: str, methods: set[str]
) -> None:
    """A preflight wants no token, and tells the methods of the route and the heads to send."""
    service = await start(allow_origin=[PAGE])
    status, headers = await preflight(service, path)
    assert status == 204
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert names(headers["Access-Control-Allow-Methods"]) == methods
    assert names(headers["Access-Control-Allow-Headers"]) == {"authorization", "content-type"}
    assert int(headers["Access-Control-Max-Age"]) > 0
    assert "Access-Control-Allow-Private-Network" not in headers
    private = {"Access-Control-Request-Private-Network": "true"}
    _, headers = await preflight(service, path, **private)
    assert headers["Access-Control-Allow-Private-Network"] == "true"


@pytest.mark.parametrize(
    "origin", ["http://localhost:5174", "https://localhost:5173", "http://localhost", "null", ""]
)
async def test_another_page_reads_nothing(start: StartService, origin: str) -> None:
    """An origin that differs in its scheme, host or port is another one."""
    service = await start(list(tasks(10, seed=1)), allow_origin=[PAGE])
    status, headers = await preflight(service, CSV, origin)
    assert status == 403
    assert "Access-Control-Allow-Origin" not in headers
    _, headers = await ask(service, "GET", CSV, origin)
    assert "Access-Control-Allow-Origin" not in headers
    assert "origin" in names(headers["Vary"])


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("HTTP://Localhost:5173", "http://localhost:5173"),
        ("http://localhost:80", "http://localhost"),
        ("https://weir.example:443", "https://weir.example"),
        ("http://weir.example:443", "http://weir.example:443"),
        ("http://[::1]:3001", "http://[::1]:3001"),
        ("tauri://localhost", "tauri://localhost"),
        ("*", "*"),
    ],
)
def test_an_origin_is_taken_as_browsers_write_it(given: str, origin: str) -> None:
    """Capital letters and the usual port of a scheme are what browsers leave out."""
    assert Settings(allow_origin=(given,)).allow_origin == (origin,)


# -- in a browser ------------------------------------------------------------------------------


@asynccontextmanager
async def browser(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Chromium without a window, ended with all of its processes."""
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        BROWSER,
        *BROWSER_FLAGS,
        f"--user-data-dir={folder / 'browser'}",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def seen(service: Running, folder: Path, script: str = SCRIPT) -> dict[str, Any]:
    """What a page of another origin sees of the service, in a browser."""
    told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=script, content_type="text/html")

    async def listen(request: web.Request) -> web.Response:
        told.set_result(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_post("/seen", listen)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        address = f"http://localhost:{port}/?service=http://localhost:{service.port}"
        async with browser(folder, address), asyncio.timeout(BROWSER_SECONDS):
            return await told
    finally:
        await runner.cleanup()


@with_browser
async def test_a_page_in_a_browser_reads_the_stream(
    start: StartService, tmp_path: Path, logged: Logged
) -> None:
    """The tutorial's page streams, writes, deletes and sees why it was refused."""
    table = list(tasks(ROWS, seed=1))
    service = await start(table, allow_origin=["*"])
    size = len(await service.get(NDJSON))
    found = await seen(service, tmp_path)
    assert found["stream"]["id"]
    assert (found["stream"]["lines"], found["stream"]["bytes"]) == (ROWS, size)
    assert found["problem"] == [401, "token_invalid"]
    assert found["write"] == [201, "Out of a page"]
    assert found["remove"] == 204
    assert any("every web page may read" in entry["event"] for entry in logged)


@with_browser
async def test_the_script_of_the_readme_reads_the_stream(
    start: StartService, tmp_path: Path
) -> None:
    """What the README shows to those who write pages runs as it stands there."""
    (script,) = re.findall(r"```javascript\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    service = await start(list(tasks(ROWS, seed=1)), allow_origin=["*"])
    script = script.replace("http://localhost:3000", service.url)
    found = await seen(service, tmp_path, README_PAGE.replace("SCRIPT", script))
    parts = [int(line.removesuffix(" bytes")) for line in found["lines"]]
    assert sum(parts) == len(await service.get(NDJSON))


@with_browser
async def test_a_page_in_a_browser_reads_nothing_without_leave(
    start: StartService, tmp_path: Path
) -> None:
    """Where its origin is not named, a page gets no answer at all, and nothing is changed."""
    service = await start(list(tasks(ROWS, seed=1)), allow_origin=["http://localhost:1"])
    whole = await service.get(NDJSON)
    found = await seen(service, tmp_path)
    assert set(found.values()) == {"TypeError"}
    assert await service.get(NDJSON) == whole


async def dom(service: Running, folder: Path, path: str, host: str = "localhost") -> str:
    """A page of the service as a browser shows it, which takes each name for this machine."""
    flags = ("--host-resolver-rules=MAP * 127.0.0.1", "--dump-dom")
    async with browser(folder, *flags, f"http://{host}:{service.port}{path}") as process:
        async with asyncio.timeout(BROWSER_SECONDS):
            out, _ = await process.communicate()
    return out.decode()


@with_browser
async def test_a_browser_is_shown_a_page(start: StartService, tmp_path: Path) -> None:
    """Who comes with a browser reads what is wrong, and what to do, on a page."""
    service = await start()
    shown = await dom(service, tmp_path, "/tasks/", "evil.example")
    assert "<h1>421 Misdirected Request</h1>" in shown
    assert "evil.example" in shown
