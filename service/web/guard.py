"""What every request passes on its way to its route: the head, the token, the parameters."""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from ..errors import Code, InvalidError, RefusedError, StoreError, WeirError
from ..formats import WIRES
from ..metrics import Metrics
from .authentication import Tokens
from .connections import Connection
from .problems import from_aiohttp, problem
from .routes import Handler, Route

log = structlog.get_logger()

RETRY_SECONDS = 5
"""What `Retry-After` says when the database failed: a server is restarted within seconds."""
METHODS_WITH_BODY = (hdrs.METH_POST, hdrs.METH_PATCH)

RawHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def register(app: web.Application, routes: list[Route], tokens: Tokens, metrics: Metrics) -> None:
    """Serve these routes, each behind its guard."""
    # `DELETE /tasks/export.csv` is a wrong method, not a wrong id.
    names = "|".join(re.escape(wire.route) + "$" for wire in WIRES.values())
    for route in routes:
        handler = _guarded(route, tokens)
        path = route.path.replace("{id}", f"{{id:(?!{names})[^/]+}}")
        path = path.replace("{table}", "{table:[^/]+}")  # by itself it would take no braces
        for method in (route.method, "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, path, handler)
    app.middlewares.append(_refusals(metrics))


def _guarded(route: Route, tokens: Tokens) -> RawHandler:
    """The route's handler, called only with a token and parameters that fit."""
    serve: Handler = route.handler

    async def handler(request: web.Request) -> web.StreamResponse:
        token = None
        if route.scope is not None:
            given = request.headers.getall(hdrs.AUTHORIZATION, [])
            token = tokens.authenticate(given, route.scope)
        if request.query and not route.selects:
            raise InvalidError(
                f"parameter {next(iter(request.query))[:40]!r} is not known here",
                code=Code.INVALID_PARAMETER,
                hint="this route takes no parameters",
            )
        return await serve(request, token)

    return handler


def _refusals(
    metrics: Metrics,
) -> Middleware:
    """A middleware that turns every error before the first byte into a problem."""

    def refuse(error: WeirError) -> web.StreamResponse:
        metrics.problems.labels(error.code).inc()
        response = problem(error)
        if error.code is Code.BAD_REQUEST:  # where the next request starts is anybody's guess
            response.force_close()
        return response

    @web.middleware
    async def middleware(request: web.Request, handler: RawHandler) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        with connection.request():
            try:
                if request.match_info.http_exception is None:  # else no route, or no such method
                    _check_head(request, connection.expected)
                with _one_response(request, connection):
                    return await handler(request)
            except WeirError as error:
                return refuse(_to_be_told(error, request.path))
            except web.HTTPException as fault:
                return from_aiohttp(fault, request)
            except ConnectionError:
                return web.Response()  # the client is gone: nobody is left to read this
            except Exception:
                log.exception("request failed", route=request.path)
                return refuse(
                    WeirError("the service failed", hint="its log says more", code=Code.INTERNAL)
                )

    return middleware


@contextmanager
def _one_response(request: web.Request, connection: Connection) -> Iterator[None]:
    """End the connection with a reset where what goes wrong can no longer be told.

    A response that has begun would have the next one in the middle of its body. And that of a
    client that is gone is empty: nobody is to take it for an answer, whatever was gone.
    """
    try:
        yield
    except Exception as fault:
        if request.writer.output_size or isinstance(fault, ConnectionError):
            connection.flow.abort()
        raise


def _to_be_told(error: WeirError, route: str) -> WeirError:
    """What a client is told: of a fault of the database no hosts, files or users of ours."""
    if error.code != StoreError.code:
        return error
    log.error("request failed", route=route, reason=error.message, hint=error.hint)
    return RefusedError(
        "the database is not available",
        code=StoreError.code,
        hint="try again later; the service's log says what is wrong",
        retry_after=RETRY_SECONDS,
    )


def _check_head(request: web.Request, expected: str) -> None:
    """Refuse what the head asks for and nobody does, and a body where none is read."""
    if expected.lower() not in ("", "100-continue"):
        raise WeirError(
            f"{expected[:40]!r} is not expected here",
            code=Code.EXPECTATION_FAILED,
            hint="send no Expect header but 100-continue",
        )
    if not request.can_read_body:
        return
    encodings = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ()))
    if encodings.strip().lower() not in ("", "identity"):
        raise InvalidError(
            f"the body is encoded as {encodings[:40]!r}; only plain ones are taken",
            code=Code.CONTENT_ENCODING_UNSUPPORTED,
            hint="send the body as it is, without Content-Encoding",
        )
    if request.method not in METHODS_WITH_BODY:
        raise InvalidError(
            f"{request.method} {request.path} takes no body",
            code=Code.UNEXPECTED_BODY,
            hint="put what you ask for into the query string",
        )
