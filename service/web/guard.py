"""What every request passes on its way to its route: the head, the token, the parameters."""

import re
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from ..errors import InvalidError, RefusedError, StoreError, WeirError
from ..metrics import Metrics
from ..settings import KIB
from .authentication import Tokens
from .connections import Connection
from .parameters import parse_parameters
from .problems import from_aiohttp, problem
from .routes import Handler, Route

log = structlog.get_logger()

HEAD_BYTES = 8 * KIB
"""Most bytes in a request's head: it is kept, twice, for as long as its response takes."""
HEADER_BYTES = 128
"""What a header takes beside its text."""
RETRY_SECONDS = 5
"""What `Retry-After` says when the database failed: a server is restarted within seconds."""
METHODS_WITH_BODY = (hdrs.METH_POST, hdrs.METH_PATCH)

RawHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def register(app: web.Application, routes: list[Route], tokens: Tokens, metrics: Metrics) -> None:
    """Serve these routes, each behind its guard."""
    # `DELETE /tasks/export.csv` is a wrong method, not a wrong id.
    names = "|".join(re.escape(route.path.rpartition("/")[2]) + "$" for route in routes)
    for route in routes:
        handler = _guarded(route, tokens)
        path = route.path.replace("{id}", f"{{id:(?!{names})[^/]+}}")
        for method in (route.method, "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, path, handler, expect_handler=_expect)
    app.middlewares.append(_refusals(metrics))


def _guarded(route: Route, tokens: Tokens) -> RawHandler:
    """The route's handler, called only with a token and parameters that fit."""
    serve: Handler = route.handler

    async def handler(request: web.Request) -> web.StreamResponse:
        token = None
        if route.scope is not None:
            token = tokens.authenticate(request.headers.get(hdrs.AUTHORIZATION), route.scope)
        parameters = parse_parameters(route.parameters, list(request.query.items()))
        return await serve(request, token, parameters)

    return handler


def _refusals(
    metrics: Metrics,
) -> Middleware:
    """A middleware that turns every error before the first byte into a problem."""

    def refuse(error: WeirError) -> web.StreamResponse:
        metrics.problems.labels(error.code).inc()
        response = problem(error)
        if error.code == "bad_request":  # where the next request starts is anybody's guess
            response.force_close()
        return response

    @web.middleware
    async def middleware(request: web.Request, handler: RawHandler) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        with connection.request():
            try:
                _check_head(request)
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
                    WeirError("the service failed", hint="its log says more", code="internal")
                )

    return middleware


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


async def _expect(request: web.Request) -> web.Response | None:
    """Tell a client that waits for it to go on with its body (RFC 9110, section 10.1.1)."""
    expected = request.headers[hdrs.EXPECT]
    if expected.lower() != "100-continue":
        return problem(
            WeirError(
                f"{expected[:40]!r} is not expected here",
                code="expectation_failed",
                hint="send no Expect header but 100-continue",
            )
        )
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # that was not the response yet
    return None


def _check_head(request: web.Request) -> None:
    """Refuse a head too large to keep, and a body where none is read."""
    size = len(request.raw_path) + sum(
        len(name) + len(value) + HEADER_BYTES for name, value in request.raw_headers
    )
    if size > HEAD_BYTES:
        raise InvalidError(
            f"the request's head takes {size} bytes, {HEADER_BYTES} for each header among them; "
            f"{HEAD_BYTES} are allowed",
            code="head_too_large",
            hint="send fewer cookies, or shorter headers",
        )
    if request.can_read_body and request.method not in METHODS_WITH_BODY:
        raise InvalidError(
            f"{request.method} {request.path} takes no body",
            code="unexpected_body",
            hint="put what you ask for into the query string",
        )
