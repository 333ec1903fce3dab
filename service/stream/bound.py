"""The bound: what a stream may cost, what all of it may cost, and settings that fit a machine."""

import resource
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..settings import KIB, MIB, Settings
from .pages import PAGES_A_TRIP, PAGES_A_WRITE

CONNECTION_BYTES = 20 * KIB
"""Process memory of a connection with its request, tasks and handler; 18 KiB were measured."""
IN_FLIGHT_BYTES = 8 * KIB
"""Allowance for bytes sent and not acknowledged. A reader that has stopped has none; on a
long path a reader that moves has as many as its bandwidth times the round trip."""
REQUEST_BYTES = 64 * KIB
"""A connection without a stream: its request, and what it has sent of a body already."""
BODY_COPIES = 6
"""Times that a request body is in memory at most: as bytes, as text, as tasks, as the answer."""
READ_COPIES = 4
"""Times that what one call reads is in memory while it is read: as the engine puts it together
(twice), as its result, and as what we are given."""
OTHER_FILES = 64
"""Open files that are no connections: the log, the listener, epolls, libraries."""


@dataclass(frozen=True)
class Bound:
    """The worst case, in bytes: user and kernel memory of everything at its limit at once."""

    write: int
    unsent: int
    read_ahead: int
    large_rows: int
    reading: int
    writes: int
    base: int
    max_streams: int
    max_connections: int

    @classmethod
    def of(cls, settings: Settings, base: int, readers: int) -> "Bound":
        """The bound of these settings, on top of `base` bytes that the idle process takes.

        readers: calls to the database that may read at the same time, in each worker.
        """
        reading = readers * PAGES_A_TRIP * settings.page_bytes
        large = 0
        if settings.row_bytes > settings.page_bytes:
            reading += settings.row_bytes  # one at a time
            large = settings.large_row_bytes
        return cls(
            write=PAGES_A_WRITE * settings.page_bytes,
            unsent=settings.unsent_bytes,
            read_ahead=settings.read_ahead_bytes,
            large_rows=large,
            reading=settings.workers * reading * READ_COPIES,
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
        between transport and kernel, on top of what was unsent when its page was read. What it
        has of a row longer than a page is in `large_rows`."""
        return CONNECTION_BYTES + self.write + self.unsent + IN_FLIGHT_BYTES

    @property
    def fixed(self) -> int:
        """What does not depend on the number of streams."""
        others = max(0, self.max_connections - self.max_streams)
        shared = self.read_ahead + self.large_rows + self.reading + self.writes
        return self.base + shared + others * REQUEST_BYTES

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


def check_large_rows(settings: Settings) -> None:
    """Raise ConfigurationError when a worker's share would not even hold one row."""
    if settings.row_bytes <= settings.page_bytes:
        return
    needed = settings.row_bytes * settings.workers
    if settings.large_row_bytes < needed:
        raise ConfigurationError(
            f"--large-row-bytes {settings.large_row_bytes}: rows of --row-bytes "
            f"{settings.row_bytes} need at least {needed}, one in each worker",
            hint="raise --large-row-bytes, or lower --row-bytes or --workers",
        )


def fit_connections(settings: Settings) -> tuple[Settings, list[str]]:
    """No more streams than connections: each takes one. And what was cut."""
    if settings.max_streams <= settings.max_connections:
        return settings, []
    return settings.model_copy(update={"max_streams": settings.max_connections}), [
        f"max_streams is cut down from {settings.max_streams} to {settings.max_connections}: "
        "each takes one of so many connections"
    ]


def fit_memory(
    settings: Settings, base: int, limit: int, readers: int
) -> tuple[Settings, list[str]]:
    """Settings whose bound is within `limit` bytes, by fewer streams; and what was cut.

    A limit of 0 is none. base and readers are those of Bound.of.

    Raises ConfigurationError when not even one stream fits.
    """
    bound = Bound.of(settings, base, readers)
    if not limit or bound.total <= limit:
        return settings, []
    streams = (limit - bound.fixed) // bound.stream
    if streams < 1:
        raise ConfigurationError(
            f"not one stream fits into {limit / MIB:.0f} MiB: "
            f"{bound.fixed / MIB:.0f} MiB are needed before the first",
            hint="raise --memory-limit, or lower --read-ahead-bytes, --large-row-bytes, "
            "--max-writes, --max-body-bytes or --max-connections",
        )
    spare = max(0, settings.max_connections - settings.max_streams)
    cut = settings.model_copy(update={"max_streams": streams, "max_connections": streams + spare})
    return cut, [
        f"max_streams is cut down from {settings.max_streams} to {streams}: "
        f"more would not fit into {limit / MIB:.0f} MiB"
    ]


def fit_open_files(settings: Settings, database: int) -> tuple[Settings, list[str]]:
    """Raise the limit of open files to the hard one; settings that fit it, and what was cut.

    database: open files that the database's connections take.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - OTHER_FILES - database
    if settings.max_connections <= room:
        return settings, []
    if room < 2:
        raise ConfigurationError(
            f"{hard} open files are allowed to this process; that is too few",
            hint="raise the limit with `ulimit -n`, or lower --read-threads or --pool-size",
        )
    # Some connections stay free of streams, for those who ask how the service is.
    spare = max(0, settings.max_connections - settings.max_streams)
    streams = min(settings.max_streams, room - min(spare, room // 10))
    cut = settings.model_copy(update={"max_streams": streams, "max_connections": room})
    return cut, [
        f"max_connections is cut down from {settings.max_connections} to {room}, max_streams "
        f"from {settings.max_streams} to {streams}: {hard} open files are allowed"
    ]
