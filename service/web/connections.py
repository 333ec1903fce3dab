"""The connections: how many, how long each may wait for a head, and when one is evicted."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import Any

from aiohttp import hdrs, web

from ..settings import KIB, Settings
from ..stream.flow import Flow, Room
from ..team import CONNECTIONS, IN_KERNEL, IN_PROCESS, Team
from .problems import unparsable
from .requests import Requests

RECEIVE_BUFFER_BYTES = 8 * KIB
"""SO_RCVBUF of a connection, which the kernel doubles: what a client that sends can make the
kernel, and one read the process, hold. An upload over 100 ms still moves 100 KiB a second."""
PIECE_BYTES = 8 * KIB
"""Bytes of a long response that are written in one go: whoever does not read has no more of it
kept a second time."""
SWEEP_PARTS = 20
"""Looks at each connection within a stall timeout: eviction comes at most 5 % late."""
SWEEP_SECONDS = 2.0
"""Longest time between two looks."""
SWEEP_SLICE = 200
"""Connections looked at before others get a turn; under a millisecond."""


class Connection(web.RequestHandler):
    """aiohttp's connection, with the limits that it lacks."""

    __slots__ = (
        "_connections",
        "_deaf",
        "_held",
        "_ignored_bytes",
        "_linger_seconds",
        "_missed",
        "_requests",
        "busy",
        "flow",
        "waiting_since",
    )

    def __init__(
        self,
        connections: "Connections",
        server: web.Server,
        *,
        lingering_time: float,
        read_bufsize: int,
        **options: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        # aiohttp's way to linger parses what it throws away; ours is below.
        super().__init__(server, loop=loop, lingering_time=0, **options)
        self._connections = connections
        self._linger_seconds = lingering_time
        self._parser = self._requests = Requests(self, loop, read_bufsize)
        self._held = b""
        self._deaf = self._missed = False
        self._ignored_bytes = 0.0
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
        self._held = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what belongs to the present request, and hold what is behind it.

        While something is held, nothing more is read: it is one read's bytes at most.
        """
        if self._deaf:
            self._missed = True
            self._ignored_bytes -= len(data)
            if self._ignored_bytes < 0:
                self.flow.abort()
            return
        self._held += data
        while self._held and self._requests.hungry and not self._reading_paused:
            piece = self._requests.cut(self._held)
            self._held = self._held[len(piece) :]
            super().data_received(piece)
        if self._held:
            self._pause_transport_reading()

    def _resume_transport_reading(self) -> None:
        # aiohttp calls this, too, and does not know of what is held.
        if not self._held:
            super()._resume_transport_reading()

    def _go_on(self) -> None:
        """Parse what is held, as far as it is wanted by now, and read on behind it."""
        self.data_received(b"")
        if not self._reading_paused:
            self._resume_transport_reading()

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
            self.waiting_since = monotonic()
            self._connections.rest(self)

    @property
    def expected(self) -> str:
        """What the present request's Expect header says, "" without one."""
        return self._requests.expected

    async def want_body(self, request: web.Request) -> None:
        """Take in the body of the present request, and tell a client that waits to send it.

        Until then nothing is made of it: who may send one, and how long, is checked before.
        """
        if self.expected and request.version >= (1, 1) and not self._held:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # that was not the response yet
        self._requests.body_wanted = True
        self._go_on()

    async def send(
        self, request: web.BaseRequest, response: web.StreamResponse
    ) -> web.StreamResponse:
        """Send a response; one that is whole and long a piece at a time."""
        body = response.body if isinstance(response, web.Response) else None
        if (
            not isinstance(body, bytes)
            or len(body) <= PIECE_BYTES
            or response.prepared
            or request.method == hdrs.METH_HEAD
        ):
            await response.prepare(request)
            await response.write_eof()
            return response
        begun = web.StreamResponse(status=response.status, headers=response.headers)
        begun.content_length = len(body)
        if response.keep_alive is False:
            begun.force_close()
        await begun.prepare(request)
        for start in range(0, len(body), PIECE_BYTES):
            await self.flow.room()
            await begun.write(body[start : start + PIECE_BYTES])
        await begun.write_eof()
        return begun

    def ignore_input(self, most: float = inf) -> None:
        """Drop what the client sends from now on; what came before is kept for `heed_input`.

        It is read all the same, or it would not be seen that a client hangs up.
        most: bytes; whoever sends more is reset, and has nothing kept.
        """
        self._deaf, self._missed = True, False
        self._ignored_bytes = most
        if most is not inf:
            self._held = b""
        super()._resume_transport_reading()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; then comes the next request, if it is known where that one starts.

        Returns it, and whether the client is gone; instead of aiohttp's, which writes all at once.
        """
        whole = self._requests.whole
        if not whole:
            resp.force_close()
            self.ignore_input(self._connections.linger_bytes)
        try:
            resp = await self.send(request, resp)
        except ConnectionError:
            return resp, True
        if not whole:
            await self._linger()
        elif resp.keep_alive:
            self._requests.next()
            self._go_on()
        return resp, False

    async def _linger(self) -> None:
        """Let a client that still sends see its answer: closed at once, it would see a reset."""
        if self.transport is not None:
            with suppress(OSError):  # it is gone
                self.transport.write_eof()
            await asyncio.sleep(self._linger_seconds)

    def heed_input(self) -> bool:
        """Take in what the client sends, unless something was dropped: then there is no telling
        where its next request starts, and the connection has to end with this response."""
        self._deaf = self._missed
        if self._missed:
            self._held = b""
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


async def sent(request: web.Request, response: web.Response, seconds: float) -> web.StreamResponse:
    """The response once the kernel has all of it; a client that does not take it is dropped.

    For answers that hold what others wait for: without an end, a few clients could keep all of it.
    """
    connection = request.protocol
    assert isinstance(connection, Connection)
    try:
        async with asyncio.timeout(seconds):
            return await connection.send(request, response)
    except TimeoutError:
        connection.flow.abort()
        raise ConnectionResetError("the client did not take its answer") from None


class Connections:
    """This process's open connections, swept for those that do not move."""

    def __init__(self, settings: Settings, team: Team) -> None:
        self._settings = settings
        self._team = team
        self.room = Room()
        self.unsent_bytes = settings.unsent_bytes
        self.linger_bytes = settings.max_body_bytes
        """Bytes still read of a body that was refused: whoever sent no longer one than may be sent
        sees why."""
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
