"""What a process of the service is told by signals: to end, to end at once, to read files again."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from time import monotonic

import structlog

log = structlog.get_logger()

ECHO_SECONDS = 0.5
"""A second signal that comes sooner is the first one again: `timeout`, `uv run` and others pass
a signal on that the terminal, or they themselves, have sent to the whole group already."""


def stop_signal(again: Callable[[int], None] = lambda number: None) -> asyncio.Event:
    """Set when this process is told to end; `again` is called when it is told so once more."""
    stop = asyncio.Event()
    told_at = 0.0

    def tell(number: int) -> None:
        nonlocal told_at
        if not stop.is_set():
            told_at = monotonic()
            stop.set()
        elif monotonic() - told_at > ECHO_SECONDS:
            again(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, tell, number)
    return stop


def end_at_once(number: int) -> None:
    """End as a second signal asks for: what is under way is reset by the kernel."""
    log.warning("told to end a second time: streams are broken")
    os._exit(128 + number)  # as a shell says it of a process that a signal has ended


def reload_signal(stop: asyncio.Event) -> asyncio.Event:
    """Set when this process is to read its files again.

    The same signal, SIGHUP, comes when a terminal is closed. Then it sets `stop`: who started the
    service by hand expects it to be gone with its window.
    """
    reload = asyncio.Event()
    has_terminal = _has_terminal()

    def tell() -> None:
        (stop if has_terminal and not _has_terminal() else reload).set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, tell)
    return reload


def _has_terminal() -> bool:
    try:
        return os.isatty(sys.__stdin__.fileno() if sys.__stdin__ else -1)
    except (OSError, ValueError):
        return False
