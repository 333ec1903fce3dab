"""The bound: what a stream may cost, how many fit, and who may start one."""

import asyncio
import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from ..errors import ConfigurationError, RefusedError
from ..metrics import Metrics
from ..settings import KIB, MIB, Settings
from ..team import STREAMS, Team, of_token
from .flow import Flow
from .pages import PAGES_A_WRITE

CONNECTION_BYTES = 20 * KIB
"""Process memory of a connection with its request, tasks and handler; 18 KiB were measured."""
IN_FLIGHT_BYTES = 8 * KIB
"""Allowance for bytes sent and not acknowledged. A reader that has stopped has none; on a
long path a reader that moves has as many as its bandwidth times the round trip."""
REQUEST_BYTES = 64 * KIB
"""A connection without a stream: its request, and what it has sent of a body already."""
BODY_COPIES = 6
"""Times that a request body is in memory at most: as bytes, as text, as tasks, as the answer."""
OTHER_FILES = 64
"""Open files that are no connections: the log, the listener, epolls, libraries."""
FILES_A_THREAD = 3
"""Open files of one database connection: the file, its log, its index."""
RETRY_SECONDS = 5
"""What `Retry-After` says when streams are at their limit: they end at any time."""


@dataclass(frozen=True)
class Bound:
    """The worst case, in bytes: user and kernel memory of everything at its limit at once."""

    write: int
    unsent: int
    read_ahead: int
    writes: int
    base: int
    max_streams: int
    max_connections: int

    @classmethod
    def of(cls, settings: Settings, base: int) -> "Bound":
        """The bound of these settings, on top of `base` bytes that the idle process takes."""
        return cls(
            write=max(PAGES_A_WRITE * settings.page_bytes, settings.row_bytes),
            unsent=settings.unsent_bytes,
            read_ahead=settings.read_ahead_bytes,
            writes=max(settings.max_writes, settings.workers)
            * settings.max_body_bytes
            * BODY_COPIES,
            base=base,
            max_streams=settings.max_streams,
            max_connections=settings.max_connections,
        )

    @property
    def stream(self) -> int:
        """One stream whose reader has stopped: one write is between store and peer, split
        between transport and kernel, on top of what was unsent when its page was read."""
        return CONNECTION_BYTES + self.write + self.unsent + IN_FLIGHT_BYTES

    @property
    def fixed(self) -> int:
        """What does not depend on the number of streams."""
        others = max(0, self.max_connections - self.max_streams)
        return self.base + self.read_ahead + self.writes + others * REQUEST_BYTES

    @property
    def total(self) -> int:
        return self.max_streams * self.stream + self.fixed

    def __str__(self) -> str:
        return (
            f"{self.max_streams:,} streams x {self.stream / KIB:.0f} KiB "
            f"(connection {CONNECTION_BYTES / KIB:.0f} + write {self.write / KIB:.0f} "
            f"+ unsent {self.unsent / KIB:.0f} + in flight {IN_FLIGHT_BYTES / KIB:.0f}) "
            f"= {self.max_streams * self.stream / MIB:.0f} MiB, "
            f"and {self.fixed / MIB:.0f} MiB whatever their number"
        )


def fit_memory(settings: Settings, base: int, limit: int) -> tuple[Settings, list[str]]:
    """Settings whose bound is within `limit` bytes, by fewer streams; and what was cut.

    A limit of 0 is none.

    Raises ConfigurationError when not even one stream fits.
    """
    bound = Bound.of(settings, base)
    if not limit or bound.total <= limit:
        return settings, []
    streams = (limit - bound.fixed) // bound.stream
    if streams < 1:
        raise ConfigurationError(
            f"not one stream fits into {limit / MIB:.0f} MiB: "
            f"{bound.fixed / MIB:.0f} MiB are needed before the first",
            hint="raise --memory-limit, or lower --read-ahead-bytes, --max-writes, "
            "--max-body-bytes or --max-connections",
        )
    spare = max(0, settings.max_connections - settings.max_streams)
    cut = settings.model_copy(update={"max_streams": streams, "max_connections": streams + spare})
    return cut, [
        f"max_streams is cut down from {settings.max_streams} to {streams}: "
        f"more would not fit into {limit / MIB:.0f} MiB"
    ]


def container_memory() -> int:
    """The memory limit of this process's control group, in bytes; 0 when there is none."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return 0
    return 0 if text == "max" else int(text)


def fit_open_files(settings: Settings) -> tuple[Settings, list[str]]:
    """Raise the limit of open files to the hard one; settings that fit it, and what was cut."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - OTHER_FILES - settings.read_threads * FILES_A_THREAD
    if settings.max_connections <= room:
        return settings, []
    if room < 2:
        raise ConfigurationError(
            f"{hard} open files are allowed to this process; that is too few",
            hint="raise the limit with `ulimit -n`",
        )
    spare = settings.max_connections - settings.max_streams
    streams = min(settings.max_streams, max(1, room - min(spare, room // 10)))
    cut = settings.model_copy(update={"max_streams": streams, "max_connections": room})
    return cut, [
        f"max_connections is cut down from {settings.max_connections} to {room}, max_streams "
        f"from {settings.max_streams} to {streams}: {hard} open files are allowed"
    ]


@dataclass(slots=True, eq=False)
class Stream:
    """One stream under way: what `/streams` and the log say of it."""

    token: str
    route: str
    flow: Flow
    rows: int = 0
    bytes: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=monotonic)
    _reported_rows: int = 0
    _reported_bytes: int = 0

    @property
    def seconds(self) -> float:
        return monotonic() - self.started

    def count(self, rows: int, size: int) -> None:
        """Some rows of `size` bytes in all have been written."""
        self.rows += rows
        self.bytes += size

    def report(self, metrics: Metrics) -> None:
        """Add to the metrics what has come since the last report."""
        metrics.rows.labels(self.route).inc(self.rows - self._reported_rows)
        metrics.bytes.labels(self.route).inc(self.bytes - self._reported_bytes)
        self._reported_rows, self._reported_bytes = self.rows, self.bytes


class Admission:
    """Lets streams in up to the limits of all workers together.

    streams: those that are under way in this process, by their ids.
    """

    def __init__(self, settings: Settings, team: Team) -> None:
        self.streams: dict[str, Stream] = {}
        self.closed = False
        self._max_streams = settings.max_streams
        self._max_per_token = settings.max_streams_per_token
        self._team = team
        self._emptied = asyncio.Event()

    @contextmanager
    def admit(self, stream: Stream) -> Iterator[None]:
        """Count the stream in for as long as the context lasts, or raise RefusedError."""
        columns = (STREAMS, of_token(stream.token))
        with self._team.alone():
            self._check(stream.token)
            for column in columns:
                self._team.add(column, 1)
        self.streams[stream.id] = stream
        try:
            yield
        finally:
            del self.streams[stream.id]
            for column in columns:
                self._team.add(column, -1)
            if not self.streams:
                self._emptied.set()

    async def empty(self) -> None:
        """Return when no stream is under way in this process."""
        while self.streams:
            self._emptied.clear()
            await self._emptied.wait()

    def _check(self, token: str) -> None:
        if self.closed:
            raise RefusedError(
                "the service is shutting down",
                code="shutting_down",
                hint="ask again shortly; another instance may answer",
                retry_after=RETRY_SECONDS,
            )
        if self._team.total(STREAMS) >= self._max_streams:
            raise RefusedError(
                f"all {self._max_streams} streams are taken",
                code="streams_exhausted",
                hint="ask again later, or raise --max-streams",
                retry_after=RETRY_SECONDS,
            )
        if self._team.total(of_token(token)) >= self._max_per_token:
            raise RefusedError(
                f"all {self._max_per_token} streams of token {token!r} are taken",
                code="token_streams_exhausted",
                hint="let one of your streams end first",
                retry_after=RETRY_SECONDS,
            )
