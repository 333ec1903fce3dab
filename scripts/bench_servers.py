"""The servers of the benchmark: how they are run, and the two that Weir is compared with.

    python scripts/bench_servers.py fastapi|aiohttp DATABASE

serves the same two exports, written as one usually writes them: standard library `sqlite3`,
`csv` and `json`, a thousand rows at a time. It listens on a free port of 127.0.0.1 and says so
on standard error, in a JSON line like Weir's. The bodies are the same bytes as Weir's.
"""

import asyncio
import csv
import io
import json
import os
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Self

import click

SERVERS = Path(__file__)
AUTHORIZATION = "Authorization: Bearer secret-user-123"  # the development token
CSV, NDJSON = "/tasks/export.csv", "/tasks/stream.ndjson"
START_SECONDS, STOP_SECONDS, TRANSFER_SECONDS = 20, 20, 600

ROWS_A_CHUNK = 1000
QUERY = "SELECT id, title, priority, status FROM task ORDER BY id"
COLUMNS = ("id", "title", "priority", "status")


class Server:
    """A server in a process of its own, its log in a file; ended with the context."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command, self._log = command, log

    def __enter__(self) -> Self:
        # What is set for another Weir must not change what is measured.
        environment = {key: value for key, value in os.environ.items() if key[:5] != "WEIR_"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stderr=log, env=environment)
        self.pid = self._process.pid
        try:
            self.url = self._address()
        except BaseException:
            self.__exit__()
            raise
        self.port = int(self.url.rsplit(":", 1)[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _address(self) -> str:
        for _ in range(START_SECONDS * 20):
            for line in self._log.read_text("utf-8").splitlines():
                if '"listening"' in line and line.endswith("}"):
                    return str(json.loads(line)["address"])
            if self._process.poll() is not None:
                break
            sleep(0.05)
        text = self._log.read_text("utf-8").strip().replace("\n", "; ")
        raise click.ClickException(f"{' '.join(self._command[:3])} did not start: {text[-500:]}")


def run(command: Sequence[str]) -> tuple[float, str]:
    """Seconds that a command took from start to end, and what it printed; /dev/null if asked."""
    start = perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, check=True, timeout=TRANSFER_SECONDS, encoding="utf-8"
        )
    except subprocess.CalledProcessError as fault:
        said = fault.stderr.strip()[-300:]
        raise click.ClickException(f"{command[0]} exit code {fault.returncode}: {said}") from None
    except (subprocess.TimeoutExpired, OSError) as fault:
        raise click.ClickException(str(fault)) from None
    return perf_counter() - start, done.stdout


def fetch(server: Server, path: str) -> list[str]:
    """A download by curl that prints its bytes and its seconds."""
    figures = "%{size_download} %{time_total}"
    command = ["curl", "-sS", "--fail", "--http1.1", "-o", "/dev/null", "-w", figures]
    return [*command, "-H", AUTHORIZATION, server.url + path]


def download(server: Server, path: str) -> tuple[int, float]:
    """Bytes and seconds of one download, by curl's own clock."""
    size, seconds = run(fetch(server, path))[1].split()
    return int(size), float(seconds)


def to_nowhere(command: Sequence[str]) -> float:
    """Seconds that a command takes to write its output to /dev/null."""
    start = perf_counter()
    try:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=TRANSFER_SECONDS)
    except subprocess.SubprocessError as fault:
        raise click.ClickException(str(fault)) from None
    return perf_counter() - start


def time_to_body(server: Server, path: str = CSV) -> float:
    start = perf_counter()
    with socket.create_connection(("127.0.0.1", server.port), timeout=START_SECONDS) as client:
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{AUTHORIZATION}\r\n\r\n".encode()
        )
        answer = b""
        while not answer.partition(b"\r\n\r\n")[2]:
            piece = client.recv(65_536)
            if not piece:
                raise click.ClickException(f"no body came: {answer[:200]!r}")
            answer += piece
        seconds = perf_counter() - start
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if b" 200 " not in answer[:20]:
        raise click.ClickException(f"not answered with 200: {answer[:200]!r}")
    return seconds


def csv_chunks(database: str) -> Iterator[str]:
    """All tasks as CSV, in pieces."""
    connection = sqlite3.connect(database, check_same_thread=False)
    try:
        rows = connection.execute(QUERY)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        while batch := rows.fetchmany(ROWS_A_CHUNK):
            writer.writerows(batch)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    finally:
        connection.close()


def ndjson_chunks(database: str) -> Iterator[str]:
    """All tasks as NDJSON, in pieces."""
    connection = sqlite3.connect(database, check_same_thread=False)
    # An encoder of its own: json.dumps makes a new one for each row when it is given options.
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    try:
        rows = connection.execute(QUERY)
        while batch := rows.fetchmany(ROWS_A_CHUNK):
            yield "".join(
                encode({"id": str(key), "title": title, "priority": priority, "status": status})
                + "\n"
                for key, title, priority, status in batch
            )
    finally:
        connection.close()


def serve_fastapi(database: str, listener: socket.socket) -> None:
    """A FastAPI StreamingResponse over a plain generator, under uvicorn."""
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    @app.get("/tasks/export.csv")
    def export() -> StreamingResponse:
        return StreamingResponse(csv_chunks(database), media_type="text/csv")

    @app.get("/tasks/stream.ndjson")
    def stream() -> StreamingResponse:
        return StreamingResponse(ndjson_chunks(database), media_type="application/x-ndjson")

    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def serve_aiohttp(database: str, listener: socket.socket) -> None:
    """An aiohttp handler with awaited writes; the rows are made in a thread."""
    from aiohttp import web

    async def send(request: web.Request, chunks: Iterator[str], kind: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            await response.write(chunk.encode())
        await response.write_eof()
        return response

    async def export(request: web.Request) -> web.StreamResponse:
        return await send(request, csv_chunks(database), "text/csv")

    async def stream(request: web.Request) -> web.StreamResponse:
        return await send(request, ndjson_chunks(database), "application/x-ndjson")

    app = web.Application()
    app.router.add_get("/tasks/export.csv", export)
    app.router.add_get("/tasks/stream.ndjson", stream)
    web.run_app(app, sock=listener, print=None, access_log=None)


def main() -> None:
    kind, database = sys.argv[1:]
    serve = {"fastapi": serve_fastapi, "aiohttp": serve_aiohttp}[kind]
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(json.dumps({"event": "listening", "address": address}), file=sys.stderr, flush=True)
    serve(database, listener)


if __name__ == "__main__":
    main()
