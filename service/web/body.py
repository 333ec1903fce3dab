"""The body of a response that is streamed, as the sink of a pump."""

from collections.abc import Callable

from aiohttp import web

from ..stream.flow import Flow
from .connections import Connection


class BodySink:
    """A Sink: a response's body, on a connection that ends with a reset unless it is finished.

    sent: the whole body was written; the client may not have it yet.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        connection = request.protocol
        assert isinstance(connection, Connection)
        self._request = request
        self._response = response
        self._connection = connection
        self.flow: Flow = connection.flow
        self.sent = False

    async def start(self) -> None:
        """Send the head. From here on any end but `finish` breaks the connection visibly."""
        self.flow.reset_at_end()
        await self._response.prepare(self._request)
        self._connection.ignore_input()

    async def write(self, data: bytes) -> None:
        # aiohttp waits by itself after each 64 KiB; the flow waits, and knows it.
        self._request.writer.buffer_size = 0
        await self._response.write(data)

    async def room(self, slow: Callable[[], None]) -> None:
        await self.flow.room(slow)

    def close_at_end(self) -> None:
        """Take no further request on this connection."""
        self._response.force_close()

    async def finish(self) -> None:
        # A client that has the last byte may ask for more before we know that it has it.
        if not self._connection.heed_input():
            self.close_at_end()
        await self._response.write_eof()
        self.sent = True
        await self.flow.settle()
        self.flow.end_plainly()

    def abort(self, reason: str = "") -> None:
        self.flow.abort(reason)
