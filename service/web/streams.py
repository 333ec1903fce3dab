"""The live streams of all workers: each tells the others of its own over a private socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic

from ..settings import KIB
from ..stream.admission import Admission
from ..stream.stream import Stream
from ..team import Team

STREAMS_A_PART = 50
"""Streams told of at a time; about a page."""
LINE_BYTES = 64 * KIB
"""Most bytes in the line of one stream; a token's name is the longest part of it."""
ANSWER_SECONDS = 5
"""How long another worker is waited for: one that is stuck is left out."""


class StreamsOfAll:
    """What `/streams` tells, whichever worker is asked."""

    def __init__(self, admission: Admission, team: Team) -> None:
        self._admission = admission
        self._team = team

    async def parts(self) -> AsyncIterator[list[str]]:
        """A few streams at a time, each as JSON; there may be ten thousand."""
        async for part in self._own():
            yield part
        if self._team.folder is None:
            return
        for number in range(self._team.size):
            if number != self._team.number:
                async for part in _of(_socket(self._team.folder, number)):
                    yield part

    async def _own(self) -> AsyncIterator[list[str]]:
        streams = list(self._admission.streams.values())
        for start in range(0, len(streams), STREAMS_A_PART):
            yield [json.dumps(_members(s)) for s in streams[start : start + STREAMS_A_PART]]
            await asyncio.sleep(0)

    async def tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer another worker: a line for each stream of this one."""
        with suppress(ConnectionError):
            async for part in self._own():
                writer.write(("\n".join(part) + "\n").encode())
                await writer.drain()
        writer.close()


@asynccontextmanager
async def streams_of_all(admission: Admission, team: Team) -> AsyncIterator[StreamsOfAll]:
    """For as long as the context lasts, the other workers get an answer from this one."""
    streams = StreamsOfAll(admission, team)
    if team.folder is None:
        yield streams
        return
    path = _socket(team.folder, team.number)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(streams.tell, path)
    try:
        yield streams
    finally:
        server.close()


def _socket(folder: Path, number: int) -> Path:
    return folder / f"{number}.socket"


async def _of(path: Path) -> AsyncIterator[list[str]]:
    """The streams of another worker; what it can no longer tell has ended with it."""
    with suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES)
        try:
            while True:
                async with asyncio.timeout(ANSWER_SECONDS):
                    line = await reader.readline()
                if not line.endswith(b"\n"):
                    return
                yield [line[:-1].decode()]
        finally:
            writer.close()


def _members(stream: Stream) -> dict[str, str | int | float]:
    flow = stream.flow
    since = flow.waiting_since
    return {
        "id": stream.id,
        "token": stream.token,
        "route": stream.route,
        "rows": stream.rows,
        "bytes": stream.bytes,
        "seconds": round(stream.seconds, 3),
        "waiting_seconds": 0.0 if since is None else round(monotonic() - since, 3),
        "process_bytes": flow.in_process,
        "kernel_bytes": flow.in_kernel,
    }
