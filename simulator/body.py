"""What the URL answers, asked once before any slow reader: is there a body, and how long."""

import http.client
import re
import ssl
from time import monotonic
from typing import NamedTuple

from .endpoint import find_endpoint, place, tls_context
from .errors import InconclusiveError, UsageError
from .plan import MIB, Plan

HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
"""A header's line: a token, a colon, and what Latin-1 can say (RFC 9110, section 5)."""
ANSWER_SECONDS = 20.0
LOOK_SECONDS = 5.0
"""Longest time to read a body for its length, when no Content-Length tells it."""
LOOK_BYTES = 64 * MIB


class Body(NamedTuple):
    """How long a body is, in bytes; or at least, if its end was not waited for."""

    bytes: int
    at_least: bool


def measure_body(plan: Plan, url: str) -> Body:
    """Ask once, read fast. Raises UsageError for an answer that is no 2xx with a body."""
    where = place(url)
    find_endpoint(url)
    if where.tls:
        context = tls_context(insecure=plan.insecure)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            where.host, where.port, timeout=ANSWER_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(where.host, where.port, timeout=ANSWER_SECONDS)
    headers = {"Accept-Encoding": "identity", "Connection": "close", **header_fields(plan.headers)}
    try:
        connection.request("GET", where.target, headers=headers)
        answer = connection.getresponse()
        _check_status(url, answer)
        return _read_body(answer, answer.length)
    except http.client.IncompleteRead:
        raise InconclusiveError(f"{url}: the body breaks off", "can curl download it?") from None
    except ssl.SSLCertVerificationError as fault:
        said = fault.verify_message
        raise UsageError(f"{url}: the certificate does not do ({said})", "-k takes any") from None
    except (OSError, http.client.HTTPException) as fault:
        said = str(fault) or type(fault).__name__
        raise UsageError(f"{url}: no answer ({said})", "can curl download it?") from None
    finally:
        connection.close()


def header_fields(lines: tuple[str, ...]) -> dict[str, str]:
    """`Name: value` lines as a dictionary. Raises UsageError for a line without a colon."""
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not HEADER.fullmatch(line):
            raise UsageError(f"header {line!r} is none", "give -H 'Name: value'")
        found[name.strip()] = value.strip()
    return found


def check_body(plan: Plan, body: Body) -> None:
    """Raises InconclusiveError if the server could hold the whole body within the budgets."""
    if body.bytes < plan.enough_body:
        about = "at least " if body.at_least else ""
        raise InconclusiveError(
            f"a body of {about}{body.bytes:,} bytes is too small to prove anything: a server could "
            f"hold all of it within the budgets",
            f"ask for one of {plan.enough_body:,} bytes or more",
        )


def _check_status(url: str, answer: http.client.HTTPResponse) -> None:
    if 200 <= answer.status < 300:
        return
    said = f"{url} answers {answer.status} {answer.reason}".rstrip()
    if answer.status in (401, 403):
        raise UsageError(said, "give credentials with -H 'Authorization: ...'")
    if 300 <= answer.status < 400:
        where = answer.getheader("Location", "elsewhere")
        raise UsageError(f"{said}, a redirect to {where}", "give the URL of the body itself")
    raise UsageError(said, "give the URL of a body that is there")


def _read_body(answer: http.client.HTTPResponse, length: int | None) -> Body:
    """Read on until the end, LOOK_BYTES or LOOK_SECONDS; length: by Content-Length, if given."""
    total, deadline = 0, monotonic() + LOOK_SECONDS
    while data := answer.read1(MIB):
        total += len(data)
        if total >= LOOK_BYTES or monotonic() > deadline:
            return Body(length or total, at_least=length is None)
    if length is not None and total < length:
        raise http.client.IncompleteRead(b"", length - total)
    return Body(total, at_least=False)
