"""What an operator asks: what runs, what it costs, whether it is fit for work."""

import asyncio
import json
import os
import re
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from urllib.parse import quote

from aiohttp import hdrs, web

from ..engines import Engine
from ..errors import Code, RefusedError
from ..memory import process_memory
from ..metrics import CONTENT_TYPE, Metrics
from ..relation import Relation
from ..stream.admission import RETRY_SECONDS, Admission
from ..team import Team
from .authentication import Token, Tokens
from .connections import Connection
from .lists import JSON_TYPE
from .relations import Relations
from .streams import StreamsOfAll

PAGE = files(__package__).joinpath("index.html").read_text("utf-8")
NAMES_CHARACTERS = 200
"""Of the names of a table's columns: so many are on the page."""

Describe = Callable[[Sequence[Relation]], dict[str, object]]


class Operations:
    """The routes for operators and load balancers."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        metrics: Metrics,
        streams: StreamsOfAll,
        team: Team,
        *,
        relations: Relations,
        tokens: Tokens,
    ) -> None:
        self.describe: Describe = lambda relations: {}  # all routes, these included
        self._last_relations: list[Relation] | None = None
        self._last_text = b""
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._streams = streams
        self._team = team
        self._relations = relations
        self._tokens = tokens

    async def page(self, request: web.Request, token: None) -> web.StreamResponse:
        """`GET /`"""
        page = PAGE.replace("{address}", _asked_at(request))
        page = page.replace("{tables}", "".join(map(_row, await self._relations_for(request))))
        return web.Response(text=page, content_type="text/html")

    async def openapi(self, request: web.Request, token: None) -> web.StreamResponse:
        """`GET /openapi.json`; with a token it describes each table that this one may read, too."""
        return web.Response(body=await self._described(request), content_type=JSON_TYPE)

    async def _relations_for(self, request: web.Request) -> list[Relation]:
        guest = self._tokens.guest(request.headers.getall(hdrs.AUTHORIZATION, []))
        return [] if guest is None else await self._relations.of(guest)

    async def _described(self, request: web.Request) -> bytes:
        relations = await self._relations_for(request)
        if relations != self._last_relations:
            document = await asyncio.to_thread(self.describe, relations)
            self._last_relations, self._last_text = relations, json.dumps(document).encode()
        return self._last_text

    async def healthz(self, request: web.Request, token: Token | None) -> web.StreamResponse:
        """`GET /healthz`"""
        return web.json_response({"status": "alive"})

    async def readyz(self, request: web.Request, token: Token | None) -> web.StreamResponse:
        """`GET /readyz`"""
        if self._admission.closed:
            raise RefusedError(
                "the service is shutting down",
                code=Code.SHUTTING_DOWN,
                hint="send work to another instance",
                retry_after=RETRY_SECONDS,
            )
        await self._engine.ping()
        return web.json_response(
            {
                "status": "ready",
                "servers": [
                    {"role": server.role, "fit": server.fit, "lag_seconds": round(server.lag, 3)}
                    for server in self._engine.servers()
                ],
            }
        )

    async def metrics(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`GET /metrics`"""
        for stream in self._admission.streams.values():
            stream.report(self._metrics)
        pids = self._team.pids()
        if self._team.folder is not None:
            pids.append(os.getppid())  # the one that watches over the workers
        self._metrics.memory = await asyncio.to_thread(process_memory, pids)
        text = await asyncio.to_thread(self._metrics.text)
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def streams(self, request: web.Request, token: Token) -> web.StreamResponse:
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


def _row(relation: Relation) -> str:
    """A relation as a line of the page's table."""
    address = quote(relation.address, safe="")
    links = f'<a href="/{address}?limit=20">rows</a>' if relation.key else escape(relation.no_key)
    names = escape(", ".join(relation.names)[:NAMES_CHARACTERS])
    return f"<tr><td><code>{escape(relation.address)}</code><td>{names}<td>{links}\n"
