"""What an operator asks: what runs, what it costs, whether it is fit for work."""

import asyncio
import json
import os
import re
from functools import cached_property
from importlib.resources import files

from aiohttp import hdrs, web

from ..errors import RefusedError
from ..memory import process_memory
from ..metrics import CONTENT_TYPE, Metrics
from ..stores import Store
from ..stream.admission import RETRY_SECONDS, Admission
from ..team import Team
from .authentication import Token
from .connections import Connection
from .parameters import Parameters
from .streams import StreamsOfAll
from .tasks import JSON_TYPE

PAGE = files(__package__).joinpath("index.html").read_text("utf-8")


class Operations:
    """The routes for operators and load balancers."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        metrics: Metrics,
        streams: StreamsOfAll,
        team: Team,
    ) -> None:
        self.description: dict[str, object] = {}  # of all routes, these included
        self._store = store
        self._admission = admission
        self._metrics = metrics
        self._streams = streams
        self._team = team

    async def page(
        self, request: web.Request, token: Token | None, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /`"""
        page = PAGE.replace("{address}", _asked_at(request))
        return web.Response(text=page, content_type="text/html")

    async def openapi(
        self, request: web.Request, token: Token | None, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /openapi.json`"""
        return web.Response(body=self._described, content_type=JSON_TYPE)

    @cached_property
    def _described(self) -> bytes:
        return json.dumps(self.description).encode()

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
        return web.json_response(
            {
                "status": "ready",
                "servers": [
                    {"role": server.role, "fit": server.fit, "lag_seconds": round(server.lag, 3)}
                    for server in self._store.servers()
                ],
            }
        )

    async def metrics(
        self, request: web.Request, token: Token, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /metrics`"""
        for stream in self._admission.streams.values():
            stream.report(self._metrics)
        pids = self._team.pids()
        if self._team.folder is not None:
            pids.append(os.getppid())  # the one that watches over the workers
        self._metrics.memory = await asyncio.to_thread(process_memory, pids)
        text = await asyncio.to_thread(self._metrics.text)
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def streams(
        self, request: web.Request, token: Token, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /streams`"""
        connection = request.protocol
        assert isinstance(connection, Connection)
        if request.method == hdrs.METH_HEAD:
            return web.Response(content_type=JSON_TYPE)
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: JSON_TYPE})
        await response.prepare(request)
        await response.write(b'{"streams":[')
        comma = ""
        async for part in self._streams.parts():
            await response.write((comma + ",".join(part)).encode())
            await connection.flow.room()
            comma = ","
        await response.write(b"]}")
        await response.write_eof()
        return response


def _asked_at(request: web.Request) -> str:
    """The address that the client asked, as it may stand in a page and in a shell's command."""
    host = request.headers.get(hdrs.HOST, "")
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+", host):
        host = "localhost"
    # A proxy that speaks TLS for the service says so; a token is not to be sent without it.
    encrypted = request.headers.get(hdrs.X_FORWARDED_PROTO, "").lower() == "https"
    return f"{'https' if encrypted else 'http'}://{host}"
