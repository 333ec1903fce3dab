"""Servers that the simulator starts: nobody takes the port away from them."""

import socket
import sys
from collections.abc import Iterator

import pytest

from simulator import launch
from simulator.errors import UsageError
from simulator.pytest_plugin import SlowReaders
from simulator.selftest import serving

SERVER = f"{sys.executable} -m simulator.specimens bounded --port {{port}}"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_specimen_needs_no_port_that_was_free_before(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The servers of the self-test choose their ports themselves, so that nobody comes between."""
    monkeypatch.setattr(launch, "free_port", lambda: taken)
    with serving("bounded") as (first, _), serving("bounded") as (second, _):
        assert first != second
        assert str(taken) not in first + second


def test_a_port_that_is_taken_meanwhile_is_left(
    taken: int, monkeypatch: pytest.MonkeyPatch, slow_readers: SlowReaders
) -> None:
    """Where somebody takes the port before the server does, the server gets another one."""
    other = launch.free_port()
    ports = iter([taken, other])
    monkeypatch.setattr(launch, "free_port", lambda: next(ports))
    assert slow_readers.start(SERVER) == f"http://127.0.0.1:{other}"


def test_a_server_that_says_no_port() -> None:
    """A server that ends before it listens is told with the last that it said."""
    with (
        pytest.raises(UsageError, match="does not say on which port it listens; it said: hello"),
        launch.started_anywhere(["echo", "hello"]),
    ):
        pytest.fail("it cannot have started")
