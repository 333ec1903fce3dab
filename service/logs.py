"""How log lines look, readable text or a JSON object a line; and a way out that holds nobody up."""

import atexit
import logging
import os
import select
import sys
from queue import SimpleQueue
from threading import Event, Thread
from typing import Literal

import structlog

STANDARD_ERROR = 2
WAITING_LINES = 1_000
"""Lines that may wait until standard error takes them, some 200 KiB; the next ones are lost."""
LAST_SECONDS = 1.0
"""How long the end of the process waits for the last lines: who reads them may have stopped."""


class _Lines:
    """Standard error, as a file that never fails and never blocks.

    A thread writes. The reader of a pipe may stand still or be gone, a disk be full or hang: all
    of that concerns the log alone, never a request. A non-blocking descriptor would not do, as
    it would be one for every program that shares it, and is none on a disk.
    """

    def __init__(self) -> None:
        # Unlike a lock, it can be put to by what the garbage collector runs in the midst of a put.
        self._queue: SimpleQueue[bytes | Event] = SimpleQueue()
        self._thread: Thread | None = None
        self._lost = self._told = 0

    def write(self, text: str) -> None:
        """Have the thread write a line; it is lost where too many wait already."""
        if self._thread is None:
            self._thread = Thread(target=self._work, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.drain)
        if self._queue.qsize() < WAITING_LINES:
            self._queue.put(text.encode("utf-8", "backslashreplace"))
        else:
            self._lost += 1

    def flush(self) -> None:
        """What loggers call after each line; nobody waits here."""

    def drain(self) -> None:
        """Wait until all lines are written, but not for long."""
        if self._thread is not None:
            written = Event()
            self._queue.put(written)
            written.wait(LAST_SECONDS)

    def _work(self) -> None:
        while True:
            line = self._queue.get()
            if isinstance(line, Event):
                line.set()
            elif not _written(line):
                self._lost += 1
            elif self._lost > self._told and self._queue.empty():
                # Not earlier, or while lines are being lost each one written would be such a line.
                self._told = self._lost
                structlog.get_logger().warning(
                    "log lines could not be written", since_start=self._lost
                )


def _written(line: bytes) -> bool:
    """Whether standard error has taken this line."""
    while line:
        try:
            line = line[os.write(STANDARD_ERROR, line) :]
        except BlockingIOError:  # another program that shares it has made it non-blocking
            room = select.poll()
            room.register(STANDARD_ERROR, select.POLLOUT)
            room.poll()
        except OSError:
            return False
    return True


LINES = _Lines()
"""All that this process logs."""


def configure(form: Literal["text", "json"], worker: int | None = None) -> None:
    """Write all log lines to standard error in this form, each with the worker's number."""
    _occupy_standard_error()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if worker is not None:
        shared.append(lambda logger, method, event: {**event, "worker": worker})
    renderer: structlog.typing.Processor
    if form == "json":
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=os.isatty(STANDARD_ERROR), pad_event_to=16)
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=structlog.WriteLoggerFactory(LINES),  # type: ignore[arg-type]
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; their lines look the same.
    handler = logging.StreamHandler(LINES)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=renderer)
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _occupy_standard_error() -> None:
    """Where the process was started without one, nothing else may get its number.

    What is opened next would, be it the database, and lines would be written into it.
    """
    if sys.stderr is None:
        while os.open(os.devnull, os.O_RDWR) < STANDARD_ERROR:
            pass
