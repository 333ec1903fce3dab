"""Where a request ends and the next one begins, and what its head may take.

aiohttp parses ahead: of 33 KiB of pipelined requests it makes 600 KiB of objects before a handler
sees the first. Here its parser gets no byte behind the end of the request that is under way. That
end is known without parsing: it is a blank line, or as many bytes as Content-Length says.
"""

import asyncio
from typing import Any

from aiohttp import hdrs, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from ..settings import KIB

HEAD_BYTES = 8 * KIB
"""Most bytes in a request's head: it is kept, twice, for as long as its response takes."""
LINE_BYTES = 128
"""What a line of a head takes beside its text."""
WIDE_BYTES = 4
"""What each byte of a head counts that is not all ASCII: as text, Python may keep it so wide."""
PIECE_BYTES = 1 * KIB
"""Bytes of a head, or of a body in chunks, that are parsed in one go. Each chunk becomes an object:
it takes so many bytes for two hundred of them, and then it is seen whether these are too many."""
_BLANK_LINE = b"\r\n\r\n"


class HeadTooLargeError(BadHttpMessage):
    """A request's head that is not worth keeping."""

    def __init__(self) -> None:
        super().__init__(
            f"the request's head takes more than {HEAD_BYTES} bytes, "
            f"{LINE_BYTES} for each line among them"
        )


class Requests(HttpRequestParser):
    """aiohttp's parser of one connection, for one request at a time.

    expected: the present request's Expect header, "" without one.
    body_wanted: whether its body is to be parsed; until somebody reads it, it is not.
    """

    def __init__(
        self, protocol: BaseProtocol, loop: asyncio.AbstractEventLoop, read_bytes: int
    ) -> None:
        super().__init__(
            protocol,
            loop,
            read_bytes,
            max_line_size=HEAD_BYTES,
            max_field_size=HEAD_BYTES,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,  # some KB can become GB
        )
        self._end = b""
        self.next()

    def next(self) -> None:
        """The present request is over, and the next one may begin."""
        self._body: StreamReader | None = None
        self._length: int | None = None
        self._spent = b""
        self._broken = False
        self.expected = ""
        self.body_wanted = False

    @property
    def hungry(self) -> bool:
        """Whether more bytes are to be parsed: of a head, or of a body that somebody reads."""
        return self._body is None or (self.body_wanted and not self._broken and not self.whole)

    @property
    def whole(self) -> bool:
        """Whether the present request has come to its end, without a fault."""
        return self._body is not None and self._body.is_eof() and not self._broken

    def cut(self, data: bytes) -> bytes:
        """The first of these bytes, up to where the present request may end; some, if any."""
        if self._body is not None and self._length is not None:
            return data[: self._length - self._body.total_bytes]
        # A chunked body ends in a blank line, too; one in the middle of it does no harm.
        found = (self._end + data).find(_BLANK_LINE)
        size = len(data) if found < 0 else found + len(_BLANK_LINE) - len(self._end)
        return data[: min(size, PIECE_BYTES)]

    def feed_data(  # type: ignore[override]
        self, data: bytes
    ) -> tuple[list[tuple[RawRequestMessage, StreamReader]], bool, bytes]:
        """Parse a piece that `cut` has cut; what follows an upgrade is the next request."""
        self._end = (self._end + data)[1 - len(_BLANK_LINE) :]
        try:
            if self._body is None:
                return self._parse_head(data), False, b""
            self._parse_body(self._body, data)
        except HttpProcessingError as fault:
            self._broken = True
            if self._body is None:
                self._body = EMPTY_PAYLOAD
                raise
            self._body.set_exception(web.RequestPayloadError(fault.message))
        return [], False, b""

    def _parse_head(self, data: bytes) -> list[tuple[RawRequestMessage, StreamReader]]:
        self._spend(data)
        messages, upgraded, _ = super().feed_data(data)
        if upgraded:
            self.set_upgraded(False)
        if not messages:
            return []
        ((message, self._body),) = messages
        self._spent = b""
        if not message.chunked:
            self._length = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
        return [(self._without_expect(message), self._body)]

    def _parse_body(self, body: StreamReader, data: bytes) -> None:
        before = body.total_bytes
        _, upgraded, _ = super().feed_data(data)
        if upgraded:
            self.set_upgraded(False)
        if body.total_bytes > before:
            self._spent = b""
        else:
            self._spend(data)  # chunks without end have no bytes in them, or a long trailer

    def _spend(self, data: bytes) -> None:
        self._spent += data
        size = len(self._spent) * (1 if self._spent.isascii() else WIDE_BYTES)
        if size + LINE_BYTES * self._spent.count(b"\n") > HEAD_BYTES:
            raise HeadTooLargeError

    def _without_expect(self, message: RawRequestMessage) -> RawRequestMessage:
        """aiohttp is not to see the header: it would ask for a body before anything is checked."""
        if hdrs.EXPECT not in message.headers:
            return message
        headers: CIMultiDict[str] = CIMultiDict(message.headers)
        self.expected = ", ".join(headers.popall(hdrs.EXPECT))
        return message._replace(headers=CIMultiDictProxy(headers))

    def pause_reading(self, *_: Any) -> None:
        """Nothing to do: the connection gives no more pieces until the reader has caught up."""
