"""The table of routes: what serves each, who may ask, and what it says. OpenAPI is made of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from ..metrics import CONTENT_TYPE as METRICS_TYPE
from .authentication import Scope
from .exports import CSV_TYPE, NDJSON_TYPE, Exports
from .operations import Operations
from .parameters import (
    ChangesBody,
    CsvParameters,
    ListParameters,
    NdjsonParameters,
    Parameters,
    TaskBody,
)
from .tasks import JSON_TYPE, Tasks

Handler = Callable[[web.Request, Any, Any], Awaitable[web.StreamResponse]]

STREAM_PROBLEMS = (
    "invalid_parameter",
    "range_not_supported",
    "token_streams_exhausted",
    "streams_exhausted",
    "starts_exhausted",
    "shutting_down",
    "store_unavailable",
    "row_too_large",
)
BODY_PROBLEMS = (
    "bad_request",
    "invalid_json",
    "body_timeout",
    "body_too_large",
    "media_type_unsupported",
    "invalid_task",
    "writes_exhausted",
    "store_unavailable",
)


@dataclass(frozen=True)
class Route:
    """One method of one path; a GET is served as HEAD too.

    scope: what the token must have; None lets anybody in.
    answer: the name of the schema of the body, "" when it is not JSON or empty.
    problems: the codes of the refusals that are this route's own.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    scope: Scope | None = None
    parameters: type[Parameters] = Parameters
    body: type[BaseModel] | None = None
    status: int = 200
    media_type: str = JSON_TYPE
    answer: str = ""
    problems: tuple[str, ...] = ()


def all_routes(exports: Exports, tasks: Tasks, operations: Operations) -> list[Route]:
    """Every route of the service."""
    read, write, ops = Scope.READ, Scope.WRITE, Scope.OPS
    return [
        Route(
            "GET",
            "/tasks/export.csv",
            "Stream all tasks as CSV",
            exports.csv,
            read,
            CsvParameters,
            media_type=CSV_TYPE.partition(";")[0],
            problems=STREAM_PROBLEMS,
        ),
        Route(
            "GET",
            "/tasks/stream.ndjson",
            "Stream all tasks as NDJSON",
            exports.ndjson,
            read,
            NdjsonParameters,
            media_type=NDJSON_TYPE,
            problems=STREAM_PROBLEMS,
        ),
        Route(
            "GET",
            "/tasks",
            "A page of tasks",
            tasks.list,
            read,
            ListParameters,
            answer="TaskPage",
            problems=("invalid_parameter", "store_unavailable", "row_too_large"),
        ),
        Route(
            "POST",
            "/tasks",
            "Store one task, or an array of up to 1,000: all or none",
            tasks.create,
            write,
            body=TaskBody,
            status=201,
            answer="Task",
            problems=BODY_PROBLEMS,
        ),
        Route(
            "GET",
            "/tasks/{id}",
            "One task",
            tasks.read,
            read,
            answer="Task",
            problems=("invalid_id", "task_not_found", "store_unavailable", "row_too_large"),
        ),
        Route(
            "PATCH",
            "/tasks/{id}",
            "Change one task",
            tasks.update,
            write,
            body=ChangesBody,
            answer="Task",
            problems=("invalid_id", "task_not_found", *BODY_PROBLEMS),
        ),
        Route(
            "DELETE",
            "/tasks/{id}",
            "Delete one task",
            tasks.delete,
            write,
            status=204,
            problems=("invalid_id", "task_not_found", "store_unavailable"),
        ),
        Route("GET", "/streams", "The live streams", operations.streams, ops, answer="Streams"),
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
            answer="Ready",
            problems=("shutting_down", "store_unavailable"),
        ),
        Route("GET", "/openapi.json", "This description", operations.openapi),
        Route("GET", "/", "What is where", operations.page, media_type="text/html"),
    ]
