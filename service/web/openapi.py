"""OpenAPI 3.1 of all routes, made from their table and from the models that check requests."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from .. import __version__
from .parameters import TASKS_A_POST, ChangesBody, Priority, Status, TaskBody, Title
from .problems import CONTENT_TYPE, STATUS
from .routes import Route

Json = dict[str, Any]


class Task(BaseModel):
    """A stored task; the id is a string, so that 64 bits survive JavaScript."""

    id: str
    title: Title
    priority: Priority
    status: Status


class TaskPage(BaseModel):
    """Some tasks, and the `after` of the next page; null behind the last one."""

    tasks: list[Task]
    next: str | None


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


SCHEMAS: list[type[BaseModel]] = [
    Task,
    TaskPage,
    Streams,
    Ready,
    Problem,
    TaskBody,
    ChangesBody,
]


def document(routes: list[Route]) -> Json:
    """The description of these routes."""
    references, definitions = models_json_schema(
        [(model, "validation") for model in SCHEMAS], ref_template="#/components/schemas/{model}"
    )
    schemas = definitions["$defs"]
    for member in schemas["ChangesBody"]["properties"].values():
        member.pop("default", None)  # what is left out stays as it is
    bodies = {model: references[model, "validation"] for model in (TaskBody, ChangesBody)}
    paths: dict[str, Json] = {}
    for route in routes:
        operation = _operation(route, bodies)
        path = paths.setdefault(route.path, {})
        path[route.method.lower()] = operation
        if route.method == "GET":
            path["head"] = operation | {
                "summary": f"The head of: {route.summary}",
                "operationId": operation["operationId"] + "_head",
            }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Weir",
            "version": __version__,
            "summary": "Tables as CSV and NDJSON, to any number of slow clients, bounded",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, bodies: dict[Any, Json]) -> Json:
    name = route.handler.__qualname__.replace(".", "_").lower()
    operation: Json = {
        "operationId": name,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.scope is not None:
        operation["security"] = [{"token": []}]
        operation["description"] = f"Wants a token with the scope `{route.scope.value}`."
    if route.body is not None:
        schema = bodies[route.body]
        if route.body is TaskBody:
            many = {"type": "array", "items": schema, "minItems": 1, "maxItems": TASKS_A_POST}
            schema = {"oneOf": [schema, many]}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _parameters(route: Route) -> list[Json]:
    properties = route.parameters.model_json_schema().get("properties", {})
    found: list[Json] = []
    if "{id}" in route.path:
        schema = {"type": "string", "pattern": "^[0-9]{1,19}$"}
        found.append({"name": "id", "in": "path", "required": True, "schema": schema})
    for name, described in properties.items():
        schema = dict(described)
        parameter: Json = {
            "name": name,
            "in": "query",
            "description": schema.pop("description", ""),
            "schema": schema,
        }
        if schema.get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        found.append(parameter)
    return found


def _responses(route: Route) -> Json:
    responses: Json = {str(route.status): {"description": "Done"}}
    if route.status != 204:
        schema: Json = {"type": "string"}
        if route.answer:
            schema = {"$ref": f"#/components/schemas/{route.answer}"}
            if route.answer == "Task" and route.body is TaskBody:
                schema = {"oneOf": [schema, {"type": "array", "items": schema}]}
        elif route.media_type == "application/json":
            schema = {"type": "object"}
        responses[str(route.status)]["content"] = {route.media_type: {"schema": schema}}
    codes = ["head_too_large", "content_encoding_unsupported"]
    if route.body is None:
        codes.append("unexpected_body")
    codes += route.problems
    if route.scope is not None:
        codes += ["authorization_repeated", "token_missing", "token_invalid", "scope_missing"]
    for status in sorted({STATUS[code] for code in codes}):
        those = ", ".join(f"`{code}`" for code in codes if STATUS[code] == status)
        responses[str(status)] = {
            "description": f"Refused: {those}",
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses
