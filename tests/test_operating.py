"""What is shipped for operators, run as it is shipped: nginx and HAProxy in front of Weir keep
its promises, and the unit and the container file fit its settings."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from time import sleep

import pytest
from pydantic import ByteSize, TypeAdapter

from service.app import LINGER_SECONDS
from service.engines import appetite
from service.settings import KIB, MIB, Settings
from service.stream.bound import OTHER_FILES, Bound
from service.tasks.generate import tasks
from service.web.problems import CONTENT_TYPE as PROBLEM
from simulator.fleet_process import Asking, FleetProcess
from simulator.launch import free_port, started
from simulator.probe import memory
from tests.conftest import AUTHORIZATION_LINE, TOKEN, Process, StartProcess
from tests.databases import SQLite
from tests.test_failures import BROKEN, EXPORT, curl, downloaded, slow_curl, wait_for_log

FOLDER = Path(__file__).parent.parent / "scripts" / "operate"
NDJSON = "/tasks/stream.ndjson"
NGINX, HAPROXY = "nginx", "haproxy"
NGINX_MAIN = """
daemon off; user root; pid nginx.pid; error_log nginx.log;
events { worker_connections 4096; }
http {
    access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include nginx.conf;
}
"""
"""What surrounds an included file; all that nginx writes stays in its folder."""
COMMANDS = {
    NGINX: ("nginx.conf", "main.conf", "nginx", "-p", "{folder}", "-c", "{folder}/main.conf"),
    HAPROXY: ("haproxy.cfg", "main.conf", "haproxy", "-db", "-f", "{folder}/haproxy.cfg"),
}
"""The file that is shipped, what surrounds it, and how they are run."""
LISTEN = "127.0.0.1:8080"
SERVER = {
    NGINX: ("    server 127.0.0.1:3000;", "    server 127.0.0.1:{0};"),
    HAPROXY: ("    server weir1 127.0.0.1:3000", "    server weir{1} 127.0.0.1:{0}"),
}
"""The line that names a copy of the service, and what it becomes for each copy of a test."""
OWN = {"connection", "date", "keep-alive", "server", "transfer-encoding", "weir-stream-id"} | {
    "x-accel-buffering"
}
"""Heads that belong to one connection or one response, and one that is meant for nginx."""
ROWS = 200_000
FEW = 10
"""Readers where each costs megabytes."""
HELD_BYTES = 512 * KIB
"""Most that proxy and kernels may hold for a stalled reader; 210 to 260 KiB were measured, and
more than 4 MiB with the system's own buffers."""
PROCESS_BYTES = 64 * KIB
"""Most that the proxy itself may take for one; 18 KiB were measured of nginx, 53 of HAProxy."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose export is far larger than what may be held; nobody writes to it."""
    database = SQLite(tmp_path_factory.mktemp("stored") / "tasks.db")
    asyncio.run(database.fill(tasks(ROWS, seed=9)))
    return database.path


@dataclass
class Proxy:
    """A proxy that runs. port: where it listens. pid: its first process."""

    kind: str
    port: int
    pid: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


StartProxy = Callable[..., Proxy]


@pytest.fixture(
    params=[
        pytest.param(
            kind,
            marks=pytest.mark.skipif(not shutil.which(kind), reason=f"{kind} is not installed"),
        )
        for kind in (NGINX, HAPROXY)
    ]
)
def front(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartProxy]:
    """Start the proxy from the file that is shipped: `front(service, other)`.

    The addresses are those of the test; changes: other text to be replaced, by what.
    """
    kind: str = request.param
    with ExitStack() as stack:

        def begin(*services: Process, changes: dict[str, str] | None = None) -> Proxy:
            proxy = Proxy(kind, free_port())
            line, pattern = SERVER[kind]
            copies = (pattern.format(each.port, place) for place, each in enumerate(services, 1))
            known = {line: "\n".join(copies), LISTEN: f"127.0.0.1:{proxy.port}"}
            (folder := tmp_path / kind).mkdir()
            name, main, *command = COMMANDS[kind]
            (folder / main).write_text(NGINX_MAIN)
            (folder / name).write_text(shipped(name, known | (changes or {})))
            command = [word.format(folder=folder) for word in command]
            proxy.pid = stack.enter_context(started(command, proxy.url))
            return proxy

        yield begin


def shipped(name: str, changes: dict[str, str]) -> str:
    """A file's text with each of these replaced, which stands in it once."""
    text = (FOLDER / name).read_text("utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} in {name}"
        text = text.replace(old, new)
    return text


def behind(service: Process, proxy: Proxy) -> Process:
    """The service as it is seen through the proxy."""
    return replace(service, port=proxy.port)


def answer(
    asked: Process | Proxy, path: str, method: str = "GET", secret: str = TOKEN
) -> tuple[int, dict[str, str], bytes]:
    """Status, heads that another response would have as well, and body."""
    with closing(HTTPConnection("127.0.0.1", asked.port, timeout=60)) as connection:
        connection.request(method, path, headers={"Authorization": f"Bearer {secret}"})
        response = connection.getresponse()
        heads = {name.lower(): value for name, value in response.headers.items()}
        heads = {name: value for name, value in heads.items() if name not in OWN}
        return response.status, heads, response.read()


def asking(proxy: Proxy) -> Asking:
    return Asking(proxy.url + EXPORT, (AUTHORIZATION_LINE,))


# -- through a proxy as without one ------------------------------------------------------------


def test_a_download_is_the_same_through_a_proxy(
    front: StartProxy, spawn: StartProcess, stored: Path
) -> None:
    """Both exports come through to the last byte, at whatever heads they have without a proxy."""
    service = spawn(database=stored)
    proxy = front(service)
    for path in (EXPORT, NDJSON):
        direct = answer(service, path)
        assert direct[2].count(b"\n") >= ROWS
        assert answer(proxy, path) == direct


def test_other_answers_are_the_same_through_a_proxy(
    front: StartProxy, spawn: StartProcess, stored: Path
) -> None:
    """HEAD, and each problem that the service tells of, come through as they are."""
    service = spawn("--max-streams", "1", database=stored)
    proxy = front(service)

    def compare(status: int, path: str, **request: str) -> None:
        through = answer(proxy, path, **request)
        assert through == answer(service, path, **request)
        assert through[0] == status
        assert through[1]["content-type"] == PROBLEM or "method" in request

    compare(200, EXPORT, method="HEAD")
    compare(404, "/tasks/999999999")
    compare(400, EXPORT + "?limit=-1")
    compare(401, EXPORT, secret="wrong")
    with FleetProcess(asking(proxy)) as fleet:
        assert fleet.reach(1).standing == 1
        compare(503, EXPORT)


def test_http_1_0_is_refused(front: StartProxy, spawn: StartProcess, stored: Path) -> None:
    """A client to whom a proxy could not show that a file was cut off gets none."""
    proxy = front(spawn(database=stored))
    result = curl(proxy.url, EXPORT, "--http1.0", "--include")
    assert b" 505 " in result.stdout
    assert b"id,title" not in result.stdout


# -- a file that ends is whole -----------------------------------------------------------------


def test_a_killed_service_breaks_the_transfer(
    front: StartProxy, spawn: StartProcess, stored: Path
) -> None:
    """A copy that is killed in mid-stream is never taken for the end of the file, nor does
    another copy go on with it; from then on all is answered by the other."""
    first, second = spawn(database=stored), spawn(database=stored)
    proxy = front(first, second)
    whole = curl(second.url).stdout
    slow = slow_curl(behind(first, proxy), "200k")
    first.stop(signal.SIGKILL)
    for _ in range(10):
        assert answer(proxy, "/tasks?limit=1")[0] == 200
    assert curl(proxy.url).stdout == whole
    assert slow.wait(60) in BROKEN
    part = downloaded(first).read_bytes()
    assert 0 < len(part) < len(whole)
    assert whole.startswith(part)


def test_a_row_that_fails_breaks_the_transfer(
    front: StartProxy, spawn: StartProcess, table: Path
) -> None:
    """A stream that the service breaks off is broken off for the client, too."""
    asyncio.run(SQLite(table).lengthen(150_000, "x" * 40_000))
    proxy = front(spawn(database=table))
    result = curl(proxy.url)
    assert result.returncode in BROKEN
    assert b"x" * 100 not in result.stdout
    assert b"HTTP/1.1" not in result.stdout


def test_a_copy_that_shuts_down_finishes_its_streams(
    front: StartProxy, spawn: StartProcess, stored: Path
) -> None:
    """After SIGTERM a download that is under way ends whole, and new ones go elsewhere."""
    first, second = (spawn("--grace", "30", database=stored) for _ in range(2))
    proxy = front(first, second)
    slow = slow_curl(behind(first, proxy), "4M")
    first.popen.send_signal(signal.SIGTERM)
    wait_for_log(first, "shutting down")
    whole = curl(proxy.url)
    assert whole.returncode == 0
    assert slow.wait(60) == 0
    assert downloaded(first).read_bytes() == whole.stdout
    assert first.popen.wait(30) == 0


# -- backpressure ------------------------------------------------------------------------------


def sent(service: Process) -> int:
    """Bytes of bodies that the service has written, once that number has come to rest."""
    before = -1
    for _ in range(100):
        text = curl(service.url, "/metrics").stdout.decode()
        found = re.findall(r"^weir_bytes_total\{.*\} (\S+)$", text, re.MULTILINE)
        now = round(sum(map(float, found)))
        if now == before:
            return now
        before = now
        sleep(0.3)
    raise AssertionError(f"{before:,} bytes, and still more")


def hold(service: Process, proxy: Proxy, readers: int = 120) -> tuple[float, float]:
    """What a reader that has stopped costs, in bytes: on the way from the service to it, and
    in the proxy's processes."""
    with FleetProcess(asking(proxy)) as fleet:
        fleet.reach(warm := readers // 5)
        sent(service)
        start = memory(proxy.pid).private
        assert fleet.reach(readers).standing == readers
        written = sent(service)
        grown = memory(proxy.pid).private - start
        there = sum(reader.received + reader.waiting for reader in fleet.outcomes())
        assert fleet.counts().standing == readers
    return (written - there) / readers, grown / (readers - warm)


def test_backpressure_reaches_the_service(
    front: StartProxy, spawn: StartProcess, stored: Path
) -> None:
    """Behind a proxy, too, the service waits for readers that stop, and little is held for them
    on the way."""
    service = spawn(database=stored)
    held, process = hold(service, proxy := front(service))
    assert held < HELD_BYTES, f"{proxy.kind}: {held / KIB:.0f} KiB on the way"
    assert process < PROCESS_BYTES, f"{proxy.kind}: {process / KIB:.0f} KiB in the process"


SYSTEM_BUFFERS = {NGINX: {" sndbuf=64k": ""}, HAPROXY: {"tune.sndbuf.client 65536": ""}}
BUFFERING = {"proxy_buffering off;": "proxy_ignore_headers X-Accel-Buffering;"}


def test_the_systems_send_buffer_is_seen(
    front: StartProxy, spawn: StartProcess, stored: Path, request: pytest.FixtureRequest
) -> None:
    """The assertion above can fail: it does when the kernel chooses the size of its buffers."""
    service = spawn(database=stored)
    kind = request.node.callspec.params["front"]
    held, _ = hold(service, front(service, changes=SYSTEM_BUFFERS[kind]), FEW)
    assert held > 2 * HELD_BYTES


@pytest.mark.parametrize("front", [NGINX], indirect=True)
@pytest.mark.skipif(not shutil.which(NGINX), reason="nginx is not installed")
def test_a_buffering_proxy_is_seen(front: StartProxy, spawn: StartProcess, stored: Path) -> None:
    """The assertion above can fail: it does when nginx buffers, and the service gets rid of
    whole exports that nobody reads."""
    service = spawn(database=stored)
    held, _ = hold(service, front(service, changes=BUFFERING), FEW)
    assert held > 8 * MIB
    assert b'outcome="complete"' in curl(service.url, "/metrics").stdout


def test_no_proxy_gives_up_before_the_service_does() -> None:
    """A client may stand still for as long as the service's own --stall-timeout allows."""
    for name, words in {
        "nginx.conf": ("send_timeout", "proxy_read_timeout"),
        "haproxy.cfg": ("timeout client", "timeout server"),
    }.items():
        text = (FOLDER / name).read_text("utf-8")
        for word in words:
            found = re.search(rf"^\s*{word} (\d+)m;?$", text, re.MULTILINE)
            assert found, word
            # With some to spare: what the proxy holds makes progress come in larger steps.
            assert int(found[1]) * 60 >= 2 * Settings().stall_timeout, word


# -- unit and container file -------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    """The keys of the unit with the values of each."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / "weir.service").read_text("utf-8").splitlines():
        key, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def container() -> dict[str, str]:
    """The instructions of the container file; of several of one kind the last."""
    text = (FOLDER / "Containerfile").read_text("utf-8").replace("\\\n", " ")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {word: rest.strip() for word, _, rest in (line.partition(" ") for line in lines)}


def environment() -> dict[str, str]:
    """The settings that the unit makes by environment variables."""
    pairs = (pair.split("=", 1) for pair in unit()["Environment"])
    return {name.removeprefix("WEIR_").lower(): value for name, value in pairs}


def test_every_flag_that_is_shipped_exists() -> None:
    """Unit and container file name settings that there are, with values that they take."""
    started_with = unit()["ExecStart"][0].split() + json.loads(container()["ENTRYPOINT"])
    flags = [word for word in started_with if word.startswith("--")]
    assert "--tokens" in flags
    for flag in flags:
        assert flag.removeprefix("--").replace("-", "_") in Settings.model_fields
    Settings.model_validate(environment())


def test_the_limits_of_the_unit_fit_the_defaults() -> None:
    """The unit leaves the service the files, the memory and the time to end that it wants."""
    settings, found = Settings.model_validate(environment()), unit()
    wants = appetite(settings)
    wanted = settings.max_connections + OTHER_FILES + wants.files
    assert int(found["LimitNOFILE"][0]) >= wanted
    assert int(found["TimeoutStopSec"][0]) > settings.grace + LINGER_SECONDS
    assert found["KillSignal"] == ["SIGTERM"]
    assert TypeAdapter(ByteSize).validate_python(found["MemoryMax"][0] + "iB") > int(
        settings.memory_limit
    )
    # As many streams as by default fit into that.
    assert Bound.of(settings, 64 * MIB, wants.readers).total <= settings.memory_limit


def test_the_containers_health_check_tells(spawn: StartProcess) -> None:
    """The check of the container file passes while the service is ready, and fails without it."""
    service, found = spawn(), container()
    assert found["EXPOSE"] == str(Settings().port)
    _, *arguments = json.loads(found["HEALTHCHECK"].partition(" CMD ")[2])
    check = [sys.executable, *arguments]
    check[-1] = check[-1].replace(f":{Settings().port}/", f":{service.port}/")
    assert subprocess.run(check, check=False).returncode == 0
    service.stop()
    assert subprocess.run(check, check=False, capture_output=True).returncode != 0
