"""Names and values as they stand in the text of a statement: COPY takes no parameters."""

from collections.abc import Sequence


def identifier(*parts: str) -> str:
    """A name, or the parts of a qualified one, in quotes."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(text: str) -> str:
    """A text as an SQL constant, whatever stands in it and however the session reads backslashes.

    Raises ValueError when PostgreSQL has no such text: NUL, or half of a surrogate pair.
    """
    if "\0" in text:
        raise ValueError("has a NUL character")
    text.encode()  # UnicodeEncodeError is a ValueError
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def typed(text: str, type_: str) -> str:
    """A value of a type. type_: its full name, which is SQL already."""
    return f"{literal(text)}::{type_}"


def row(parts: Sequence[str]) -> str:
    """Several expressions compared as one; a single one stays what it is."""
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
