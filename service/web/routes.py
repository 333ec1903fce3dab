"""The table of routes: what serves each, who may ask, and what it says. OpenAPI is made of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from ..errors import Code
from ..formats import WIRES
from ..metrics import CONTENT_TYPE as METRICS_TYPE
from ..query import Format
from .authentication import Scope
from .catalogue import Catalogue
from .exports import Exports
from .lists import JSON_TYPE, Lists
from .operations import Operations
from .schemas import Ready, Rows, Streams, Tables

Handler = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]

RELATION_PROBLEMS = (
    Code.INVALID_PARAMETER,
    Code.TABLE_NOT_FOUND,
    Code.NO_KEY,
    Code.STORE_UNAVAILABLE,
    Code.ROW_TOO_LARGE,
    Code.TEXT_INVALID,
)
STREAM_PROBLEMS = (
    *RELATION_PROBLEMS,
    Code.RANGE_NOT_SUPPORTED,
    Code.TOKEN_STREAMS_EXHAUSTED,
    Code.STREAMS_EXHAUSTED,
    Code.STARTS_EXHAUSTED,
    Code.SHUTTING_DOWN,
)


FIXED_PATHS = ("/tables", "/streams", "/metrics", "/healthz", "/readyz", "/openapi.json", "/")
"""Paths that are there whatever the database, and win over a table of that name."""


@dataclass(frozen=True)
class Route:
    """One method of one path; a GET is served as HEAD too.

    scope: what the token must have; None lets anybody in. selects: the parameters of `selecting.py`
    are taken, those of a format or, for None, of a list; other routes take none.
    body: what is sent; and many, so many of it in an array. answer: what comes back, None when it
    is not JSON or empty. problems: the codes of the refusals that are this route's own.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    scope: Scope | None = None
    selects: bool = False
    format: Format | None = None
    body: type[BaseModel] | None = None
    many: int = 0
    status: int = 200
    media_type: str = JSON_TYPE
    answer: type[BaseModel] | None = None
    problems: tuple[Code, ...] = ()


def fixed_routes(catalogue: Catalogue, operations: Operations) -> list[Route]:
    """The routes that are there whatever the database."""
    ops = Scope.OPS
    return [
        Route(
            "GET",
            "/tables",
            "The tables that there are",
            catalogue.tables,
            Scope.READ,
            answer=Tables,
            problems=(Code.STORE_UNAVAILABLE,),
        ),
        Route("GET", "/streams", "The live streams", operations.streams, ops, answer=Streams),
        Route(
            "GET",
            "/metrics",
            "Metrics in Prometheus' text format",
            operations.metrics,
            ops,
            media_type=METRICS_TYPE.partition(";")[0],
        ),
        Route("GET", "/healthz", "Whether the process is alive", operations.healthz),
        Route(
            "GET",
            "/readyz",
            "Whether it is fit for work",
            operations.readyz,
            answer=Ready,
            problems=(Code.SHUTTING_DOWN, Code.STORE_UNAVAILABLE),
        ),
        Route("GET", "/openapi.json", "This description", operations.openapi),
        Route("GET", "/", "What is where", operations.page, media_type="text/html"),
    ]


def relation_routes(exports: Exports, lists: Lists) -> list[Route]:
    """The routes of every table, behind those of fixed paths, which win."""
    read = Scope.READ
    streams = [
        Route(
            "GET",
            f"/{{table}}/{WIRES[format_].route}",
            f"Stream a table as {format_.upper()}",
            handler,
            read,
            selects=True,
            format=format_,
            media_type=WIRES[format_].media_type,
            problems=STREAM_PROBLEMS,
        )
        for format_, handler in ((Format.CSV, exports.csv), (Format.NDJSON, exports.ndjson))
    ]
    page = Route(
        "GET",
        "/{table}",
        "A page of a table's rows",
        lists.page,
        read,
        selects=True,
        answer=Rows,
        problems=RELATION_PROBLEMS,
    )
    return [*streams, page]
