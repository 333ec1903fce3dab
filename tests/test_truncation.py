"""Which clients notice that a file is torn: real ones, on every way there, for each fault."""

import asyncio
import http.client
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from urllib.request import Request, urlopen

import aiohttp
import pytest
import requests

from service.tasks.model import NewTask
from simulator.launch import free_port, started
from tests.conftest import AUTHORIZATION, AUTHORIZATION_LINE, TOKEN, Process, StartProcess
from tests.databases import SQLite
from tests.test_operating import COMMANDS, LISTEN, NGINX_MAIN, SERVER, shipped

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
SECONDS = 60
"""How long a client may take for all of a cell."""

# -- what is asked for -------------------------------------------------------------------------

PREFIX, BEHIND, LONG = 300, 4_000_000, 40_000
"""Tasks that come at once, 1 KB each; those behind them, which a filter leaves out: while many
streams look for one more among them, all are in their middle for seconds, and nobody has to read
slowly; the characters of a title that no row may have."""
STANDING, FAILING = "/tasks/export.csv?priority__gte=10", "/tasks/export.csv?priority__gte=9"
"""An export that stands behind the prefix, and one that comes to the title that is too long."""
ONE_AT_A_TIME = ("--read-threads", "1")
"""So that the streams stand for longer."""
MANY = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) "
    "INSERT INTO task (title, priority, status, seq) SELECT 'x', 1, 'pending', 1 FROM n"
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of both exports."""
    database = SQLite(tmp_path_factory.mktemp("stored") / "tasks.db")

    async def fill() -> None:
        prefix = [NewTask("y" * 1_000, 10, "pending")] * PREFIX
        await database.fill([*prefix, NewTask("z", 9, "pending")])
        await database.execute(MANY, (BEHIND,))
        await database.lengthen(PREFIX + 1, "z" * LONG)

    asyncio.run(fill())
    return database.path


# -- the ways there ----------------------------------------------------------------------------

DIRECT, NGINX, HAPROXY, CADDY, VARNISH = "direct", "nginx", "HAProxy", "Caddy", "Varnish"
CADDYFILE = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{service} {{
        flush_interval -1
    }}
}}
"""
VCL = """
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{service}"; }}
"""
Way = Callable[[Path, int, int], list[str]]


def _shipped(kind: str) -> Way:
    """nginx and HAProxy, from the files that are shipped."""

    def command(folder: Path, port: int, service: int) -> list[str]:
        name, main, *words = COMMANDS[kind]
        line, pattern = SERVER[kind]
        (folder / main).write_text(NGINX_MAIN)
        known = {line: pattern.format(service, 1), LISTEN: f"127.0.0.1:{port}"}
        (folder / name).write_text(shipped(name, known))
        return [word.format(folder=folder) for word in words]

    return command


def _caddy(folder: Path, port: int, service: int) -> list[str]:
    (folder / "Caddyfile").write_text(CADDYFILE.format(port=port, service=service))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def _varnish(folder: Path, port: int, service: int) -> list[str]:
    (folder / "default.vcl").write_text(VCL.format(service=service))
    command = ["varnishd", "-F", "-j", "none", "-n", str(folder / "work")]
    return [*command, "-a", f"127.0.0.1:{port}", "-f", str(folder / "default.vcl")]


WAYS: dict[str, Way] = {
    NGINX: _shipped("nginx"),
    HAPROXY: _shipped("haproxy"),
    CADDY: _caddy,
    VARNISH: _varnish,
}
INSTALLED = {NGINX: "nginx", HAPROXY: "haproxy", CADDY: "caddy", VARNISH: "varnishd"}


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The port of each way that is installed; all lead to a service on the port of `DIRECT`."""
    ports = {DIRECT: free_port()}
    with ExitStack() as stack:
        for name, command in WAYS.items():
            if shutil.which(INSTALLED[name]):
                folder, port = tmp_path_factory.mktemp(name), free_port()
                words = command(folder, port, ports[DIRECT])
                stack.enter_context(started(words, f"http://127.0.0.1:{port}"))
                ports[name] = port
        yield ports


# -- the clients -------------------------------------------------------------------------------

NODE = """
let size = 0;
fetch(process.argv[1], {headers: {Authorization: process.argv[2]}}).then(async (response) => {
    if (!response.ok) process.exit(3);
    for await (const part of response.body) size += part.length;
}).catch(() => { process.exitCode = 1; }).finally(() => console.log(size));
"""
PART_BYTES = 64 * 1024


class TornError(Exception):
    """A client has said that a transfer failed. size: bytes that it had got."""

    def __init__(self, how: str, size: int) -> None:
        super().__init__(how)
        self.size = size


Client = Callable[[str, Path], int]
"""Downloads an address, into a file if it wants one; gives the bytes that it takes for the whole
body, or raises TornError."""


def _program(*command: str) -> Client:
    """A program that is told the file behind its last argument; its exit code tells."""

    def download(url: str, file: Path) -> int:
        code = subprocess.run([*command, file, url], timeout=SECONDS, check=False).returncode
        size = file.stat().st_size if file.exists() else 0
        if code:
            raise TornError(f"exit {code}", size)
        return size

    return download


def _node(url: str, file: Path) -> int:
    command = ["node", "-e", NODE, url, f"Bearer {TOKEN}"]
    result = subprocess.run(command, timeout=SECONDS, capture_output=True, text=True, check=False)
    size = int(result.stdout or 0)
    if result.returncode:
        raise TornError("rejected", size)
    return size


Take = Callable[[bytes], None]


def _python(take_all: Callable[[str, Take], None]) -> Client:
    """A library of Python, as it is used; an exception tells."""

    def download(url: str, file: Path) -> int:
        sizes: list[int] = []
        try:
            take_all(url, lambda part: sizes.append(len(part)))
        except (OSError, http.client.HTTPException, aiohttp.ClientError) as fault:
            raise TornError(type(fault).__name__, sum(sizes)) from None
        return sum(sizes)

    return download


def _urllib(url: str, take: Take) -> None:
    with urlopen(Request(url, headers=AUTHORIZATION), timeout=SECONDS) as response:
        while part := response.read(PART_BYTES):
            take(part)


def _lines(url: str, take: Take) -> None:
    with urlopen(Request(url, headers=AUTHORIZATION), timeout=SECONDS) as response:
        for line in response:
            take(line)


def _requests(url: str, take: Take) -> None:
    with requests.get(url, headers=AUTHORIZATION, stream=True, timeout=SECONDS) as response:
        response.raise_for_status()
        for part in response.iter_content(PART_BYTES):
            take(part)


def _aiohttp(url: str, take: Take) -> None:
    async def work() -> None:
        async with (
            aiohttp.ClientSession(headers=AUTHORIZATION, raise_for_status=True) as session,
            session.get(url) as response,
        ):
            async for part in response.content.iter_chunked(PART_BYTES):
                take(part)

    asyncio.run(work())


_CURL = ("curl", "--silent", "--fail", "--header", AUTHORIZATION_LINE)
CURL_1_0, LINES = "curl --http1.0", "for line in urlopen()"
CLIENTS: dict[str, Client] = {
    "curl": _program(*_CURL, "--output"),
    CURL_1_0: _program(*_CURL, "--http1.0", "--output"),
    "wget": _program("wget", "--quiet", "--header", AUTHORIZATION_LINE, "--output-document"),
    "urlopen().read()": _python(_urllib),
    LINES: _python(_lines),
    "requests": _python(_requests),
    "aiohttp": _python(_aiohttp),
    "Node fetch": _node,
}
PROGRAMS = {"wget": "wget", "Node fetch": "node"}

# -- who cannot tell, whatever a server does ---------------------------------------------------


@dataclass(frozen=True)
class Blind:
    """Cells of the matrix in which a torn file is taken for a whole one.

    fault: whose it is, in words of the README.
    """

    clients: Sequence[str]
    ways: Sequence[str]
    fault: str


CANNOT_TELL = (
    Blind(list(CLIENTS), [CADDY], "Caddy 2.6 ends it cleanly for everybody"),
    Blind([CURL_1_0], [VARNISH], "Varnish for those that speak HTTP/1.0"),
    Blind([LINES], [NGINX, HAPROXY, VARNISH], "`for line in urlopen(...)` behind any proxy"),
)
"""Newer versions may notice: a cell that stands here may be right, one that does not has to be."""
REFUSED = [(CURL_1_0, NGINX), (CURL_1_0, HAPROXY)]
"""To whom the proxies that are shipped give no file: they could not show that it was torn."""


def blind(client: str, way: str) -> bool:
    return any(client in those.clients and way in those.ways for those in CANNOT_TELL)


def transfer(client: str, url: str, file: Path) -> TornError | int:
    try:
        return CLIENTS[client](url, file)
    except TornError as torn:
        return torn


def wait_until_all_stand(service: Process, streams: int) -> None:
    """Return once so many streams have sent all that comes at once, and none has ended."""
    rows: list[int] = []
    for _ in range(600):
        with urlopen(Request(service.url + "/streams", headers=AUTHORIZATION)) as response:
            rows = [stream["rows"] for stream in json.load(response)["streams"]]
        if len(rows) == streams and min(rows) == PREFIX:
            return
        sleep(0.05)
    raise AssertionError(f"{streams} streams do not stand: {rows}")


def wait_for_way(port: int) -> None:
    """Return once the service can be reached on this way: a proxy looks for it now and then."""
    for _ in range(200):
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/healthz"):
            return
        sleep(0.05)
    raise AssertionError(f"the service is not reached on port {port}")


KILLED, SHUT_DOWN, ROW = "killed with -9", "shut down after its grace", "a row too long"


@pytest.mark.parametrize("fault", [KILLED, SHUT_DOWN, ROW])
def test_a_torn_file_is_noticed(
    fault: str, spawn: StartProcess, stored: Path, ways: dict[str, int], tmp_path: Path
) -> None:
    """Each client on each way says that the transfer failed, but for those that cannot tell."""
    flags = (*ONE_AT_A_TIME, "--grace", "0.1")
    service = spawn(*flags, database=stored, port=ways[DIRECT])
    clients = [client for client in CLIENTS if shutil.which(PROGRAMS.get(client, "curl"))]
    cells = [(client, way) for way in ways for client in clients]
    for port in ways.values():
        wait_for_way(port)
    path = FAILING if fault == ROW else STANDING
    with ThreadPoolExecutor(len(cells)) as pool:
        transfers = {
            cell: pool.submit(
                transfer, cell[0], f"http://127.0.0.1:{ways[cell[1]]}{path}", tmp_path / f"{number}"
            )
            for number, cell in enumerate(cells)
        }
        if fault != ROW:
            wait_until_all_stand(service, len(set(cells) - set(REFUSED)))
            code = service.stop(signal.SIGKILL if fault == KILLED else signal.SIGTERM)
            assert code == (-signal.SIGKILL if fault == KILLED else 0)
    assert "outcome=complete" not in service.log, "a file was whole"
    ends = {cell: done.result() for cell, done in transfers.items()}
    print(matrix(fault, clients, list(ways), ends))
    for (client, way), end in ends.items():
        if isinstance(end, TornError):
            assert (end.size == 0) == ((client, way) in REFUSED), f"{client}, {way}: no file began"
        else:
            assert blind(client, way), f"{client} takes a torn file for whole, {way}: {fault}"


def matrix(
    fault: str, clients: list[str], ways: list[str], ends: dict[tuple[str, str], TornError | int]
) -> str:
    """What a failure shows, and `pytest -s`: who noticed, and how."""
    rows = [[fault, *ways], ["---"] * (1 + len(ways))]
    for client in clients:
        found = [ends[client, way] for way in ways]
        rows.append([client, *(str(end) if isinstance(end, TornError) else "NO" for end in found)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_the_readme_says_who_cannot_tell() -> None:
    """Whoever cannot tell stands in the README."""
    text = " ".join(README.split())
    for those in CANNOT_TELL:
        assert those.fault in text


# -- trying again ------------------------------------------------------------------------------


def test_what_a_second_try_leaves(spawn: StartProcess, stored: Path, tmp_path: Path) -> None:
    """A client that tries again once the service is back ends with a whole file or says that it
    has none, but for a curl whose output the shell redirects: it has a part before the whole."""
    service = spawn(*ONE_AT_A_TIME, database=stored)
    url, port = service.url + STANDING, service.port
    again = ["--retry", "20", "--retry-delay", "1", "--retry-all-errors"]
    wget = ["wget", "--quiet", "--header", AUTHORIZATION_LINE, "--retry-connrefused", "-O"]
    named, redirected, glued = (tmp_path / name for name in ("named", "redirected", "glued"))
    with redirected.open("wb") as output, ExitStack() as stack:
        tries = [
            stack.enter_context(subprocess.Popen(command, stdout=output))
            for command in (
                [*_CURL, *again, url, "--output", str(named)],
                [*_CURL, *again, url],
                [*wget, str(glued), url],
            )
        ]
        # Others beside them, for whom nobody waits: alone, the three would not stand for long.
        others = [
            stack.enter_context(subprocess.Popen([*_CURL, url, "--output", "/dev/null"]))
            for _ in range(20)
        ]
        wait_until_all_stand(service, len(tries) + len(others))
        service.stop(signal.SIGKILL)
        spawn(database=stored, port=port)
        codes = [each.wait(SECONDS) for each in tries]
    whole = urlopen(Request(url, headers=AUTHORIZATION)).read()
    assert codes == [0, 0, 8]
    assert named.read_bytes() == whole
    assert redirected.read_bytes().endswith(whole)
    assert redirected.stat().st_size > len(whole)
    assert whole.startswith(glued.read_bytes())
