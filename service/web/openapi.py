"""OpenAPI 3.1 of all routes, made from their table, the models of bodies, and the catalogue."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .. import __version__
from ..errors import Code
from ..relation import Relation
from .problems import CONTENT_TYPE
from .routes import Route
from .schemas import Problem
from .selecting import described

Json = dict[str, Any]


def document(routes: Sequence[Route], relations: Sequence[Relation]) -> Json:
    """The description of these routes, and of those of each relation."""
    models: set[type[BaseModel]] = {Problem}
    for route in routes:
        models |= {model for model in (route.answer, route.body) if model}
    references, definitions = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    schemas = definitions["$defs"]
    for model in {route.body for route in routes if route.body}:
        if "minProperties" in schemas[model.__name__]:  # what is left out stays as it is
            for member in schemas[model.__name__]["properties"].values():
                member.pop("default", None)
    named = {model: references[model, "validation"] for model in models}
    paths: dict[str, Json] = {}
    for route in routes:
        _add(paths, route, route.path, None, named)
    for relation in relations:
        for route in routes:
            if "{table}" in route.path and relation.key:
                path = route.path.replace("{table}", quote(relation.address, safe=""))
                _add(paths, route, path, relation, named)
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


def _add(
    paths: dict[str, Json],
    route: Route,
    at: str,
    relation: Relation | None,
    models: dict[type[BaseModel], Json],
) -> None:
    operation = _operation(route, at, relation, models)
    path = paths.setdefault(at, {})
    path[route.method.lower()] = operation
    if route.method == "GET":
        path["head"] = operation | {
            "summary": f"The head of: {operation['summary']}",
            "operationId": operation["operationId"] + "_head",
        }


def _operation(
    route: Route, at: str, relation: Relation | None, models: dict[type[BaseModel], Json]
) -> Json:
    summary = route.summary
    if relation is not None:
        summary = summary.replace("a table", relation.address, 1)
    operation: Json = {
        "operationId": f"{route.method.lower()} {at}",
        "summary": summary,
        "parameters": _parameters(route, relation),
        "responses": _responses(route, models),
    }
    if route.scope is not None:
        operation["security"] = [{"token": []}]
        operation["description"] = f"Wants a token with the scope `{route.scope.value}`."
    if route.body is not None:
        schema = models[route.body]
        if route.many:
            many = {"type": "array", "items": schema, "minItems": 1, "maxItems": route.many}
            schema = {"oneOf": [schema, many]}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _parameters(route: Route, relation: Relation | None) -> list[Json]:
    found: list[Json] = []
    if "{id}" in route.path:
        schema: Json = {"type": "string", "pattern": "^[0-9]{1,19}$"}
        found.append({"name": "id", "in": "path", "required": True, "schema": schema})
    if "{table}" in route.path and relation is None:
        schema = {"type": "string", "minLength": 1}
        found.append({"name": "table", "in": "path", "required": True, "schema": schema})
    return found + (described(route.format, relation) if route.selects else [])


def _responses(route: Route, models: dict[type[BaseModel], Json]) -> Json:
    responses: Json = {str(route.status): {"description": "Done"}}
    if route.status != 204:
        schema: Json = {"type": "string"}
        if route.answer:
            schema = models[route.answer]
            if route.many:
                schema = {"oneOf": [schema, {"type": "array", "items": schema}]}
        elif route.media_type == "application/json":
            schema = {"type": "object"}
        responses[str(route.status)]["content"] = {route.media_type: {"schema": schema}}
    codes = [Code.HEAD_TOO_LARGE, Code.CONTENT_ENCODING_UNSUPPORTED]
    if route.body is None:
        codes.append(Code.UNEXPECTED_BODY)
    codes += route.problems
    if route.scope is not None:
        codes += [
            Code.AUTHORIZATION_REPEATED,
            Code.TOKEN_MISSING,
            Code.TOKEN_INVALID,
            Code.SCOPE_MISSING,
        ]
    for status in sorted({code.status for code in codes}):
        those = ", ".join(f"`{code}`" for code in codes if code.status == status)
        responses[str(status)] = {
            "description": f"Refused: {those}",
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses
