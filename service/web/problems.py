"""Errors before the first byte: `application/problem+json` (RFC 9457), from one map."""

import json
from http import HTTPStatus

from aiohttp import web

from ..errors import DeniedError, InvalidError, RefusedError, WeirError
from .requests import HeadTooLargeError

CONTENT_TYPE = "application/problem+json"
STATUS = {
    "invalid_parameter": 400,
    "invalid_id": 400,
    "invalid_json": 400,
    "unexpected_body": 400,
    "authorization_repeated": 400,
    "range_not_supported": 400,
    "bad_request": 400,
    "token_missing": 401,
    "token_invalid": 401,
    "scope_missing": 403,
    "task_not_found": 404,
    "route_not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "body_too_large": 413,
    "media_type_unsupported": 415,
    "content_encoding_unsupported": 415,
    "expectation_failed": 417,
    "invalid_task": 422,
    "token_streams_exhausted": 429,
    "head_too_large": 431,
    "internal": 500,
    "streams_exhausted": 503,
    "starts_exhausted": 503,
    "writes_exhausted": 503,
    "shutting_down": 503,
    "store_unavailable": 503,
    "row_too_large": 500,
}
"""What each code is in HTTP. A test holds that every code in use stands here."""


def problem(error: WeirError, headers: dict[str, str] | None = None) -> web.Response:
    """The response that tells a client of this error."""
    status = HTTPStatus(STATUS.get(error.code, 500))
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
    if error.code == "token_invalid":
        return 'Bearer realm="weir", error="invalid_token"'
    if error.code == "scope_missing":
        return f'Bearer realm="weir", error="insufficient_scope", scope="{error.scope}"'
    return 'Bearer realm="weir"'


_OF_AIOHTTP = {
    404: ("route_not_found", "GET / says what is where"),
    405: ("method_not_allowed", "the Allow header names the methods of this route"),
    413: ("body_too_large", "send fewer tasks at a time, or raise --max-body-bytes"),
}


def from_aiohttp(fault: web.HTTPException) -> web.Response:
    """What aiohttp refuses by itself, in our form."""
    code, hint = _OF_AIOHTTP.get(fault.status, ("bad_request", ""))
    headers = {"Allow": fault.headers["Allow"]} if "Allow" in fault.headers else {}
    return problem(WeirError(fault.text or fault.reason, hint=hint, code=code), headers)


def unparsable(fault: BaseException | None, message: str | None) -> web.Response:
    """What is no HTTP, or too long a line of it, in our form; the connection closes after it."""
    detail = " ".join((message or "the request cannot be read").split())
    error = WeirError(detail, code="bad_request", hint="send one HTTP/1.1 request at a time")
    if isinstance(fault, HeadTooLargeError):
        error = WeirError(detail, code="head_too_large", hint="send a shorter address or headers")
    return problem(error)
