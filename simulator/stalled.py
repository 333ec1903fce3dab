"""Readers that stop reading: raw sockets, in another process than the server.

    with StalledReaders("http://127.0.0.1:3000/tasks/export.csv", 1000) as readers:
        print(readers.counts())

or, from a shell, `python -m simulator.stalled URL --readers 300 --seconds 20`. For HTTP/1.1
without TLS, on Linux.
"""

import multiprocessing
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from time import monotonic, sleep
from types import TracebackType
from typing import Self

import click

from simulator.fleet import PATIENCE, SMALL_BUFFER, Counts, Fleet, Plan, UnreachableError

START_SECONDS = 600.0
"""Longest time until all have stopped; many that read megabytes first take minutes."""
EXIT_UNREACHABLE = 2


class StalledReaders:
    """A fleet in a process of its own, for as long as the context lasts.

    Entering returns when the readers have stopped, and raises UnreachableError if none came
    so far. It all ends by itself after `seconds`, and when this process ends.
    Parameters are those of Plan.
    """

    def __init__(
        self,
        url: str,
        readers: int,
        *,
        headers: Sequence[str] = (),
        receive_buffer: int = SMALL_BUFFER,
        first: int = 0,
        seconds: float = START_SECONDS,
    ) -> None:
        self._plan = Plan(url, readers, tuple(headers), receive_buffer, first)
        self._seconds = seconds

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_hold, args=(theirs, self._plan, self._seconds), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self._receive(self._seconds + PATIENCE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def counts(self) -> Counts:
        """As they are now. Raises UnreachableError once the readers have ended by themselves."""
        with suppress(BrokenPipeError):
            self._pipe.send(None)
        return self._receive(PATIENCE)

    def close(self) -> None:
        """Reset all connections and end the process."""
        self._pipe.close()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self, seconds: float) -> Counts:
        try:
            if not self._pipe.poll(seconds):
                raise UnreachableError(f"{self._plan.url}: the readers do not report")
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise UnreachableError(f"{self._plan.url}: the readers have ended") from None
        if isinstance(answer, Counts):
            return answer
        raise UnreachableError(str(answer))


def _hold(pipe: Connection, plan: Plan, seconds: float) -> None:
    """The other process: stall, report, and report again whenever asked, until hung up on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it, too, and hangs up
    deadline = monotonic() + seconds
    fleet = Fleet(plan)
    try:
        fleet.stall(deadline)
        pipe.send(fleet.counts())
        while pipe.poll(max(0.0, deadline - monotonic())):
            pipe.recv()
            pipe.send(fleet.counts())
    except UnreachableError as error:
        pipe.send(str(error))
    except (EOFError, ConnectionError):
        pass
    finally:
        fleet.close()


@click.command(context_settings={"max_content_width": 100})
@click.argument("url")
@click.option("--readers", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seconds", type=float, default=20, show_default=True, help="to stay stalled")
@click.option("--first", type=click.IntRange(min=0), default=0, help="bytes to read before that")
@click.option(
    "--receive-buffer",
    type=click.IntRange(min=0),
    default=SMALL_BUFFER,
    show_default=True,
    help="SO_RCVBUF of each reader, in bytes; 0 leaves the system's default",
)
@click.option("--header", "-H", "headers", multiple=True, metavar="LINE", help="as in curl")
def main(
    *,
    url: str,
    readers: int,
    seconds: float,
    first: int,
    receive_buffer: int,
    headers: tuple[str, ...],
) -> None:
    """Open READERS connections that ask for URL and stop reading; hold them for SECONDS.

    Exit codes: 0 when done, or at SIGTERM; 2 when the URL cannot be had.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    fleet = Fleet(Plan(url, readers, headers, receive_buffer, first))
    try:
        fleet.stall(monotonic() + START_SECONDS)
        click.echo(_sentence(fleet.counts()))
        sleep(seconds)
    except UnreachableError as error:
        click.echo(f"stalled: {error}", err=True)
        sys.exit(EXIT_UNREACHABLE)
    finally:
        fleet.close()


def _sentence(counts: Counts) -> str:
    whole = "" if counts.stalled == counts.readers else f" of {counts.readers}"
    others = f", {counts.refused} refused" if counts.refused else ""
    others += f", {counts.ended} ended by the server" if counts.ended else ""
    return (
        f"{counts.stalled}{whole} readers stalled, {counts.bytes_read:,} bytes read in all{others}"
    )


if __name__ == "__main__":
    main()
