"""What can go wrong, as values: a stable code, what happened, and what to do next.

No HTTP in here: `web/problems.py` maps a code to a status, `command_line.py` to an exit code.
"""


class WeirError(Exception):
    """Base of every error that a user is meant to see.

    code: stable, for programs. message: what went wrong and where. hint: the next step.
    """

    code = "internal"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class ConfigurationError(WeirError):
    """The service cannot start as it was told to; exit code 2."""

    code = "configuration"


class StoreError(WeirError):
    """The database did not do what was asked of it."""

    code = "store_unavailable"


class RowTooLargeError(StoreError):
    """A row's encoded line is longer than the row limit."""

    code = "row_too_large"


class InvalidError(WeirError):
    """The client asked for something that is not in the contract; nothing was done.

    errors: one entry for each fault, {"at": where, "detail": what is wrong}.
    """

    code = "invalid"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.errors = errors or []


class NotFoundError(WeirError):
    """There is no such task, or no such table."""

    code = "task_not_found"


class RefusedError(WeirError):
    """A limit is reached; the same request may succeed `retry_after` seconds later."""

    code = "busy"

    def __init__(self, message: str, *, hint: str, code: str, retry_after: int) -> None:
        super().__init__(message, hint=hint, code=code)
        self.retry_after = retry_after


class DeniedError(WeirError):
    """No token (`token_missing`), a wrong one (`token_invalid`), or one without the scope."""

    code = "token_missing"

    def __init__(self, message: str, *, hint: str, code: str, scope: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.scope = scope
