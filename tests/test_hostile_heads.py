"""What a client makes of heads and bodies that nobody reads is inside the bound's figure."""

import socket
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic

import psutil
import pytest

from service.settings import KIB
from service.stream.bound import REQUEST_BYTES
from simulator.probe import memory
from tests.conftest import (
    AUTHORIZATION_LINE,
    TOKEN,
    Process,
    Running,
    StartProcess,
    StartService,
    small_reader,
    until,
)
from tests.test_bad_input import BAD, IS_JSON, TOO_LARGE, check, raw, request

CONNECTIONS = 150
WARM = 20
"""Connections that come first and go: what a process takes once is not what a connection costs."""
SEND_SECONDS = 20
"""Most seconds for the clients together to send what the service takes of their bytes."""
LOOKS = 10
"""Looks at the memory, the highest of which counts; a tenth of a second is between them."""


def get(path: str, *headers: bytes) -> bytes:
    """A GET without a token."""
    return b"\r\n".join([f"GET {path} HTTP/1.1".encode(), b"Host: localhost", *headers, b"", b""])


def short(count: int, value: bytes = b"v") -> list[bytes]:
    """So many headers with names of a few letters."""
    return [b"h%d: %s" % (number, value) for number in range(count)]


def post(*headers: bytes) -> bytes:
    """The head of a POST without a token."""
    return get("/tasks", *headers).replace(b"GET", b"POST", 1)


CHUNKED = b"Transfer-Encoding: chunked"
BLOCKED = get("/openapi.json") * 2
"""Two answers that are larger than all buffers of a client that does not read."""
SPACE = zlib.compressobj(9, zlib.DEFLATED, 31)
GZIP = SPACE.compress(b"[" + b" " * 1_990_000) + SPACE.flush()
"""1,979 bytes that inflate to 1.99 MB."""
MANY = b"[%s]" % b",".join([b'{"title":"a","priority":1}'] * 150)
"""As many tasks as a body has room for that needs no place."""

ATTACKS = {
    "pipelined heads": BLOCKED + get("/healthz", *short(120)) * 34,
    "pipelined heads without headers": BLOCKED + get("/healthz") * 2_000,
    "answers only": get("/openapi.json", *short(50)) * 20,
    "wide text": get("/openapi.json", "X: \N{PARTY POPPER}".encode() + b"a" * 7_500) * 20,
    "a head too large": BLOCKED + get("/", *short(120, b"x" * 400)),
    "a head that drips": BLOCKED + get("/", *short(100, b"x" * 20))[:-2],
    "a body that nobody reads": BLOCKED + post(b"Content-Length: 99999") + bytes(60_000),
    "tiny chunks": BLOCKED + post(CHUNKED) + b"2\r\nab\r\n" * 8_000,
    "a chunk that never comes": BLOCKED + post(CHUNKED) + b"1;" + b"e" * 60_000,
    "a long trailer": BLOCKED + post(CHUNKED) + b"0\r\n" + b"A: %s\r\n" % (b"t" * 600) * 100,
    "gzip without its end": post(
        AUTHORIZATION_LINE.encode(),
        IS_JSON,
        b"Content-Encoding: gzip",
        b"Content-Length: %d" % len(GZIP),
    )
    + GZIP[:-4],
    "answers to small bodies": post(
        AUTHORIZATION_LINE.encode(), IS_JSON, b"Content-Length: %d" % len(MANY)
    ).join([b"", *[MANY] * 12]),
}


@contextmanager
def attackers(service: Process, count: int, sent: bytes) -> Iterator[None]:
    """Clients with small receive buffers that send all this, as far as it is taken."""
    with ExitStack() as stack:
        waiting: deque[tuple[socket.socket, memoryview]] = deque()
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
            client.connect(("127.0.0.1", service.port))
            client.settimeout(0.2)
            waiting.append((client, memoryview(sent)))
        deadline = monotonic() + SEND_SECONDS
        stuck = 0
        while waiting and stuck < len(waiting) and monotonic() < deadline:
            client, left = waiting.popleft()
            try:
                left = left[client.send(left) :]
                stuck = 0
            except TimeoutError:
                stuck += 1
                client.settimeout(0.001)  # it has had its time, and nothing reads
            except OSError:
                continue
            if left:
                waiting.append((client, left))
        yield


def dirty(service: Process) -> int:
    """The memory of the service, in bytes; the highest of a few looks."""
    highest = 0
    for _ in range(LOOKS):
        highest = max(highest, memory(service.popen.pid).private)
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(service.popen.pid).wait(0.1)
    return highest


@pytest.mark.parametrize("sent", ATTACKS.values(), ids=ATTACKS)
def test_a_connection_costs_what_the_bound_counts(spawn: StartProcess, sent: bytes) -> None:
    """Whatever clients send and do not read, each costs the process less than its figure."""
    service = spawn("--head-timeout", "60", "--body-timeout", "60")
    with attackers(service, WARM, sent):
        pass
    before = dirty(service)
    with attackers(service, CONNECTIONS, sent):
        cost = (dirty(service) - before) / CONNECTIONS
    assert cost < REQUEST_BYTES, f"{cost / KIB:.0f} KiB for each connection"


async def test_who_takes_no_answer_is_dropped_like_an_idle_one(start: StartService) -> None:
    """A long answer that nobody reads holds its connection no longer than the head timeout."""
    service = await start(head_timeout=0.5, stall_timeout=2)
    with small_reader(service.port, BLOCKED) as client:
        await until(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)


REFUSED = {
    "many short headers": (request("GET /tasks", *[b"X: "] * 70), TOO_LARGE),
    "head without an end": (request("GET /tasks", b"X: " + b"a" * 9_000)[:-4], TOO_LARGE),
    "wide text": (request("GET /tasks", "X: \N{PARTY POPPER}".encode() + b"a" * 3_000), TOO_LARGE),
    "bare line feeds": (b"GET /healthz HTTP/1.1\nHost: localhost\n\n" * 3, BAD),
    "a bare line feed at the end": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n" * 3, BAD),
    "chunk that never comes": (
        request("POST /tasks", IS_JSON, b"Transfer-Encoding: chunked") + b"1;" + b"e" * 20_000,
        BAD,
    ),
    "long trailer": (
        request("POST /tasks", IS_JSON, b"Transfer-Encoding: chunked")
        + b"0\r\n"
        + b"A: b\r\n" * 2_000,
        BAD,
    ),
    "two tokens": (
        request("GET /tasks", *[b"Authorization: Bearer " + TOKEN.encode()] * 2),
        (400, "authorization_repeated"),
    ),
}
"""Heads and bodies that are no longer read once they are too large, and their like."""


@pytest.mark.parametrize(("sent", "expected"), REFUSED.values(), ids=REFUSED)
async def test_what_is_too_large_is_refused_before_its_end(
    start: StartService, sent: bytes, expected: tuple[int, str]
) -> None:
    """What takes too much gets its answer at once, whether or not it ever ends."""
    service: Running = await start()
    check(*await raw(service, sent), expected)
