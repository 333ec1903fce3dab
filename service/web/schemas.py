"""What answers look like, for OpenAPI."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Rows(BaseModel):
    """Some rows, under the table's name, and the `after` of the next page; null behind the last."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[dict[str, Any]]]

    next: str | None


class ColumnOfTable(BaseModel):
    """A column. written_as: integers, decimals and floats are JSON numbers, all else see README."""

    name: str
    type: str
    written_as: str
    nullable: bool


class Table(BaseModel):
    """A table or view. key: whose order its rows come in; null where it cannot be streamed."""

    name: str
    schema_: str = Field(alias="schema")
    kind: str
    rows: int | None
    columns: list[ColumnOfTable]
    key: list[str] | None
    key_source: str
    can: list[str]


class Tables(BaseModel):
    """The tables that the token may read."""

    tables: list[Table]


class Stream(BaseModel):
    """A live stream, and what it holds in bytes."""

    id: str
    token: str
    route: str
    rows: int
    bytes: int
    seconds: float
    waiting_seconds: float
    process_bytes: int
    kernel_bytes: int


class Streams(BaseModel):
    """All live streams."""

    streams: list[Stream]


class Server(BaseModel):
    """A database server: the primary, or a replica; in the order in which they were named."""

    role: Literal["primary", "replica"]
    fit: bool
    lag_seconds: float


class Ready(BaseModel):
    """The service takes work; which database servers it reads from."""

    status: Literal["ready"]
    servers: list[Server]


class Fault(BaseModel):
    """One thing that is wrong, and where."""

    at: str
    detail: str


class Problem(BaseModel):
    """RFC 9457, with a stable code and a hint."""

    model_config = ConfigDict(extra="allow")

    type: Literal["about:blank"]
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    errors: list[Fault] = []
