"""What somebody sees who comes with a browser: problems as pages, and commands that lead here."""

from pathlib import Path

import aiohttp
import pytest

from service.tasks.generate import tasks
from service.web.problems import CONTENT_TYPE as PROBLEM
from tests.conftest import AUTHORIZATION, StartService
from tests.test_browsers import CSV, TOKENS, names

NAVIGATION = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
"""What browsers accept when they are led somewhere by a link."""


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nothing/here", 404, "/nothing/here"),
        ("/%3Cscript%3Ealert(1)%3C/script%3E", 404, "&lt;script&gt;"),
        (CSV, 401, "Authorization: Bearer TOKEN"),
        ("/tasks/abc", 401, "token"),
    ],
)
async def test_a_problem_is_a_page_to_a_browser(
    start: StartService, path: str, status: int, words: str
) -> None:
    """A browser that follows a link gets the words of a problem as HTML, every one escaped."""
    service = await start()
    headers = {"Accept": NAVIGATION, "Authorization": ""}
    async with service.client.get(service.url + path, headers=headers) as response:
        text = await response.text()
        assert response.status == status
        assert response.content_type == "text/html"
        assert response.charset == "utf-8"
        assert int(response.headers["Content-Length"]) == len(text.encode())
        assert ("WWW-Authenticate" in response.headers) == (status == 401)
    async with service.client.get(service.url + path, headers={"Authorization": ""}) as response:
        assert response.content_type == PROBLEM
    assert words in text
    assert "<script>" not in text


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", PROBLEM),
        ("application/json", PROBLEM),
        ("application/json, text/html", PROBLEM),
        ("application/problem+json, text/html;q=0.9", PROBLEM),
        ("text/html;q=nonsense", PROBLEM),
        ("text/html;q=0", PROBLEM),
        ("", PROBLEM),
        ("text/html", "text/html"),
        ("text/html, */*;q=0.1", "text/html"),
        ("TEXT/HTML;Q=0.5", "text/html"),
    ],
)
async def test_programs_get_problems_as_json(start: StartService, accept: str, kind: str) -> None:
    """Only who would rather have HTML than JSON gets a page."""
    service = await start()
    headers = {"Accept": accept}
    async with service.client.get(service.url + "/nothing", headers=headers) as response:
        assert response.content_type == kind
        assert "accept" in names(response.headers["Vary"])


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/task", "/tasks"),
        ("/tasks/", "/tasks"),
        ("/export.csv", "/tasks/export.csv"),
        ("/metric", "/metrics"),
        ("/openapi.yaml", "/openapi.json"),
    ],
)
async def test_a_near_miss_is_told(start: StartService, path: str, meant: str) -> None:
    """A 404 names the path, the one that may have been meant, and where the others stand."""
    service = await start()
    async with service.client.get(service.url + path) as response:
        told = await response.json(content_type=PROBLEM)
    assert path.removeprefix("/") in told["detail"]
    assert f"did you mean {meant}?" in told["hint"]
    assert "/openapi.json" in told["hint"]


@pytest.mark.parametrize(
    ("heads", "address"),
    [
        ({"Host": "127.0.0.1:4321"}, "http://127.0.0.1:4321"),
        ({"Host": "weir.example"}, "http://weir.example"),
        ({"Host": "weir.example", "X-Forwarded-Proto": "https"}, "https://weir.example"),
        ({"Host": "<b>.example"}, "http://localhost"),
    ],
)
async def test_the_page_shows_the_address_that_was_asked(
    start: StartService, tmp_path: Path, heads: dict[str, str], address: str
) -> None:
    """The commands on the page `/` lead to where the page came from."""
    (tmp_path / "tokens.toml").write_text(TOKENS)
    service = await start(tokens=tmp_path / "tokens.toml")
    async with service.client.get(service.url, headers=heads) as response:
        text = await response.text()
    assert f"curl {address}/tasks/export.csv " in text
    assert "localhost:3000" not in text
    assert "<b>" not in text


async def test_the_page_leads_where_it_says(start: StartService) -> None:
    """A command of the page, taken from it as it stands, gets the file."""
    service = await start(list(tasks(10, seed=1)))
    async with service.client.get(service.url) as response:
        text = await response.text()
    address = text.split("curl ")[1].split()[0]
    async with aiohttp.request("GET", address, headers=AUTHORIZATION) as response:
        assert (await response.text()).startswith("id,title")
