"""What can go wrong, as values: a stable code, what happened, and what to do next."""

from enum import StrEnum
from typing import Self


class Code(StrEnum):
    """What a fault is called for programs, and its status in HTTP."""

    status: int

    def __new__(cls, name: str, status: int) -> Self:
        code = str.__new__(cls, name)
        code._value_ = name
        code.status = status
        return code

    # Faults at the start, which no client is told of.
    CONFIGURATION = "configuration", 500
    UNREACHABLE = "unreachable", 500

    INTERNAL = "internal", 500
    INVALID_PARAMETER = "invalid_parameter", 400
    INVALID_ID = "invalid_id", 400
    INVALID_JSON = "invalid_json", 400
    UNEXPECTED_BODY = "unexpected_body", 400
    AUTHORIZATION_REPEATED = "authorization_repeated", 400
    RANGE_NOT_SUPPORTED = "range_not_supported", 400
    BAD_REQUEST = "bad_request", 400
    TOKEN_MISSING = "token_missing", 401
    TOKEN_INVALID = "token_invalid", 401
    SCOPE_MISSING = "scope_missing", 403
    ORIGIN_NOT_ALLOWED = "origin_not_allowed", 403
    TASK_NOT_FOUND = "task_not_found", 404
    TABLE_NOT_FOUND = "table_not_found", 404
    ROUTE_NOT_FOUND = "route_not_found", 404
    METHOD_NOT_ALLOWED = "method_not_allowed", 405
    BODY_TIMEOUT = "body_timeout", 408
    NO_KEY = "no_key", 409
    BODY_TOO_LARGE = "body_too_large", 413
    MEDIA_TYPE_UNSUPPORTED = "media_type_unsupported", 415
    CONTENT_ENCODING_UNSUPPORTED = "content_encoding_unsupported", 415
    EXPECTATION_FAILED = "expectation_failed", 417
    HOST_NOT_LOCAL = "host_not_local", 421
    INVALID_TASK = "invalid_task", 422
    TOKEN_STREAMS_EXHAUSTED = "token_streams_exhausted", 429
    HEAD_TOO_LARGE = "head_too_large", 431
    STREAMS_EXHAUSTED = "streams_exhausted", 503
    STARTS_EXHAUSTED = "starts_exhausted", 503
    WRITES_EXHAUSTED = "writes_exhausted", 503
    SHUTTING_DOWN = "shutting_down", 503
    STORE_UNAVAILABLE = "store_unavailable", 503
    ROW_TOO_LARGE = "row_too_large", 500
    TEXT_INVALID = "text_invalid", 500


class WeirError(Exception):
    """Base of every error that a user is meant to see.

    code: stable, for programs. message: what went wrong and where. hint: the next step.
    """

    code = Code.INTERNAL

    def __init__(self, message: str, *, hint: str = "", code: Code | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class ConfigurationError(WeirError):
    """The service cannot start as it was told to; exit code 2."""

    code = Code.CONFIGURATION


class StoreError(WeirError):
    """The database did not do what was asked of it."""

    code = Code.STORE_UNAVAILABLE


class RowTooLargeError(StoreError):
    """A row's encoded line is longer than the row limit."""

    code = Code.ROW_TOO_LARGE


class InvalidTextError(StoreError):
    """A row's text is not valid UTF-8."""

    code = Code.TEXT_INVALID


class InvalidError(WeirError):
    """The client asked for something that is not in the contract; nothing was done.

    errors: one entry for each fault, {"at": where, "detail": what is wrong}.
    """

    code = Code.INVALID_PARAMETER

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: Code | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.errors = errors or []


class NotFoundError(WeirError):
    """There is no such task, or no such table."""

    code = Code.TASK_NOT_FOUND


class RefusedError(WeirError):
    """A limit is reached; the same request may succeed `retry_after` seconds later."""

    code = Code.STORE_UNAVAILABLE

    def __init__(self, message: str, *, hint: str, code: Code, retry_after: int) -> None:
        super().__init__(message, hint=hint, code=code)
        self.retry_after = retry_after


class DeniedError(WeirError):
    """No token (`token_missing`), a wrong one (`token_invalid`), or one without the scope."""

    code = Code.TOKEN_MISSING

    def __init__(self, message: str, *, hint: str, code: Code, scope: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.scope = scope
