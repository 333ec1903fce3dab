"""The exports: a page is read, sent, and the client awaited, until the table ends."""

import asyncio
import re
from dataclasses import dataclass, field, replace

import structlog
from aiohttp import hdrs, web
from aiohttp.helpers import content_disposition_header

from ..engines import Reader
from ..errors import Code, InvalidError, RefusedError, StoreError
from ..formats import WIRES
from ..metrics import Metrics
from ..query import Cursor, Format, Query
from ..stream.admission import Admission
from ..stream.pages import Budgets, Pages
from ..stream.pump import pump
from ..stream.stream import Stream
from .authentication import Token
from .body import BodySink
from .connections import Connection
from .relations import Relations, with_key
from .selecting import select
from .slots import slot

log = structlog.get_logger()

STARTS_AT_ONCE = 32
"""Streams that read their first page at the same time. What a start takes is soon free, but
not given back: 3,000 at once left 24 KiB each behind."""
START_SECONDS = 60
"""How long a stream waits for its turn to start: ten thousand need some ten, but a database that
answers nobody would keep each 32 of them for as long as a read may take."""
RETRY_SECONDS = 10
"""What `Retry-After` says then."""
FROM_THE_START = re.compile(r"\s*bytes\s*=\s*0+\s*-\s*[0-9]*\s*", re.IGNORECASE)
"""A Range header that is answered with all of the body, as RFC 9110 allows: it starts there."""


@dataclass(frozen=True)
class Exports:
    """The streaming routes and what they need."""

    reader: Reader
    relations: Relations
    admission: Admission
    budgets: Budgets
    metrics: Metrics
    starting: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(STARTS_AT_ONCE), init=False
    )

    async def csv(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`GET /{table}/export.csv`"""
        return await self._export(request, token, Format.CSV)

    async def ndjson(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`GET /{table}/stream.ndjson`"""
        return await self._export(request, token, Format.NDJSON)

    async def _export(
        self, request: web.Request, token: Token, format_: Format
    ) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        relation = with_key(await self.relations.find(token, request.match_info["table"]))
        query, header = select(relation, format_, request, token.role)
        _refuse_range(request)
        stream = Stream(token.name, request.path, connection.flow)
        with self.admission.admit(stream):
            refusal = RefusedError(
                f"streams that came before have kept this one from starting for {START_SECONDS} "
                "seconds",
                code=Code.STARTS_EXHAUSTED,
                hint="is the database overloaded, or locked? Try again later",
                retry_after=RETRY_SECONDS,
            )
            async with slot(self.starting, START_SECONDS, refusal):
                start = await self.reader.start(query)
                query = replace(query, until=start.until, since=start.since)
                cursor = Cursor(start.after, query.limit)
                pages = Pages(self.reader, query, cursor, self.budgets, stream.flow)
                if request.method != hdrs.METH_HEAD:
                    # Nobody waits for memory in here, where others wait for their turn to start.
                    await pages.load(wait=False)
            response = web.StreamResponse(headers=_headers(query, stream, header=header))
            if request.version >= (1, 1):
                response.enable_chunked_encoding()
            else:
                response.force_close()  # the end of the connection is that of the body
            if request.method == hdrs.METH_HEAD:
                await response.prepare(request)
                return response
            sink = BodySink(request, response)
            try:
                await self._run(stream, pages, sink, WIRES[format_].head(query, header=header))
            finally:
                pages.close()
        return response

    async def _run(self, stream: Stream, pages: Pages, sink: BodySink, head: bytes) -> None:
        """Send the response. Whatever goes wrong in here breaks the connection, visibly."""
        outcome, flow = "failed", stream.flow
        try:
            log.info("stream started", stream=stream.id, token=stream.token, route=stream.route)
            await sink.start()
            await sink.write(head)
            await pump(pages, sink, stream.count)
            if self.admission.closed:
                sink.close_at_end()
            await sink.finish()
            outcome = "complete"
        except asyncio.CancelledError:
            outcome = "complete" if sink.sent and flow.settled else flow.ended_by or "gone"
            raise
        except ConnectionError:
            outcome = flow.ended_by or "gone"
        except StoreError as error:
            log.error("stream failed", stream=stream.id, reason=error.message, hint=error.hint)
        except Exception:
            log.exception("stream failed", stream=stream.id)
        finally:
            if outcome != "complete":
                sink.abort()
            self._ended(stream, outcome)

    def _ended(self, stream: Stream, outcome: str) -> None:
        stream.report(self.metrics)
        self.metrics.ended.labels(stream.route, outcome).inc()
        self.metrics.waiting.observe(stream.flow.waited)
        log.info(
            "stream ended",
            stream=stream.id,
            token=stream.token,
            route=stream.route,
            outcome=outcome,
            rows=stream.rows,
            bytes=stream.bytes,
            seconds=round(stream.seconds, 3),
            waiting=round(stream.flow.waited, 3),
        )


def _refuse_range(request: web.Request) -> None:
    """Refuse to go on where another download broke off: a live stream is never the same twice.

    wget, whose transfer broke, asks for the rest. Given a whole body again it skips as many bytes
    as it has, glues what follows to them, and exits with 0.
    """
    ranges = ",".join(request.headers.getall(hdrs.RANGE, ()))
    unit = ranges.partition("=")[0].strip().lower()
    if request.method == hdrs.METH_HEAD or unit != "bytes" or FROM_THE_START.fullmatch(ranges):
        return
    raise InvalidError(
        f"a live stream has no byte ranges, and {ranges[:40]!r} asks for one",
        code=Code.RANGE_NOT_SUPPORTED,
        hint="to resume, cut the file behind its last whole record, ask with after= and the id in "
        "it (CSV: and header=false), without a Range header, and append what comes",
    )


def _headers(query: Query, stream: Stream, *, header: bool) -> dict[str, str]:
    wire, relation = WIRES[query.format], query.relation
    name = f"{relation.address}.{wire.extension}"
    headers = {
        hdrs.CONTENT_TYPE: wire.content_type(header=header),
        hdrs.CONTENT_DISPOSITION: content_disposition_header("attachment", filename=name),
        hdrs.CACHE_CONTROL: "no-store",
        "X-Accel-Buffering": "no",
        "Weir-Stream-Id": stream.id,
    }
    return headers | ({"Weir-Since": str(query.since)} if relation.counted else {})
