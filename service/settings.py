"""Every setting and limit: its name, its default, its unit and its reason.

Each field is a command line flag (`--page-bytes`) and an environment variable
(`WEIR_PAGE_BYTES`); `command_line.py` makes both from here.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field

KIB, MIB, GIB = 1024, 1024**2, 1024**3
TASK_BYTES, ROW_BYTES = ByteSize(16 * KIB), ByteSize(16 * MIB)
"""Most bytes in a row unless somebody says otherwise: of tasks, and of other tables."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _origin(given: str) -> str:
    """An origin as browsers write it (RFC 6454): in small letters, without a usual port."""
    origin = given.lower()
    found = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?", origin)
    if found is None and origin != "*":
        raise ValueError(
            "an origin is a scheme, a host and perhaps a port, such as http://localhost:5173, "
            "with nothing behind it; * stands for all, that of a file (null) among them"
        )
    if found is not None and found[3] == _DEFAULT_PORTS.get(found[1]):
        return origin.removesuffix(found[3] or "")
    return origin


Origin = Annotated[str, AfterValidator(_origin)]


def without_password(address: str) -> str:
    """A database's address as it may be shown: in a log, in an error, to anybody.

    All before the last @ is left out, as a password may have a / in it that is not encoded.
    """
    shown = re.sub(r"([?&][^=&]*password)=[^&]*", r"\1=***", address, flags=re.IGNORECASE)
    return re.sub(r"^(?!sqlite:)([^:/]*://)?.*@", r"\1***@", shown, flags=re.DOTALL)


class Settings(BaseModel):
    """What the service was told. Sizes are bytes (`16KiB` is understood), times seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: str = Field("sqlite:///weir.db", description="where the tables are")
    read_database: tuple[str, ...] = Field(
        (), description="a PostgreSQL replica that streams are read from; may be given repeatedly"
    )
    table: tuple[str, ...] = Field(
        (),
        description="a table that is served, or a pattern as `orders` or `sales.*`; may be given "
        "repeatedly. Without one all are that the database's user may read",
    )
    key: tuple[str, ...] = Field(
        (),
        description="columns that identify the rows of a view, as `busy=id` or `busy=day,id`; may "
        "be given repeatedly",
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="processes that serve, an event loop each; all limits hold for them together",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(3000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    tokens: Path | None = Field(None, description="TOML file of the tokens that may come in")
    allow_origin: tuple[Origin, ...] = Field(
        (),
        description="an origin whose web pages may ask and read (CORS), such as "
        "http://localhost:5173, or * for all; may be given repeatedly",
    )
    log_format: Literal["text", "json"] = Field("text", description="how log lines are written")
    log_interval: Seconds = Field(10, description="seconds between two lines about memory")

    page_bytes: Annotated[ByteSize, Field(ge=1 * KIB, le=64 * KIB)] = Field(
        ByteSize(16 * KIB),
        description="most bytes in a page, the unit that is read and sent: what a slow reader "
        "costs grows with it, the work for each byte shrinks with it",
    )
    row_bytes: Annotated[ByteSize, Field(ge=0, le=64 * MIB)] = Field(
        ByteSize(0),
        description="most bytes in one encoded row; a longer one ends the stream as a failure. 0 "
        "is 16KiB for tasks, the longest of which has 12,064 bytes, and 16MiB for other tables",
    )
    large_row_bytes: Annotated[ByteSize, Field(ge=1 * KIB)] = Field(
        ByteSize(64 * MIB),
        description="bytes that all streams together may hold in rows longer than a page; whoever "
        "gets none waits. Not used while --row-bytes is no more than --page-bytes",
    )
    large_row_timeout: Seconds = Field(
        10,
        description="seconds without a byte acknowledged until a stream in such a row is evicted, "
        "when others wait for the memory that it holds",
    )
    unsent_bytes: Annotated[ByteSize, Field(ge=1 * KIB, le=1 * MIB)] = Field(
        ByteSize(4 * KIB),
        description="unsent bytes in the kernel (TCP_NOTSENT_LOWAT) below which the next page "
        "is read: without it the kernel takes megabytes for each slow reader",
    )
    read_ahead_bytes: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(16 * MIB),
        description="bytes that all streams together may hold read ahead, for fast clients only",
    )
    read_threads: Count = Field(
        2, description="threads that read pages of SQLite, a connection each"
    )
    pool_size: Annotated[int, Field(ge=1, le=1_000)] = Field(
        4,
        description="connections to each PostgreSQL server that pages are read through, of each "
        "worker",
    )
    statement_timeout: Seconds = Field(
        30, description="seconds that one statement may take in PostgreSQL"
    )
    reconnect_timeout: Seconds = Field(
        30,
        description="seconds that a read waits for PostgreSQL to be back; its stream breaks after "
        "a last try, which --statement-timeout bounds",
    )
    max_replica_lag: Seconds = Field(
        10, description="seconds that a replica may be behind and still be read from"
    )

    max_streams: Count = Field(10_000, description="streams at once; one more gets 503")
    max_streams_per_token: Count = Field(
        10_000, description="streams at once with one token; one more gets 429"
    )
    max_connections: Count = Field(
        11_000,
        description="connections at once, streaming or not; one more closes the one that has "
        "longest kept a request head waiting",
    )
    memory_limit: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(0),
        description="bytes that process and kernel may take in the worst case; streams are cut "
        "down to fit. 0 takes the limit of the container, if there is one",
    )
    max_body_bytes: Annotated[ByteSize, Field(ge=1 * KIB, le=64 * MIB)] = Field(
        ByteSize(2 * MIB), description="most bytes in a request body; a longer one gets 413"
    )
    max_writes: Count = Field(
        4,
        description="request bodies held in memory at once, one in each worker at least; the next "
        "ones wait their turn",
    )

    stall_timeout: Seconds = Field(
        300,
        description="seconds without a byte acknowledged by the peer until it is evicted; with "
        "the usual 128 KiB receive buffer a reader of 512 bytes a second shows none for 250",
    )
    head_timeout: Seconds = Field(
        15, description="seconds a connection may wait for a whole request head, the first or next"
    )
    body_timeout: Seconds = Field(
        30, description="seconds a client has to deliver its body, and to take the answer to it"
    )
    grace: Seconds = Field(
        20, description="seconds that streams get to finish after SIGTERM, then they break"
    )

    def of_database(self, *, ours: bool) -> "Settings":
        """The same for a database with our tasks in it or with other tables: how long a row is."""
        if self.row_bytes:
            return self
        return self.model_copy(update={"row_bytes": TASK_BYTES if ours else ROW_BYTES})

    @property
    def shown_database(self) -> str:
        """Where the tasks live, as anybody may read it."""
        return without_password(self.database)


GROUPS = {
    "database": "What is served, and to whom",
    "log_format": "The log",
    "page_bytes": "Pages, and how they are read",
    "pool_size": "PostgreSQL",
    "max_streams": "Limits, of all workers together",
    "stall_timeout": "How long anybody is waited for",
}
"""The settings in groups, for who reads their list: the first of each, and what it is about."""
UNITS = {GIB: "GiB", MIB: "MiB", KIB: "KiB"}


def in_words(value: Any) -> str:
    """A setting's value as it would be typed."""
    if isinstance(value, ByteSize) and value:
        unit = next((unit for unit in UNITS if value % unit == 0), 1)
        return f"{value // unit}{UNITS.get(unit, '')}"
    return "none" if value in (None, ()) else str(value)


def allowed(name: str) -> str:
    """What a setting takes: its kind and unit, the lowest and the highest value."""
    field = Settings.model_fields[name]
    lowest, above, highest = (
        next((getattr(each, limit) for each in field.metadata if hasattr(each, limit)), None)
        for limit in ("ge", "gt", "le")
    )
    if field.annotation is ByteSize:
        to = "" if highest is None else f" to {in_words(ByteSize(highest))}"
        return f"a size from {in_words(ByteSize(lowest or 0))}{to}"
    if field.annotation is int:
        return f"a whole number from {lowest} to {highest}"
    if field.annotation is float:
        return f"a number of seconds above {above}, {highest} at most"
    return " or ".join(get_args(field.annotation)) or str(field.description)
