"""The connections: how many, how long each may wait for a head, and when one is evicted."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from aiohttp import web

from ..settings import KIB, Settings
from ..stream.flow import Flow, Room
from ..team import CONNECTIONS, IN_KERNEL, IN_PROCESS, Team
from .problems import unparsable

RECEIVE_BUFFER_BYTES = 8 * KIB
"""SO_RCVBUF of a connection, which the kernel doubles: what a client that sends can make the
kernel, and one read the process, hold. An upload over 100 ms still moves 100 KiB a second."""
RAW_HEAD_BYTES = 64 * KIB
"""Bytes from a connection without a whole request head among them, before it is dropped."""
SWEEP_PARTS = 20
"""Looks at each connection within a stall timeout: eviction comes at most 5 % late."""
SWEEP_SECONDS = 2.0
"""Longest time between two looks."""
SWEEP_SLICE = 200
"""Connections looked at before others get a turn; under a millisecond."""


class Connection(web.RequestHandler):
    """aiohttp's connection, with the limits that it lacks."""

    __slots__ = ("_connections", "_deaf", "_head_bytes", "_missed", "busy", "flow", "waiting_since")

    def __init__(self, connections: "Connections", server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._connections = connections
        self._deaf = self._missed = False
        self._head_bytes = 0
        self.busy = False
        self.waiting_since = monotonic()
        self.flow: Flow

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.flow = Flow(transport, self._connections.room, self._connections.unsent_bytes)
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._missed = True
            return
        if not self.busy:
            self._head_bytes += len(data)
            if self._head_bytes > RAW_HEAD_BYTES:
                self.flow.abort()
                return
        super().data_received(data)

    def eof_received(self) -> None:
        if self.busy:
            self.flow.hung_up()

    @contextmanager
    def request(self) -> Iterator[None]:
        """The time from a whole head to the end of its response."""
        self._connections.idle.pop(self, None)
        self.busy = True
        try:
            yield
        finally:
            self.busy = False
            self._head_bytes = 0
            self.waiting_since = monotonic()
            self._connections.rest(self)

    def ignore_input(self) -> None:
        """Drop what the client sends from now on."""
        self._deaf = True

    def heed_input(self) -> bool:
        """Take in what the client sends, unless something was dropped: then there is no telling
        where its next request starts, and the connection has to end with this response."""
        self._deaf = self._missed
        return not self._missed

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status == 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        return unparsable(exc, message)


class Connections:
    """This process's open connections, swept for those that do not move."""

    def __init__(self, settings: Settings, team: Team) -> None:
        self._settings = settings
        self._team = team
        self.room = Room()
        self.unsent_bytes = settings.unsent_bytes
        self._all: set[Connection] = set()
        self.idle: dict[Connection, None] = {}
        """Those without a request, the one that has waited longest first."""
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def close(self) -> None:
        self._sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweeper
        self.room.close()

    def add(self, connection: Connection) -> None:
        """Count it in; beyond the limit one is dropped: who has waited longest, or this one."""
        self._all.add(connection)
        self._team.set(CONNECTIONS, len(self._all))
        self.idle[connection] = None
        if self._team.total(CONNECTIONS) > self._settings.max_connections:
            dropped = next(iter(self.idle))
            # Now, not when its end is told: of many that come at once each drops another one.
            self.discard(dropped)
            dropped.flow.abort()

    def discard(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._team.set(CONNECTIONS, len(self._all))
        self.idle.pop(connection, None)

    def rest(self, connection: Connection) -> None:
        """The connection waits for its next request."""
        if connection in self._all:
            self.idle[connection] = None

    async def _sweep_for_ever(self) -> None:
        pause = min(SWEEP_SECONDS, self._settings.stall_timeout / SWEEP_PARTS)
        while True:
            await asyncio.sleep(pause)
            self._end_late_heads(monotonic())
            await self._sweep()

    def _end_late_heads(self, now: float) -> None:
        for connection in list(self.idle):
            if now - connection.waiting_since < self._settings.head_timeout:
                break
            connection.flow.abort()

    async def _sweep(self) -> None:
        in_process = in_kernel = 0
        for number, connection in enumerate(list(self._all), 1):
            flow = connection.flow
            if flow.still_for(monotonic()) >= self._settings.stall_timeout:
                flow.abort("stalled")
            in_process += flow.in_process
            in_kernel += flow.in_kernel
            if number % SWEEP_SLICE == 0:
                await asyncio.sleep(0)
        self._team.set(IN_PROCESS, in_process)
        self._team.set(IN_KERNEL, in_kernel)
