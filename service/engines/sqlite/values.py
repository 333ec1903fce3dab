"""Texts from an address as values of a column: what SQLite is given to compare with."""

from ...errors import Code, InvalidError
from ...relation import NUMBERS, Column, Kind


def parse(column: Column, text: str, parameter: str) -> int | float | str | bytes:
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


def _number(text: str) -> int | float | None:
    """A number as SQLite holds it: 64 bits whole, or a double; None for what is no number."""
    if text != text.strip() or "_" in text:
        return None
    try:
        whole = int(text)
        if -(2**63) <= whole < 2**63:
            return whole
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _invalid(column: Column, text: str, parameter: str, allowed: str) -> InvalidError:
    return InvalidError(
        f"{parameter}: {text[:40]!r} is no value of the column {column.name!r}, which is "
        f"{column.type or 'without a type'}",
        code=Code.INVALID_PARAMETER,
        hint=f"give {allowed}",
    )
