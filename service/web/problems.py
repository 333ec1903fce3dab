"""Errors before the first byte: `application/problem+json` (RFC 9457), from one map.

A browser that was led here by a link or an address gets the same words as a page.
"""

import json
from difflib import get_close_matches
from html import escape
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ..errors import Code, DeniedError, InvalidError, RefusedError, WeirError
from .requests import HeadTooLargeError

CONTENT_TYPE = "application/problem+json"
SHOWN_CHARACTERS = 100
"""Of a path that is not served: so many are told."""


def problem(error: WeirError, headers: dict[str, str] | None = None) -> web.Response:
    """The response that tells a client of this error."""
    status = HTTPStatus(error.code.status)
    body: dict[str, object] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "code": error.code,
        "detail": error.message,
    }
    if error.hint:
        body["hint"] = error.hint
    if isinstance(error, InvalidError) and error.errors:
        body["errors"] = error.errors
    extra = dict(headers or {})
    if isinstance(error, RefusedError):
        extra["Retry-After"] = str(error.retry_after)
    if isinstance(error, DeniedError):
        extra["WWW-Authenticate"] = _challenge(error)
    return web.Response(
        body=json.dumps(body, ensure_ascii=False).encode(),
        status=status.value,
        headers=extra,
        content_type=CONTENT_TYPE,
    )


def _challenge(error: DeniedError) -> str:
    """RFC 6750, section 3: no error code unless a token was presented."""
    if error.code is Code.TOKEN_INVALID:
        return 'Bearer realm="weir", error="invalid_token"'
    if error.code is Code.SCOPE_MISSING:
        return f'Bearer realm="weir", error="insufficient_scope", scope="{error.scope}"'
    return 'Bearer realm="weir"'


_OF_AIOHTTP = {
    405: (Code.METHOD_NOT_ALLOWED, "the Allow header names the methods of this route"),
    413: (Code.BODY_TOO_LARGE, "send fewer tasks at a time, or raise --max-body-bytes"),
}


def from_aiohttp(fault: web.HTTPException, request: web.Request) -> web.Response:
    """What aiohttp refuses by itself, in our form."""
    if isinstance(fault, web.HTTPNotFound):
        return problem(_not_served(request))
    detail = fault.text or fault.reason
    if isinstance(fault, web.HTTPMethodNotAllowed):
        detail = f"{request.path[:SHOWN_CHARACTERS]!r} does not take {fault.method}"
    code, hint = _OF_AIOHTTP.get(fault.status, (Code.BAD_REQUEST, ""))
    headers = {"Allow": fault.headers["Allow"]} if "Allow" in fault.headers else {}
    return problem(WeirError(detail, hint=hint, code=code), headers)


def _not_served(request: web.Request) -> WeirError:
    """Names the path, and the one that may have been meant."""
    served = [resource.canonical for resource in request.app.router.resources()]
    meant = "".join(f"did you mean {path}? " for path in get_close_matches(request.path, served, 1))
    return WeirError(
        f"nothing is served at {request.path[:SHOWN_CHARACTERS]!r}",
        hint=f"{meant}GET / says what is where, /openapi.json describes all of it",
        code=Code.ROUTE_NOT_FOUND,
    )


def unparsable(fault: BaseException | None, message: str | None) -> web.Response:
    """What is no HTTP, or too long a line of it, in our form; the connection closes after it."""
    detail = " ".join((message or "the request cannot be read").split())
    error = WeirError(detail, code=Code.BAD_REQUEST, hint="send one HTTP/1.1 request at a time")
    if isinstance(fault, HeadTooLargeError):
        error = WeirError(
            detail, code=Code.HEAD_TOO_LARGE, hint="send a shorter address or headers"
        )
    return problem(error)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{status} {title}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto;
    padding: 0 1rem; color-scheme: light dark; overflow-wrap: anywhere; }}
</style>
<h1>{status} {title}</h1>
<p>{detail}
<p>{hint}
<p><a href="/">What is where</a>
</html>
"""


@web.middleware
async def pages_for_browsers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A middleware that shows problems as pages to whom a page is dearer than JSON."""
    response = await handler(request)
    if isinstance(response, web.Response) and response.content_type == CONTENT_TYPE:
        response.headers.add(hdrs.VARY, hdrs.ACCEPT)
        if _prefers_page(",".join(request.headers.getall(hdrs.ACCEPT, ()))):
            told = {"hint": ""} | json.loads(response.text or "{}")
            told = {name: escape(str(value)) for name, value in told.items()}
            response.content_type = "text/html"
            response.charset = "utf-8"
            response.body = _PAGE.format_map(told).encode()
    return response


def _prefers_page(accept: str) -> bool:
    """Whether HTML is named in this header, and nothing that JSON is has as high a weight."""
    weights: dict[str, float] = {}
    for media in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in media.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            weights[kind] = float(weight)
        except ValueError:
            return False
    json_weight = max(
        weights.get(kind, 0) for kind in (CONTENT_TYPE, "application/json", "application/*", "*/*")
    )
    return weights.get("text/html", 0) > json_weight
