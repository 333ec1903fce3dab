"""What goes on beside the slow readers of a soak: writers, fast and slow downloads, all checked."""

import http.client
import json
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, NamedTuple, Self

from bench_servers import AUTHORIZATION, Server
from soak_files import CSV, NDJSON, Expected, Row, check, digest_of, versioned

from service.tasks.generate import tasks as made_up

GENERATE_SEED = 1
WRITES_A_SECOND = 20
"""A modest rate: it moves the table under all downloads, and leaves them the processors."""
MOST_KEPT = 500
"""Tasks of the writer's that are stored at once, so that the table does not grow by them."""
MOST_AT_ONCE = 20
"""Tasks in one POST: some bodies pass the 8 KiB from which they wait for a place."""
GONE_KEPT = 10_000
"""Newest deleted ids that no download may show: so many are looked up in no time."""
ANSWER_SECONDS = 30.0
TRANSFER_SECONDS = 120
"""Longest download: a thousand times a fast one's, ten times a slow one's."""
SLOW_ROWS = 12_000
SLOW_RATE = 128 * 1024
"""Bytes a second of a slow download, which takes about 5 s as CSV and 9 s as NDJSON."""
PAUSE_SECONDS = 0.2
"""Between two downloads of one client."""
FAULTS_KEPT = 20
FAST, SLOW = 2, 2
"""Downloads in progress of either kind: one a format."""


class Baseline(NamedTuple):
    """What was stored and what was gone when a download began."""

    stored: dict[int, int]
    gone: frozenset[int]


class Ledger:
    """What the writer was told: ids with the version that was acknowledged, and ids deleted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._stored: dict[int, int] = {}
        self._leaving: set[int] = set()
        self._gone: deque[int] = deque(maxlen=GONE_KEPT)

    def store(self, key: int, version: int) -> None:
        with self._lock:
            self._stored[key] = version

    def leave(self, key: int) -> None:
        """From before a DELETE is sent: the task may be there, or not any more."""
        with self._lock:
            del self._stored[key]
            self._leaving.add(key)

    def gone(self, key: int) -> None:
        with self._lock:
            self._leaving.discard(key)
            self._gone.append(key)

    def stored(self) -> dict[int, int]:
        with self._lock:
            return dict(self._stored)

    def baseline(self) -> Baseline:
        with self._lock:
            return Baseline(dict(self._stored), frozenset(self._gone))

    def expected(self, generated: int, digest: bytes, before: Baseline) -> Expected:
        """What a download that has ended must hold: what was there before, and is there still."""
        with self._lock:
            stayed = {key: each for key, each in before.stored.items() if key in self._stored}
        return Expected(generated, digest, stayed, before.gone)


@dataclass
class Tally:
    """Counts of one kind of download, or of writes: `bad` are those with faults."""

    files: int = 0
    rows: int = 0
    size: int = 0
    bad: int = 0


@dataclass
class Load:
    """Threads that write and download for as long as the context lasts.

    rows: generated tasks, seed 1, which nobody changes. tallies: by kind of work.
    """

    server: Server
    folder: Path
    rows: int
    seed: int
    tallies: dict[str, Tally] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    crash: str = ""

    def __post_init__(self) -> None:
        self.ledger = Ledger()
        self.fast_may_go = Event()
        self._digests = {rows: digest_of(generated(rows)) for rows in {self.rows, self.slow_rows}}
        self._stop, self._lock, self._hurry = Event(), Lock(), False
        self._curls: set[subprocess.Popen[str]] = set()
        works: list[Callable[[], None]] = [self._write]
        for route in (CSV, NDJSON):
            works += [partial(self._download_fast, route), partial(self._download_slowly, route)]
        self._threads = [Thread(target=self._run, args=(work,), daemon=True) for work in works]

    @property
    def slow_rows(self) -> int:
        return min(self.rows, SLOW_ROWS)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._end_curls()
        self.finish()

    def finish(self) -> None:
        """Begin nothing more, and return when what was begun has ended."""
        self._stop.set()
        deadline = monotonic() + TRANSFER_SECONDS + ANSWER_SECONDS
        for thread in self._threads:
            if thread.ident:
                thread.join(max(0.0, deadline - monotonic()))

    def check_last(self) -> None:
        """Download both formats now that nobody writes: no task is missing, and none too many."""
        known = Expected(self.rows, self._digests[self.rows], self.ledger.stored(), exact=True)
        for route in (CSV, NDJSON):
            self._download(f"last {route}", route, self.rows, known=known)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as fault:  # it must not end in silence: the soak says so, and stops
            self.crash = self.crash or f"{type(fault).__name__}: {fault}"

    def _end_curls(self) -> None:
        with self._lock:
            self._hurry = True
            for curl in self._curls:
                curl.terminate()

    # downloads

    def _download_fast(self, route: str) -> None:
        while not self._stop.is_set():
            if self.fast_may_go.wait(PAUSE_SECONDS):
                self._download(f"fast {route}", route, self.rows)
                self._stop.wait(PAUSE_SECONDS)

    def _download_slowly(self, route: str) -> None:
        rows = self.slow_rows
        known = Expected(rows, self._digests[rows], exact=True)  # nothing behind the limit
        limits = ("--limit-rate", str(SLOW_RATE))
        while not self._stop.wait(PAUSE_SECONDS):
            self._download(f"slow {route}", f"{route}?limit={rows}", rows, *limits, known=known)

    def _download(
        self, name: str, target: str, rows: int, *flags: str, known: Expected | None = None
    ) -> None:
        """One file by curl, checked. known: what it holds; else what the ledger says."""
        path = self.folder / name.replace("/", "-").replace(" ", "")
        before = self.ledger.baseline()
        faults, size = self._curl(path, target, flags)
        if faults is None:
            return  # the soak was stopped
        found = 0
        if not faults:
            known = known or self.ledger.expected(rows, self._digests[rows], before)
            found, told = check(path, target.partition("?")[0], known)
            faults = list(told)
        path.unlink(missing_ok=True)
        self._note(name, faults, rows=found, size=size)

    def _curl(
        self, path: Path, target: str, flags: tuple[str, ...]
    ) -> tuple[list[str] | None, int]:
        """What was wrong, None if it was us who ended it; and the bytes of the body."""
        command = ["curl", "-sS", "--fail", "--max-time", str(TRANSFER_SECONDS), "-o", str(path)]
        command += ["-w", "%{size_download}", "-H", AUTHORIZATION, *flags, self.server.url + target]
        with self._lock:
            if self._hurry:
                return None, 0
            curl = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            self._curls.add(curl)
        said, error = curl.communicate()
        with self._lock:
            self._curls.discard(curl)
        if self._hurry:
            return None, 0
        if curl.returncode:
            return [f"curl's exit code is {curl.returncode}: {error.strip()[-200:]}"], 0
        return [], int(said)

    # writes

    def _write(self) -> None:
        """POST, PATCH and DELETE tasks of its own, one after the other, at an even rate."""
        random = Random(self.seed)
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.port, timeout=ANSWER_SECONDS
        )
        due = monotonic()
        while not self._stop.wait(max(0.0, due - monotonic())):
            due = max(due + 1 / WRITES_A_SECOND, monotonic() - 1)
            try:
                name, fault = self._write_one(random, connection)
            except (OSError, http.client.HTTPException) as error:
                name, fault = "write", f"{type(error).__name__}: {error}"
                connection.close()
            self._note(name, [fault] if fault else [])
        connection.close()

    def _write_one(self, random: Random, connection: http.client.HTTPConnection) -> tuple[str, str]:
        """One write: its method, and what was wrong with its answer."""
        stored = self.ledger.stored()
        room = MOST_KEPT - len(stored)
        method = random.choice(("POST", "PATCH", "DELETE"))
        if not stored or (method == "POST" and room > 0):
            tasks = [_task(random, 1) for _ in range(random.randint(1, min(MOST_AT_ONCE, room)))]
            status, answer = _ask(connection, "POST", "/tasks", tasks)
            if status == 201 and len(answer) == len(tasks):
                for task in answer:
                    self.ledger.store(int(task["id"]), 1)
                return "POST", ""
            return "POST", f"{status} {str(answer)[:100]}"
        key = random.choice(list(stored))
        if method == "PATCH":
            version = stored[key] + 1
            status, answer = _ask(connection, method, f"/tasks/{key}", _task(random, version))
            if status == 200:
                self.ledger.store(key, version)
            return method, "" if status == 200 else f"{status} {str(answer)[:100]}"
        self.ledger.leave(key)
        status, answer = _ask(connection, "DELETE", f"/tasks/{key}")
        if status == 204:
            self.ledger.gone(key)
        return "DELETE", "" if status == 204 else f"{status} {str(answer)[:100]}"

    def _note(self, name: str, faults: list[str], rows: int = 0, size: int = 0) -> None:
        with self._lock:
            tally = self.tallies.setdefault(name, Tally())
            tally.files += 1
            tally.rows += rows
            tally.size += size
            tally.bad += bool(faults)
            if faults and len(self.faults) < FAULTS_KEPT:
                self.faults.append(f"{name}: {'; '.join(faults)}")


def generated(rows: int) -> Iterator[Row]:
    """The rows that `python -m service generate` makes of itself."""
    return ((number, *task) for number, task in enumerate(made_up(rows, GENERATE_SEED), 1))


def _task(random: Random, version: int) -> dict[str, Any]:
    """A task with what is hard to quote, short or long."""
    text = 'a "task",\nдля проверки' + " =1+1" * random.choice((0, 1, 300))
    return {"title": versioned(version, text), "priority": random.randint(1, 10)}


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: object = None
) -> tuple[int, Any]:
    name, _, value = AUTHORIZATION.partition(": ")
    headers = {name: value} | ({"Content-Type": "application/json"} if body else {})
    connection.request(method, path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    said = response.read()
    with suppress(ValueError):
        return response.status, json.loads(said)
    return response.status, said.decode("utf-8", "replace")
