"""What an operator asks: what runs, what it costs, whether it is fit for work."""

import asyncio
import json
from importlib.resources import files
from time import monotonic

from aiohttp import hdrs, web

from service.errors import RefusedError
from service.memory import process_memory
from service.metrics import CONTENT_TYPE, Metrics
from service.stores import Store
from service.stream.admission import RETRY_SECONDS, Admission, Stream
from service.web.authentication import Token
from service.web.connections import Connection
from service.web.parameters import Parameters
from service.web.tasks import JSON_TYPE

STREAMS_A_WRITE = 50
"""Streams in one chunk of `/streams`; about a page."""

PAGE = files("service.web").joinpath("index.html").read_text("utf-8")


class Operations:
    """The routes for operators and load balancers."""

    def __init__(self, store: Store, admission: Admission, metrics: Metrics) -> None:
        self.description: dict[str, object] = {}  # of all routes, these included
        self._store = store
        self._admission = admission
        self._metrics = metrics

    async def page(
        self, request: web.Request, token: Token | None, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /`"""
        return web.Response(text=PAGE, content_type="text/html")

    async def openapi(
        self, request: web.Request, token: Token | None, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /openapi.json`"""
        return web.json_response(self.description)

    async def healthz(
        self, request: web.Request, token: Token | None, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /healthz`"""
        return web.json_response({"status": "alive"})

    async def readyz(
        self, request: web.Request, token: Token | None, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /readyz`"""
        if self._admission.closed:
            raise RefusedError(
                "the service is shutting down",
                code="shutting_down",
                hint="send work to another instance",
                retry_after=RETRY_SECONDS,
            )
        await self._store.ping()
        return web.json_response({"status": "ready"})

    async def metrics(
        self, request: web.Request, token: Token, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /metrics`"""
        for stream in self._admission.streams.values():
            stream.report(self._metrics)
        memory = await asyncio.to_thread(process_memory)
        return web.Response(
            body=self._metrics.text(memory), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE}
        )

    async def streams(
        self, request: web.Request, token: Token, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /streams`: a few at a time, as there may be ten thousand."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        if request.method == hdrs.METH_HEAD:
            return web.Response(content_type=JSON_TYPE)
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: JSON_TYPE})
        await response.prepare(request)
        streams = list(self._admission.streams.values())
        await response.write(b'{"streams":[')
        for start in range(0, len(streams), STREAMS_A_WRITE):
            part = streams[start : start + STREAMS_A_WRITE]
            text = ",".join(json.dumps(_members(stream)) for stream in part)
            await response.write((("," if start else "") + text).encode())
            await asyncio.sleep(0)
            await connection.flow.room()
        await response.write(b"]}")
        await response.write_eof()
        return response


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
