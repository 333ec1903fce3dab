"""The description at /openapi.json is true: valid, complete, and what the service does."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.errors import Code
from service.tasks.generate import tasks
from service.web.problems import CONTENT_TYPE
from tests.conftest import Running, StartService

METHODS = ("get", "head", "post", "patch", "put", "delete", "options", "trace")
CONTRACT = {
    "/": {"GET", "HEAD"},
    "/tables": {"GET", "HEAD"},
    "/healthz": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/streams": {"GET", "HEAD"},
    "/tasks": {"GET", "HEAD", "POST"},
    "/tasks/export.csv": {"GET", "HEAD"},
    "/tasks/stream.ndjson": {"GET", "HEAD"},
    "/tasks/{id}": {"GET", "HEAD", "PATCH", "DELETE"},
    "/{table}": {"GET", "HEAD"},
    "/{table}/export.csv": {"GET", "HEAD"},
    "/{table}/stream.ndjson": {"GET", "HEAD"},
}
OPEN = {"/", "/healthz", "/readyz", "/openapi.json"}
BODIES = {"post": {"title": "a", "priority": 1}, "patch": {"priority": 2}}

Json = dict[str, Any]


async def description(service: Running) -> Json:
    async with service.client.get(service.url + "/openapi.json") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        found: Json = await response.json()
        return found


def operations(document: Json) -> list[tuple[str, str, Json]]:
    """Each method and path of the document, deletions last."""
    found = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]
    return sorted(found, key=lambda each: each[0] == "delete")


def filled(path: str) -> str:
    """A path of the document with something that there is in each of its places."""
    return path.replace("{id}", "1").replace("{table}", "tasks")


async def test_the_document_is_valid(start: StartService) -> None:
    """The document is OpenAPI 3.1 without a fault."""
    document = await description(await start())
    assert document["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


async def test_the_document_has_the_contracts_routes(start: StartService) -> None:
    """All routes of the contract are described, and no others."""
    document = await description(await start())
    found: dict[str, set[str]] = {}
    for method, path, _ in operations(document):
        found.setdefault(path, set()).add(method.upper())
    assert found == CONTRACT


async def test_each_served_method_is_described(start: StartService) -> None:
    """What the service says that it allows on a path is what the document says of it."""
    service = await start(list(tasks(1, seed=1)))
    document = await description(service)
    for path, methods in document["paths"].items():
        async with service.client.put(service.url + filled(path)) as response:
            assert response.status == 405
            allowed = {method.strip().lower() for method in response.headers["Allow"].split(",")}
        described = {method for method in methods if method in METHODS}
        # A table's path is described by itself and among those of every table: both are true.
        assert allowed >= described if "{table}" in path else allowed == described


async def test_each_described_operation_answers_as_described(start: StartService) -> None:
    """Every operation succeeds with the status and the media type that the document promises."""
    service = await start(list(tasks(1, seed=1)))
    for method, path, operation in operations(await description(service)):
        url = service.url + filled(path)
        body = BODIES.get(method)
        assert (body is not None) == ("requestBody" in operation)
        async with service.client.request(method.upper(), url, json=body) as response:
            described = operation["responses"].get(str(response.status))
            assert described is not None, (method, path, response.status)
            assert response.status < 300
            if "content" in described:
                assert response.content_type in described["content"]


async def test_each_scope_is_described(start: StartService) -> None:
    """The document marks those operations that want a token, and only those answer 401."""
    service = await start(list(tasks(1, seed=1)))
    for method, path, operation in operations(await description(service)):
        url = service.url + filled(path)
        headers = {"Authorization": ""}
        async with service.client.request(method.upper(), url, headers=headers) as response:
            assert (response.status == 401) == ("security" in operation) == (path not in OPEN)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("Rows", "/tasks"),
        ("Tables", "/tables"),
        ("StoredTask", "/tasks/1"),
        ("Streams", "/streams"),
        ("Problem", "/tasks/77777"),
        ("Problem", "/tasks?limit=0"),
    ],
)
async def test_answers_fit_their_schemas(start: StartService, schema: str, path: str) -> None:
    """What the service answers is what its schemas describe, each member declared."""
    service = await start(list(tasks(10_000, seed=1)))
    document = await description(service)
    async with service.client.get(service.url + "/tasks/export.csv") as stream:
        assert stream.status == 200
        async with service.client.get(service.url + path) as response:
            answer = await response.json()
    root = document | {"$ref": f"#/components/schemas/{schema}"}
    assert [error.message for error in Draft202012Validator(root).iter_errors(answer)] == []
    declared = set(document["components"]["schemas"][schema]["properties"])
    assert set(answer) - declared == ({"tasks"} if schema == "Rows" else set())


async def test_described_limits_are_those_that_hold(start: StartService) -> None:
    """A body that the document allows is stored, and one that it forbids is refused."""
    service = await start()
    document = await description(service)
    (schema,) = document["paths"]["/tasks"]["post"]["requestBody"]["content"].values()
    validator = Draft202012Validator(document | schema["schema"])
    task = {"title": "a", "priority": 1, "status": "pending"}
    bodies: list[Any] = [task, [task], [task] * 1_000, [task] * 1_001, [], {}, [{}], "a", 1, None]
    bodies += [task | {"title": title} for title in ("", "x" * 2_000, "x" * 2_001, 1, None)]
    bodies += [task | {"priority": priority} for priority in (0, 10, 11, 4.0, 4.5, 11.0, "1", True)]
    bodies += [task | {"status": "done"}, task | {"more": 1}, {"title": "a", "priority": 3}]
    for body in bodies:
        async with service.client.post(service.url + "/tasks", json=body) as response:
            assert (response.status == 201) == validator.is_valid(body), body


async def test_described_bounds_of_parameters_are_those_that_hold(start: StartService) -> None:
    """The number in a query string has a minimum and a maximum, and behind them comes a 400."""
    service = await start()
    document = await description(service)
    for path in ("/tasks", "/tasks/export.csv", "/tasks/stream.ndjson"):
        parameters = {each["name"]: each for each in document["paths"][path]["get"]["parameters"]}
        schema = parameters["limit"]["schema"]
        validator = Draft202012Validator(schema)
        low, high = schema["minimum"], schema["maximum"]
        for value in (low - 1, low, high, high + 1):
            parameter = {"limit": str(value)}
            async with service.client.get(service.url + path, params=parameter) as response:
                assert (response.status == 200) == validator.is_valid(value), (path, value)


async def test_described_choices_of_parameters_are_those_that_hold(start: StartService) -> None:
    """What the document lists for a parameter is taken, and what it does not list is not."""
    service = await start()
    document = await description(service)
    tried = set()
    for path in ("/tasks", "/tasks/export.csv", "/tasks/stream.ndjson"):
        for parameter in document["paths"][path]["get"]["parameters"]:
            name, schema = parameter["name"], parameter["schema"]
            choices = schema.get("enum") or schema.get("items", {}).get("enum")
            if not choices:
                continue
            tried.add(name)
            for value in (*choices, "nonsense"):
                url = f"{service.url}{path}?{name}={value}"
                async with service.client.get(url) as response:
                    assert (response.status == 200) == (value in choices), (path, name, value)
    assert tried == {"columns", "header", "dialect", "numbers"}


async def test_who_has_no_token_is_told_of_no_table(start: StartService, tmp_path: Path) -> None:
    """Without a token, or with one for other tables, the document has the paths of none."""
    (tmp_path / "tokens.toml").write_text(
        '[[token]]\nname = "all"\nsecret = "secret-of-all"\nscopes = ["read"]\n'
        '[[token]]\nname = "none"\nsecret = "secret-of-none"\nscopes = ["read"]\n'
        'tables = ["orders"]\n'
    )
    service = await start(tokens=tmp_path / "tokens.toml")
    told = {}
    for secret in ("", "secret-of-none", "secret-of-all"):
        headers = {"Authorization": f"Bearer {secret}"} if secret else {"Authorization": ""}
        async with service.client.get(service.url + "/openapi.json", headers=headers) as response:
            assert response.status == 200
            document = await response.json()
        assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
        told[secret] = "/tasks/export.csv" in document["paths"]
    assert told == {"": False, "secret-of-none": False, "secret-of-all": True}


def test_every_code_has_a_status_of_a_refusal() -> None:
    """Each code carries a status that says that nothing was done: 4xx or 5xx."""
    assert all(400 <= code.status < 600 for code in Code)
    assert len({str(code) for code in Code}) == len(Code) > 30


async def test_described_refusals_are_problems(start: StartService) -> None:
    """Each refusal that the document lists has the media type of RFC 9457."""
    for _, _, operation in operations(await description(await start())):
        refusals = {k: v for k, v in operation["responses"].items() if k >= "400"}
        assert refusals
        assert all(set(refusal["content"]) == {CONTENT_TYPE} for refusal in refusals.values())
