"""The two exports: a page is read, sent, and the client awaited, until the table ends."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from aiohttp import hdrs, web

from ..errors import RefusedError, StoreError
from ..metrics import Metrics
from ..stores import Store
from ..stream.admission import Admission
from ..stream.pages import Budgets, Pages
from ..stream.pump import pump
from ..stream.stream import Stream
from ..table import Extent, Format
from .authentication import Token
from .connections import Connection
from .parameters import CsvParameters, NdjsonParameters
from .places import place

log = structlog.get_logger()

CSV_TYPE = "text/csv; charset=utf-8; header="
NDJSON_TYPE = "application/x-ndjson"
BYTE_ORDER_MARK = "\ufeff"
STARTS_AT_ONCE = 32
"""Streams that read their first page at the same time. What a start takes is soon free, but
not given back: 3,000 at once left 24 KiB each behind."""
START_SECONDS = 60
"""How long a stream waits for its turn to start: ten thousand need some ten, but a database that
answers nobody would keep each 32 of them for as long as a read may take."""
RETRY_SECONDS = 10
"""What `Retry-After` says then."""


@dataclass(frozen=True)
class Exports:
    """The streaming routes and what they need."""

    store: Store
    admission: Admission
    budgets: Budgets
    metrics: Metrics
    starting: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(STARTS_AT_ONCE), init=False
    )

    async def csv(
        self, request: web.Request, token: Token, parameters: CsvParameters
    ) -> web.StreamResponse:
        """`GET /tasks/export.csv`"""
        head, content_type = "", CSV_TYPE + "absent"
        if parameters.header == "true":
            head, content_type = ",".join(parameters.columns), CSV_TYPE + "present"
            excel = parameters.format is Format.EXCEL
            head = f"{BYTE_ORDER_MARK}{head}\r\n" if excel else f"{head}\n"
        return await self._export(request, token, parameters, content_type, head.encode())

    async def ndjson(
        self, request: web.Request, token: Token, parameters: NdjsonParameters
    ) -> web.StreamResponse:
        """`GET /tasks/stream.ndjson`"""
        return await self._export(request, token, parameters, NDJSON_TYPE, b"")

    async def _export(
        self,
        request: web.Request,
        token: Token,
        parameters: NdjsonParameters,
        content_type: str,
        head: bytes,
    ) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        stream = Stream(token.name, request.path, connection.flow)
        with self.admission.admit(stream):
            refusal = RefusedError(
                f"streams that came before have kept this one from starting for {START_SECONDS} "
                "seconds",
                code="starts_exhausted",
                hint="is the database overloaded, or locked? Try again later",
                retry_after=RETRY_SECONDS,
            )
            async with place(self.starting, START_SECONDS, refusal):
                extent = await self.store.extent()
                query = parameters.query(extent)
                pages = Pages(self.store, query, parameters.cursor, self.budgets, stream.flow)
                if request.method != hdrs.METH_HEAD:
                    # Nobody waits for memory in here, where others wait for their turn to start.
                    await pages.load(wait=False)
            response = web.StreamResponse(headers=_headers(content_type, stream, extent))
            # Nothing that the client sends behind this request is read any more.
            response.force_close()
            if request.version >= (1, 1):
                response.enable_chunked_encoding()
            if request.method == hdrs.METH_HEAD:
                await response.prepare(request)
                return response
            try:
                await response.prepare(request)
                connection.ignore_input()

                async def write(data: bytes) -> None:
                    # aiohttp waits by itself after each 64 KiB; the flow waits, and knows it.
                    request.writer.buffer_size = 0
                    await response.write(data)

                await self._run(response, stream, pages, head, write)
            finally:
                pages.close()
        return response

    async def _run(
        self,
        response: web.StreamResponse,
        stream: Stream,
        pages: Pages,
        head: bytes,
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Send the body. Whatever goes wrong from here on breaks the connection, visibly."""
        log.info("stream started", stream=stream.id, token=stream.token, route=stream.route)
        outcome, sent = "failed", False
        stream.flow.guard()
        try:
            await write(head)
            await pump(stream, pages, write)
            await response.write_eof()
            sent = True
            await stream.flow.settle()
            stream.flow.release()
            outcome = "complete"
        except asyncio.CancelledError:
            outcome = "complete" if sent and stream.flow.settled else stream.flow.ended_by or "gone"
            raise
        except ConnectionError:
            outcome = stream.flow.ended_by or "gone"
        except StoreError as error:
            log.error("stream failed", stream=stream.id, reason=error.message, hint=error.hint)
        except Exception:
            log.exception("stream failed", stream=stream.id)
        finally:
            if outcome != "complete":
                stream.flow.abort()
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


def _headers(content_type: str, stream: Stream, extent: Extent) -> dict[str, str]:
    file_name = "tasks." + stream.route.rpartition(".")[2]
    return {
        hdrs.CONTENT_TYPE: content_type,
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{file_name}"',
        hdrs.CACHE_CONTROL: "no-store",
        "X-Accel-Buffering": "no",
        "Weir-Stream-Id": stream.id,
        "Weir-Since": str(extent.last_seq),
    }
