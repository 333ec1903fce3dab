"""Texts from an address as values of a column: what SQLite is given to compare with."""

from collections.abc import Callable
from contextlib import suppress
from math import isnan

from ...errors import Code, InvalidError
from ...relation import NUMBERS, Column, Kind

Value = int | float | str | bytes


def parse(column: Column, text: str, parameter: str) -> Value:
    """The value that `text` stands for in this column; InvalidError names the parameter.

    A column without a type holds numbers and texts: what looks like a number is one.
    """
    if column.kind is Kind.BYTES:
        try:
            return bytes.fromhex(text)
        except ValueError:
            raise _invalid(column, text, parameter, "bytes in hexadecimal, as 00ff") from None
    if column.kind in NUMBERS or column.kind is Kind.ANYTHING:
        number = _number(text)
        if number is not None:
            return number
        if column.kind is not Kind.ANYTHING:
            raise _invalid(column, text, parameter, "a number")
    return text


def readings(column: Column, text: str) -> list[Value]:
    """What a text may stand for as the value of a key, which a client has as it was written.

    A column of SQLite holds values of any type, and 12, '12' and bytes look the same once they are
    written. The likeliest comes first. InvalidError where the column is held to its type.
    """
    if column.exact:
        return [parse(column, text, "after")]
    for type_, read in _NAMED.items():
        if text.startswith(prefix := f"{type_.__name__}:"):
            with suppress(ValueError):
                return [read(text.removeprefix(prefix))]
    found: list[Value] = [text]
    number = _number(text)
    if number is not None:
        found.insert(0 if column.kind in (*NUMBERS, Kind.ANYTHING) else 1, number)
    with suppress(ValueError):
        found.insert(0 if column.kind is Kind.BYTES else len(found), bytes.fromhex(text))
    return found


_NAMED: dict[type, Callable[[str], Value]] = {
    str: str,
    int: int,
    float: float,
    bytes: bytes.fromhex,
}
"""The types that a value may be named with, as in `str:12`, and how each is read then."""


def written(column: Column, value: Value) -> str:
    """The text that `readings` takes for this value, with its type where that is not clear."""
    text = value.hex() if isinstance(value, bytes) else str(value)
    try:
        likeliest = readings(column, text)[0]
    except InvalidError:
        return text
    if type(likeliest) is type(value) and likeliest == value:
        return text
    return f"{type(value).__name__}:{text}"


def _number(text: str) -> int | float | None:
    """A number as SQLite holds it: 64 bits whole, or a double; None for what is no number."""
    if text != text.strip() or "_" in text or not text.isascii():
        return None
    try:
        whole = int(text)
        if -(2**63) <= whole < 2**63:
            return whole
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return None if isnan(number) else number  # SQLite has no such number: it takes it for NULL


def _invalid(column: Column, text: str, parameter: str, allowed: str) -> InvalidError:
    return InvalidError(
        f"{parameter}: {text[:40]!r} is no value of the column {column.name!r}, which is "
        f"{column.type or 'without a type'}",
        code=Code.INVALID_PARAMETER,
        hint=f"give {allowed}",
    )
