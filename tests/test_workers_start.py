"""A worker takes another one's place whatever has changed around the service meanwhile."""

import asyncio
import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import aiohttp
import psutil
import pytest

from tests.conftest import Process, StartProcess, until

OLD, NEW = "the-old-secret", "the-new-secret"
ROUNDS = 20
"""New connections, among which the kernel chooses: all to one worker of two is a rare thing."""


async def statuses(service: Process, path: str, secret: str) -> set[int]:
    """What the workers answer, each asked several times."""
    found = set()
    connector = aiohttp.TCPConnector(force_close=True)
    headers = {"Authorization": f"Bearer {secret}"}
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout
    ) as client:
        for _ in range(ROUNDS):
            async with client.get(service.url + path) as response:
                found.add(response.status)
    return found


async def kill_one(service: Process) -> psutil.Process:
    """Kill a worker once all serve; gives the one that was killed."""
    await until(lambda: "listening" in service.log)
    victim = psutil.Process(service.popen.pid).children()[0]
    victim.kill()
    await until(lambda: "another one takes its place" in service.log)
    return victim


async def all_serve(service: Process) -> None:
    """Return once two workers say that they are there."""
    await until(lambda: "\nweir_workers 2.0\n" in metrics(service))


def metrics(service: Process) -> str:
    headers = {"Authorization": f"Bearer {OLD}"}
    with urlopen(Request(service.url + "/metrics", headers=headers), timeout=10) as answer:
        return str(answer.read(), "utf-8")


def remove_counts(parent: Path) -> None:
    """What the workers of the one service that keeps its files there count in."""
    (counts,) = parent.glob("weir-*/counts")
    counts.unlink()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(token("first", OLD))
    return path


def token(name: str, secret: str) -> str:
    members = {"name": name, "secret": secret, "scopes": ["read", "write", "ops"]}
    lines = [f"{key} = {json.dumps(value)}" for key, value in members.items()]
    return "\n".join(["[[token]]", *lines, ""])


@pytest.mark.parametrize("change", [token("first", OLD) + token("second", NEW), "not whole"])
async def test_tokens_are_those_of_the_start(
    spawn: StartProcess, token_file: Path, change: str
) -> None:
    """A token file that changes is read at the next start of the service, not by one worker."""
    service = spawn("--workers", "2", "--tokens", str(token_file))
    await until(lambda: "listening" in service.log)
    await asyncio.to_thread(token_file.write_text, change)
    await kill_one(service)
    await all_serve(service)
    assert await statuses(service, "/tasks/export.csv", OLD) == {200}
    assert await statuses(service, "/tasks/export.csv", NEW) == {401}
    assert "Traceback" not in service.log


async def test_a_worker_that_cannot_be_started_is_tried_again(
    spawn: StartProcess, tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no process can be started for a while, the worker is there again after it."""
    python = tmp_path / "environment" / "bin" / Path(sys.executable).name
    python.parent.parent.symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(python))
    service = spawn("--workers", "2", "--tokens", str(token_file))
    await until(lambda: "listening" in service.log)
    python.parent.parent.unlink()
    await kill_one(service)
    await until(lambda: "cannot be started" in service.log)
    python.parent.parent.symlink_to(sys.prefix)
    await all_serve(service)
    assert await statuses(service, "/healthz", OLD) == {200}
    assert await asyncio.to_thread(service.stop) == 0
    assert "Traceback" not in service.log


async def test_counts_that_were_removed_are_not_made_anew(
    spawn: StartProcess, tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what all count together no worker starts: limits would not hold for all of them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    service = spawn("--workers", "2", "--tokens", str(token_file))
    await until(lambda: "listening" in service.log)
    remove_counts(tmp_path)
    await kill_one(service)
    await until(lambda: "was removed" in service.log)
    assert "Traceback" not in service.log
