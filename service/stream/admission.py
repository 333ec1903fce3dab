"""Who may start a stream: the limits of all workers together."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Code, RefusedError
from ..settings import Settings
from ..team import STREAMS, Team, of_token
from .stream import Stream

RETRY_SECONDS = 5
"""What `Retry-After` says when streams are at their limit: they end at any time."""


class Admission:
    """Lets streams in up to the limits of all workers together.

    streams: those that are under way in this process, by their ids.
    """

    def __init__(self, settings: Settings, team: Team) -> None:
        self.streams: dict[str, Stream] = {}
        self.closed = False
        self._max_streams = settings.max_streams
        self._max_per_token = settings.max_streams_per_token
        self._team = team
        self._emptied = asyncio.Event()

    @contextmanager
    def admit(self, stream: Stream) -> Iterator[None]:
        """Count the stream in for as long as the context lasts, or raise RefusedError."""
        columns = (STREAMS, of_token(stream.token))
        with self._team.alone():
            self._check(stream.token)
            for column in columns:
                self._team.add(column, 1)
        self.streams[stream.id] = stream
        try:
            yield
        finally:
            del self.streams[stream.id]
            for column in columns:
                self._team.add(column, -1)
            if not self.streams:
                self._emptied.set()

    async def empty(self) -> None:
        """Return when no stream is under way in this process."""
        while self.streams:
            self._emptied.clear()
            await self._emptied.wait()

    def _check(self, token: str) -> None:
        if self.closed:
            raise RefusedError(
                "the service is shutting down",
                code=Code.SHUTTING_DOWN,
                hint="ask again shortly; another instance may answer",
                retry_after=RETRY_SECONDS,
            )
        if self._team.total(STREAMS) >= self._max_streams:
            raise RefusedError(
                f"all {self._max_streams} streams are taken",
                code=Code.STREAMS_EXHAUSTED,
                hint="ask again later, or raise --max-streams",
                retry_after=RETRY_SECONDS,
            )
        if self._team.total(of_token(token)) >= self._max_per_token:
            raise RefusedError(
                f"all {self._max_per_token} streams of token {token!r} are taken",
                code=Code.TOKEN_STREAMS_EXHAUSTED,
                hint="let one of your streams end first",
                retry_after=RETRY_SECONDS,
            )
