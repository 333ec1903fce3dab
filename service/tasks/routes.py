"""The routes of single tasks: on the disk before they are answered."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from pydantic_core import to_json

from ..errors import Code, InvalidError, RefusedError, WeirError
from ..settings import KIB, Settings
from ..web.authentication import Scope, Token
from ..web.connections import Connection, sent
from ..web.lists import JSON_TYPE
from ..web.routes import Route
from ..web.slots import slot
from .bodies import (
    TASKS_A_POST,
    ChangesBody,
    StoredTask,
    TaskBody,
    parse_changes,
    parse_id,
    parse_new_tasks,
)
from .model import Task, TaskStore

SMALL_BODY_BYTES = 4 * KIB
"""Longest body that needs no slot: of the shortest tasks it holds 150, which with their answer
take some 30 KiB, as much as a connection may."""
RETRY_SECONDS = 1
"""What `Retry-After` says when all slots for a request body are taken."""


class Tasks:
    """The routes of single tasks."""

    def __init__(self, store: TaskStore, settings: Settings, slots: int) -> None:
        self._store = store
        self._settings = settings
        self._slots = asyncio.Semaphore(slots)  # for request bodies

    async def read(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`GET /tasks/{id}`"""
        task = await self._store.read(parse_id(request.match_info["id"]))
        return _answer(_members(task))

    async def create(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`POST /tasks`"""
        async with self._body(request) as body:
            return await self._sent(request, await self._create(body))

    async def _create(self, body: bytes) -> web.Response:
        # By itself: while the client takes its answer, none of these objects is kept.
        tasks, many = parse_new_tasks(body)
        stored = [_members(task) for task in await self._store.create(tasks)]
        if many:
            return _answer(stored, 201)
        location: dict[str, str] = {hdrs.LOCATION: f"/tasks/{stored[0]['id']}"}
        return _answer(stored[0], 201, location)

    async def update(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`PATCH /tasks/{id}`"""
        task_id = parse_id(request.match_info["id"])
        async with self._body(request) as body:
            task = await self._store.update(task_id, parse_changes(body))
            return await self._sent(request, _answer(_members(task)))

    async def delete(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`DELETE /tasks/{id}`"""
        await self._store.delete(parse_id(request.match_info["id"]))
        return web.Response(status=204)

    @asynccontextmanager
    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        """The request's JSON body, in one of the few slots that there are for bodies.

        The slot is kept until the answer, which may be as large, is with the client.
        """
        if request.content_type != JSON_TYPE:
            raise InvalidError(
                f"the body is {request.content_type}, not {JSON_TYPE}",
                code=Code.MEDIA_TYPE_UNSUPPORTED,
                hint=f"send the header 'Content-Type: {JSON_TYPE}'",
            )
        length, most = request.content_length, self._settings.max_body_bytes
        if length is not None and length > most:
            raise web.HTTPRequestEntityTooLarge(most, length)
        if length is not None and length <= SMALL_BODY_BYTES:
            yield await self._read_body(request)
            return
        refusal = RefusedError(
            f"all {self._settings.max_writes} slots for request bodies are taken",
            code=Code.WRITES_EXHAUSTED,
            hint="send it again shortly, or raise --max-writes",
            retry_after=RETRY_SECONDS,
        )
        async with slot(self._slots, self._settings.body_timeout, refusal):
            yield await self._read_body(request)

    async def _sent(self, request: web.Request, response: web.Response) -> web.StreamResponse:
        """The response once it is sent. What was stored stays stored if it cannot be."""
        return await sent(request, response, self._settings.body_timeout)

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
                code=Code.BAD_REQUEST,
                hint="send it in chunks as RFC 9112 has them, or with its Content-Length",
            ) from None
        except TimeoutError:
            raise WeirError(
                f"the body did not arrive within {patience:g} seconds",
                code=Code.BODY_TIMEOUT,
                hint="send it faster, or fewer tasks at a time; nothing was stored",
            ) from None


def _members(task: Task) -> dict[str, str | int]:
    """A task as JSON shows it: the id is a string, so that JavaScript keeps its 64 bits."""
    task_id, title, priority, status = task
    return {"id": str(task_id), "title": title, "priority": priority, "status": status}


def _answer(body: object, status: int = 200, headers: Mapping[str, str] = {}) -> web.Response:
    text = to_json(body)  # several times as fast as `json`: there may be a thousand tasks
    return web.Response(body=text, status=status, headers=headers, content_type=JSON_TYPE)


BODY_PROBLEMS = (
    Code.BAD_REQUEST,
    Code.INVALID_JSON,
    Code.BODY_TIMEOUT,
    Code.BODY_TOO_LARGE,
    Code.MEDIA_TYPE_UNSUPPORTED,
    Code.INVALID_TASK,
    Code.WRITES_EXHAUSTED,
    Code.STORE_UNAVAILABLE,
)


def task_routes(tasks: Tasks) -> list[Route]:
    """The routes of single tasks; lists and streams are those of every table."""
    read, write = Scope.READ, Scope.WRITE
    return [
        Route(
            "POST",
            "/tasks",
            "Store one task, or an array of up to 1,000: all or none",
            tasks.create,
            write,
            body=TaskBody,
            many=TASKS_A_POST,
            status=201,
            answer=StoredTask,
            problems=BODY_PROBLEMS,
        ),
        Route(
            "GET",
            "/tasks/{id}",
            "One task",
            tasks.read,
            read,
            answer=StoredTask,
            problems=(
                Code.INVALID_ID,
                Code.TASK_NOT_FOUND,
                Code.STORE_UNAVAILABLE,
                Code.ROW_TOO_LARGE,
            ),
        ),
        Route(
            "PATCH",
            "/tasks/{id}",
            "Change one task",
            tasks.update,
            write,
            body=ChangesBody,
            answer=StoredTask,
            problems=(Code.INVALID_ID, Code.TASK_NOT_FOUND, *BODY_PROBLEMS),
        ),
        Route(
            "DELETE",
            "/tasks/{id}",
            "Delete one task",
            tasks.delete,
            write,
            status=204,
            problems=(Code.INVALID_ID, Code.TASK_NOT_FOUND, Code.STORE_UNAVAILABLE),
        ),
    ]
