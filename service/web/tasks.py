"""Single tasks and short lists: on disk before they are answered, bounded like a page."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from pydantic_core import to_json

from ..errors import InvalidError, RefusedError, WeirError
from ..settings import KIB, Settings
from ..stores import Store
from ..stream.large_rows import LargeRows
from ..table import Cursor, Extent, Format, Page, Query, Task
from .authentication import Token
from .connections import Connection
from .parameters import (
    ListParameters,
    Parameters,
    parse_changes,
    parse_id,
    parse_new_tasks,
)
from .places import place

JSON_TYPE = "application/json"
SMALL_BODY_BYTES = 4 * KIB
"""Longest body that needs no place: of the shortest tasks it holds 150, which with their answer
take some 30 KiB, as much as a connection may."""
RETRY_SECONDS = 1
"""What `Retry-After` says when all places for a request body are taken."""


class Tasks:
    """The routes of single tasks."""

    def __init__(
        self, store: Store, settings: Settings, large_rows: LargeRows, places: int
    ) -> None:
        self._store = store
        self._settings = settings
        self._large_rows = large_rows
        self._places = asyncio.Semaphore(places)  # for request bodies

    async def list(
        self, request: web.Request, token: Token, parameters: ListParameters
    ) -> web.StreamResponse:
        """`GET /tasks`: one page of lines, joined into an array."""
        extent = await self._store.extent(latest=True)
        query = Query(Format.NDJSON, until=extent.last_id, since=extent.last_seq)
        cursor: Cursor | None = Cursor(parameters.after, parameters.limit, parameters.limit)
        while cursor is not None:
            pages = await self._store.read_pages(query, cursor, 1)
            if not pages:
                return await self._list_one(request, query, cursor, extent)
            if pages[0].rows:
                return _list(pages[0], extent)
            cursor = pages[0].next_cursor  # a gap in the ids makes an empty page
        return _list(None, extent)

    async def _list_one(
        self, request: web.Request, query: Query, cursor: Cursor, extent: Extent
    ) -> web.StreamResponse:
        """A list of one task longer than a page, whose memory is paid for until it is sent."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        share = await self._large_rows.take(connection.flow)
        try:
            page = await self._store.read_row(query, cursor)
            return await self._sent(request, _list(page, extent))
        finally:
            share.end()

    async def read(
        self, request: web.Request, token: Token, parameters: Parameters
    ) -> web.StreamResponse:
        """`GET /tasks/{id}`"""
        task = await self._store.read(parse_id(request.match_info["id"]))
        return _answer(_members(task))

    async def create(
        self, request: web.Request, token: Token, parameters: Parameters
    ) -> web.StreamResponse:
        """`POST /tasks`"""
        async with self._body(request) as body:
            return await self._sent(request, await self._create(body))

    async def _create(self, body: bytes) -> web.Response:
        # By itself: while the client takes its answer, none of these objects is kept.
        tasks, many = parse_new_tasks(body)
        stored = [_members(task) for task in await self._store.create(tasks)]
        if many:
            return _answer(stored, 201)
        place: dict[str, str] = {hdrs.LOCATION: f"/tasks/{stored[0]['id']}"}
        return _answer(stored[0], 201, place)

    async def update(
        self, request: web.Request, token: Token, parameters: Parameters
    ) -> web.StreamResponse:
        """`PATCH /tasks/{id}`"""
        task_id = parse_id(request.match_info["id"])
        async with self._body(request) as body:
            task = await self._store.update(task_id, parse_changes(body))
            return await self._sent(request, _answer(_members(task)))

    async def delete(
        self, request: web.Request, token: Token, parameters: Parameters
    ) -> web.StreamResponse:
        """`DELETE /tasks/{id}`"""
        await self._store.delete(parse_id(request.match_info["id"]))
        return web.Response(status=204)

    @asynccontextmanager
    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        """The request's JSON body, in one of the few places that there are for bodies.

        The place is kept until the answer, which may be as large, is with the client.
        """
        if request.content_type != JSON_TYPE:
            raise InvalidError(
                f"the body is {request.content_type}, not {JSON_TYPE}",
                code="media_type_unsupported",
                hint=f"send the header 'Content-Type: {JSON_TYPE}'",
            )
        length, most = request.content_length, self._settings.max_body_bytes
        if length is not None and length > most:
            raise web.HTTPRequestEntityTooLarge(most, length)
        if length is not None and length <= SMALL_BODY_BYTES:
            yield await self._read_body(request)
            return
        refusal = RefusedError(
            f"all {self._settings.max_writes} places for request bodies are taken",
            code="writes_exhausted",
            hint="send it again shortly, or raise --max-writes",
            retry_after=RETRY_SECONDS,
        )
        async with place(self._places, self._settings.body_timeout, refusal):
            yield await self._read_body(request)

    async def _sent(self, request: web.Request, response: web.Response) -> web.StreamResponse:
        """The response once the kernel has all of it; a client that does not take it is dropped.

        What was stored stays stored. Without an end to it, a few clients could keep all places.
        """
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                return await connection.send(request, response)
        except TimeoutError:
            connection.flow.abort()
            raise ConnectionResetError("the client did not take its answer") from None

    async def _read_body(self, request: web.Request) -> bytes:
        patience = self._settings.body_timeout
        try:
            async with asyncio.timeout(patience):
                connection = request.protocol
                assert isinstance(connection, Connection)
                await connection.want_body(request)
                return await request.read()
        except web.RequestPayloadError as fault:
            raise InvalidError(
                f"the body cannot be read: {' '.join(str(fault).split())}",
                code="bad_request",
                hint="send it in chunks as RFC 9112 has them, or with its Content-Length",
            ) from None
        except TimeoutError:
            raise WeirError(
                f"the body did not arrive within {patience:g} seconds",
                code="body_timeout",
                hint="send it faster, or fewer tasks at a time; nothing was stored",
            ) from None


def _list(page: Page | None, extent: Extent) -> web.Response:
    """The lines of a page as one JSON document; none when there are no tasks."""
    lines = bytes(page.data).splitlines() if page else []  # no line has a newline inside
    last = json.loads(lines[-1])["id"] if lines else None
    following = json.dumps(last if last and int(last) < extent.last_id else None)
    body = b'{"tasks":[' + b",".join(lines) + b'],"next":' + following.encode() + b"}"
    return web.Response(body=body, content_type=JSON_TYPE)


def _members(task: Task) -> dict[str, str | int]:
    """A task as JSON shows it: the id is a string, so that JavaScript keeps its 64 bits."""
    task_id, title, priority, status = task
    return {"id": str(task_id), "title": title, "priority": priority, "status": status}


def _answer(body: object, status: int = 200, headers: Mapping[str, str] = {}) -> web.Response:
    text = to_json(body)  # several times as fast as `json`: there may be a thousand tasks
    return web.Response(body=text, status=status, headers=headers, content_type=JSON_TYPE)
