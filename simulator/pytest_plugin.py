"""The fixture `slow_readers`: is my server's memory bounded under slow readers?

def test_the_export_is_bounded(slow_readers):
    url = slow_readers.start("uvicorn app:app --port {port}")
    verdict = slow_readers.judge(f"{url}/export")
    assert verdict.bounded, verdict
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# What is heavy is imported when the fixture is used: every run of pytest imports this file.
if TYPE_CHECKING:
    from .record import SelfTestLine
    from .verdict import Verdict

READERS = 60
"""At the top of the staircase: few enough for a server that keeps every body whole."""
PORT_TRIES = 3
"""A port that was free may be somebody else's by the time that the server starts."""


class SlowReaders:
    """Starts servers and judges them; both end with the test."""

    _self_test: SelfTestLine | None = None

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._pids: dict[str, int] = {}
        self.records: list[Path] = []

    def start(self, command: str, host: str = "127.0.0.1") -> str:
        """Run a server, with a free port for `{port}` in its command; its URL when it accepts.

        Raises UsageError, with the last that it said, if it does not.
        """
        from .launch import PortTakenError, free_port, started

        for tries_left in reversed(range(PORT_TRIES)):
            port = free_port()
            url = f"http://{host}:{port}"
            words = shlex.split(command.replace("{port}", str(port)))
            try:
                self._pids[url] = self._stack.enter_context(started(words, url))
            except PortTakenError:
                if not tries_left:
                    raise
            else:
                return url
        raise AssertionError("the last try returns or raises")

    def judge(self, url: str, *, readers: int = READERS, **plan: Any) -> Verdict:
        """The verdict on the server at `url`; plan: what else `weir-sim run` takes.

        Names as those options' with underscores, `user_budget="1MiB"`; `quick` unless told
        otherwise. Raises UsageError or InconclusiveError if the trial cannot begin.
        """
        from .plan import make_plan
        from .record import Record
        from .run import run_trial
        from .selftest import tell_apart

        if SlowReaders._self_test is None:
            SlowReaders._self_test = tell_apart()
        made = make_plan(url=url, readers=readers, **({"quick": True} | plan))
        pid = next((pid for known, pid in self._pids.items() if url.startswith(known)), None)
        path = self._folder / f"slow-readers-{len(self.records)}.ndjson"
        self.records.append(path)
        with path.open("w", encoding="utf-8") as file:
            record = Record(made, file)
            return run_trial(made, record, pid=pid, self_test=SlowReaders._self_test)


@pytest.fixture
def slow_readers(tmp_path: Path) -> Iterator[SlowReaders]:
    """Slow readers for a server of yours; see SlowReaders."""
    with ExitStack() as stack:
        yield SlowReaders(tmp_path, stack)
