"""What browsers are let do: no page reaches a service under development by a name of its own,
and a page of another origin reads nothing unless `--allow-origin` names it (CORS)."""

import ipaddress
from collections.abc import Sequence

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from ..errors import Code, InvalidError

ANY = "*"
METHODS = frozenset((hdrs.METH_GET, hdrs.METH_HEAD, "POST", "PATCH", "DELETE"))
"""Those of all routes: where nothing is served, a page may learn that as well."""
ASKED_WITH = "Authorization, Content-Type"
SHOWN = "Content-Disposition, Location, Retry-After, Weir-Since, Weir-Stream-Id"
"""Heads that a page may read, beside those that it always may."""
PREFLIGHT_SECONDS = 600
"""How long a browser may remember that it may ask; each preflight is one more round trip."""
ASKS_FOR_PRIVATE = "Access-Control-Request-Private-Network"
"""From a page of a public address to a service of a private one."""
SHOWN_CHARACTERS = 100


class Origins:
    """Who may ask out of a browser.

    allowed: origins as browsers write them, or `*`. development: the development token works,
    which every web page knows.
    """

    def __init__(self, allowed: Sequence[str], *, development: bool) -> None:
        self._allowed = frozenset(allowed)
        self._development = development

    def register(self, app: web.Application) -> None:
        """Check every request; to be called last, so that refusals are told as all others are."""
        app.middlewares.append(self._middleware())
        if self._allowed:
            app.on_response_prepare.append(self._let_read)

    def _middleware(self) -> Middleware:
        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self._development:
                _check_host(request)
            if request.method == hdrs.METH_OPTIONS and (
                hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
            ):
                return self._preflight(request)
            return await handler(request)

        return middleware

    def _allows(self, origin: str) -> bool:
        return bool(origin) and not self._allowed.isdisjoint((origin, ANY))

    def _preflight(self, request: web.Request) -> web.Response:
        """What a browser asks before a request that is not a plain one."""
        origin = request.headers.get(hdrs.ORIGIN, "")
        if not self._allows(origin):
            raise InvalidError(
                f"pages of {origin[:SHOWN_CHARACTERS]!r} may not read what is served here",
                code=Code.ORIGIN_NOT_ALLOWED,
                hint="start the service with --allow-origin and that origin, if they are to",
            )
        refusal = request.match_info.http_exception
        methods = METHODS
        if isinstance(refusal, web.HTTPMethodNotAllowed):
            methods = frozenset(refusal.allowed_methods)
        headers: dict[str, str] = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ASKED_WITH,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_SECONDS),
        }
        if request.headers.get(ASKS_FOR_PRIVATE) == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

    async def _let_read(self, request: web.Request, response: web.StreamResponse) -> None:
        """Say in the head of any answer, a problem as well, that the page may read it."""
        headers = response.headers
        headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN, "")
        if self._allows(origin):
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = ANY if ANY in self._allowed else origin
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = SHOWN


def _check_host(request: web.Request) -> None:
    """Refuse a name that is not this machine's own for itself.

    A page of evil.example can have its name lead to 127.0.0.1 all of a sudden. To the browser it
    still asks its own origin, so CORS does not stop it; but the name stands in the request.
    """
    host = request.headers.get(hdrs.HOST)
    if host is not None and not _is_local(host):  # what sends none (HTTP/1.0) is no browser
        raise InvalidError(
            f"the Host header names {host[:SHOWN_CHARACTERS]!r}, not this machine",
            code=Code.HOST_NOT_LOCAL,
            hint="ask http://localhost, or give the service a token file with --tokens: "
            "with the development token it answers to local names only",
        )


def _is_local(host: str) -> bool:
    """Whether it is `localhost`, below it, or a loopback address, with any port."""
    name, colon, port = host.rpartition(":")
    if not colon or not (port.isdecimal() or not port):
        name = host
    name = name.removesuffix(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
