"""What a client may send of a task: checked here, before anything is done."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ..errors import Code, InvalidError
from .model import (
    DEFAULT_STATUS,
    ID_HIGHEST,
    PRIORITY_HIGHEST,
    PRIORITY_LOWEST,
    TITLE_CHARACTERS,
    NewTask,
)

Status = Literal["pending", "in-progress", "completed"]
TASKS_A_POST = 1_000
"""Most tasks in one POST: some MB of text at the most, and one transaction."""


def _integer(value: object) -> object:
    """In JSON 4.0 is the integer 4; pydantic, asked to be strict, has it as a float."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Priority = Annotated[int, Field(ge=PRIORITY_LOWEST, le=PRIORITY_HIGHEST)]
PriorityOfTask = Annotated[Priority, BeforeValidator(_integer)]


def _title(title: str) -> str:
    if "\0" in title:
        raise ValueError("has a NUL character")
    return title


Title = Annotated[str, Field(min_length=1, max_length=TITLE_CHARACTERS), AfterValidator(_title)]


class StoredTask(BaseModel):
    """A stored task; the id is a string, so that 64 bits survive JavaScript."""

    id: str
    title: Title
    priority: Priority
    status: Status


class TaskBody(BaseModel):
    """A task to store."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: Title
    priority: PriorityOfTask
    status: Status = DEFAULT_STATUS  # type: ignore[assignment]

    def task(self) -> NewTask:
        return NewTask(self.title, self.priority, self.status)


class ChangesBody(BaseModel):
    """What to change in a task; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"minProperties": 1})

    title: Title = Field(default="")
    priority: PriorityOfTask = Field(default=PRIORITY_LOWEST)
    status: Status = Field(default="pending")

    @model_validator(mode="after")
    def _something(self) -> "ChangesBody":
        if not self.model_fields_set:
            raise ValueError("names nothing to change")
        return self

    def changes(self) -> dict[str, str | int]:
        return self.model_dump(exclude_unset=True)


TaskList = Annotated[list[TaskBody], Field(min_length=1, max_length=TASKS_A_POST)]
_TASK, _TASKS, _CHANGES = TypeAdapter(TaskBody), TypeAdapter(TaskList), TypeAdapter(ChangesBody)


def parse_id(text: str) -> int:
    """The id in a path; InvalidError unless it is a whole number within 64 bits."""
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > ID_HIGHEST:
        raise InvalidError(
            f"{text[:40]!r} is not an id",
            code=Code.INVALID_ID,
            hint=f"ids are whole numbers from 1 to {ID_HIGHEST}",
        )
    return int(text)


def parse_new_tasks(body: bytes) -> tuple[list[NewTask], bool]:
    """The tasks in the body of a POST, and whether it was an array."""
    many = body.lstrip(b" \t\r\n").startswith(b"[")
    bodies = _parse_body(_TASKS, body) if many else [_parse_body(_TASK, body)]
    return [task.task() for task in bodies], many


def parse_changes(body: bytes) -> Mapping[str, str | int]:
    """The columns that the body of a PATCH sets."""
    return _parse_body(_CHANGES, body).changes()


B = TypeVar("B")


def _parse_body(adapter: TypeAdapter[B], body: bytes) -> B:
    try:
        return adapter.validate_json(body)
    except ValidationError as fault:
        if fault.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise _invalid(fault, Code.INVALID_JSON, "send JSON in UTF-8") from None
        raise _invalid(
            fault, Code.INVALID_TASK, "GET /openapi.json describes what a task looks like"
        ) from None


ERRORS_TOLD = 10
"""Faults named in one answer; a body may have thousands."""


def _invalid(fault: ValidationError, code: Code, hint: str) -> InvalidError:
    errors = [
        {"at": ".".join(map(str, error["loc"])), "detail": _detail(error)}
        for error in fault.errors(include_url=False, include_input=False)[:ERRORS_TOLD]
    ]
    first = errors[0]
    message = f"{first['at']}: {first['detail']}" if first["at"] else first["detail"]
    return InvalidError(message, code=code, hint=hint, errors=errors)


def _detail(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "is not known here"
    return str(error["msg"]).removeprefix("Value error, ")
