"""What a client may ask of a relation: the query string, checked against its columns."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_plus

from aiohttp import web

from ..errors import Code, InvalidError
from ..query import Filter, Format, Operator, Query
from ..relation import Relation

LIMIT_HIGHEST = 2**63 - 1
ROWS_A_LIST = 1_000
"""Most rows in one JSON page; fewer when they would be longer than a page is."""
DEFAULT_LIST = 100
VALUES_A_FILTER = 1_000
"""Most values of an `__in`."""
FILTERS = 50
"""Most filters in one request."""
NULL_CHARACTERS = 20
"""Longest text that stands for NULL."""

EVERYWHERE = ("columns", "after", "limit")
IN_CSV = ("header", "dialect", "null")
IN_JSON = ("numbers",)

Pairs = Sequence[tuple[str, str]]


class Selection(NamedTuple):
    """What was asked for. header: whether CSV begins with a line of names."""

    query: Query
    header: bool


def select(
    relation: Relation,
    format_: Format,
    request: web.Request,
    role: str = "",
    *,
    list_: bool = False,
) -> Selection:
    """The query that the request's parameters make; InvalidError names the one that is wrong.

    role: under which it is read. list_: a JSON page is asked for, not a stream.
    """
    # The commas of a list count before its parts are decoded.
    pairs, raw = list(request.query.items()), request.rel_url.raw_query_string
    known = EVERYWHERE + (IN_CSV if format_ is Format.CSV else IN_JSON)
    values = _single(pairs)
    encoded = _encoded(raw)
    filters = [
        _filter(relation, name, encoded[name], known) for name in values if name not in known
    ]
    if len(filters) > FILTERS:
        raise _wrong(f"{len(filters)} filters are too many", f"give at most {FILTERS}")
    after = encoded.get("after")
    query = Query(
        relation,
        format_,
        _columns(relation, encoded.get("columns")),
        tuple(filters),
        None if after is None else _after(relation, after),
        _limit(values.get("limit"), list_=list_),
        excel=_one_of(values, "dialect", ("standard", "excel")) == "excel",
        null=_null(values.get("null", "")),
        role=role,
        numbers_as_strings=_one_of(values, "numbers", ("number", "string")) == "string",
    )
    return Selection(query, _one_of(values, "header", ("true", "false")) == "true")


def _wrong(message: str, hint: str) -> InvalidError:
    return InvalidError(message, code=Code.INVALID_PARAMETER, hint=hint)


def _single(pairs: Pairs) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise _wrong(f"parameter {name!r} is given twice", "give each parameter once")
        values[name] = value
    return values


def _encoded(raw: str) -> dict[str, str]:
    """The values as they came, by their decoded names."""
    found = {}
    for part in raw.split("&"):
        name, _, value = part.partition("=")
        found[unquote_plus(name)] = value
    return found


def _list(encoded: str) -> tuple[str, ...]:
    """The parts of a value between commas, each decoded: so a part may have commas itself.

    Where no comma stands as it is, all were encoded, as libraries do: then these are between parts.
    """
    if "," not in encoded:
        return tuple(unquote_plus(encoded).split(","))
    return tuple(unquote_plus(part) for part in encoded.split(","))


def _key_parts(encoded: str, count: int) -> tuple[str, ...]:
    """The parts of a key, each percent-encoded, with commas between; the whole is encoded again as
    any parameter is, or is not. A key of one column is that column's value."""
    if count == 1:
        return (unquote_plus(encoded),)
    return _list(encoded) if "," in encoded else tuple(map(unquote, _list(encoded)))


def _one_of(values: dict[str, str], name: str, allowed: Sequence[str]) -> str:
    value = values.get(name, allowed[0])
    if value not in allowed:
        raise _wrong(f"{name}: {value[:40]!r} is not known here", f"give {' or '.join(allowed)}")
    return value


def _columns(relation: Relation, encoded: str | None) -> tuple[str, ...]:
    if encoded is None:
        return relation.names
    whole = unquote_plus(encoded)
    # A name may have commas itself, and one that is alone has none before it or behind it.
    names = (whole,) if whole in relation.names else _list(encoded)
    for name in names:
        _column(relation, name, "columns")
    if len(set(names)) < len(names):
        raise _wrong("columns: names a column twice", "name each column once")
    return names


def _column(relation: Relation, name: str, parameter: str) -> None:
    try:
        relation.column(name)
    except KeyError:
        raise _wrong(
            f"{parameter}: {relation.address} has no column {name[:40]!r}", _its_columns(relation)
        ) from None


def _its_columns(relation: Relation) -> str:
    return f"the columns of {relation.address} are: {', '.join(relation.names)[:1_000]}"


def _after(relation: Relation, encoded: str) -> tuple[str, ...]:
    names = [column.name for column in relation.key_columns]
    parts = _key_parts(encoded, len(names))
    if len(parts) != len(names):
        raise _wrong(
            f"after: {len(parts)} values are given, the key of {relation.address} has {len(names)}",
            f"give the last {', '.join(names)} that you have, each percent-encoded, with commas "
            "between",
        )
    return parts


def _limit(text: str | None, *, list_: bool) -> int | None:
    highest = ROWS_A_LIST if list_ else LIMIT_HIGHEST
    if text is None:
        return DEFAULT_LIST if list_ else None
    if not re.fullmatch(r"[0-9]{1,19}", text) or not 1 <= int(text) <= highest:
        raise _wrong(
            f"limit: {text[:40]!r} will not do", f"give a whole number from 1 to {highest}"
        )
    return int(text)


def _null(text: str) -> str:
    if len(text) > NULL_CHARACTERS or re.search(r'[,"\r\n\0]', text):
        raise _wrong(
            f"null: {text[:40]!r} will not do",
            f"give at most {NULL_CHARACTERS} characters, and none that CSV would quote",
        )
    return text


def _filter(relation: Relation, parameter: str, encoded: str, known: Sequence[str]) -> Filter:
    """A filter: the name of a column, and an operator behind two underscores if it is not `eq`.

    A column whose own name ends as an operator is meant where there is none of the shorter name.
    """
    name, separator, operator = parameter.rpartition("__")
    whole = parameter in relation.names and name not in relation.names
    if not separator or operator not in list(Operator) or whole:
        name, operator = parameter, Operator.EQ
    try:
        relation.column(name)
    except KeyError:
        raise _wrong(
            f"{parameter[:80]!r} is not known here",
            f"the parameters of this route are {', '.join(known)}, and filters such as "
            f"COLUMN=value or COLUMN__gte=value; {_its_columns(relation)}",
        ) from None
    if operator == Operator.IN:
        values = _list(encoded)
        if len(values) > VALUES_A_FILTER:
            raise _wrong(
                f"{parameter}: {len(values)} values are too many", f"give at most {VALUES_A_FILTER}"
            )
    else:
        values = (unquote_plus(encoded),)
    if operator == Operator.NULL and values[0] not in ("true", "false"):
        raise _wrong(f"{parameter}: {values[0][:40]!r} will not do", "give true or false")
    return Filter(parameter, name, Operator(operator), values)


def described(format_: Format | None, relation: Relation | None) -> list[dict[str, Any]]:
    """These parameters for OpenAPI: of a stream in this format, or of a list for None."""
    names: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    if relation is not None:
        names["items"] = {"type": "string", "enum": list(relation.names)}
    highest = ROWS_A_LIST if format_ is None else LIMIT_HIGHEST
    limit: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": highest}
    if format_ is None:
        limit["default"] = DEFAULT_LIST
    key = ", ".join(relation.key.columns) if relation and relation.key else "the key's columns"
    found = [
        _parameter("columns", "which, in which order, separated by commas", names, explode=False),
        _parameter(
            "after",
            f"only rows behind this one: the last {key} that you have, each percent-encoded, with "
            "commas between",
            {"type": "string"},
        ),
        _parameter("limit", "most rows", limit),
    ]
    if format_ is Format.CSV:
        found += [
            _parameter("header", "whether to name the columns", _enum("true", "false")),
            _parameter(
                "dialect",
                "excel: byte order mark, CRLF, and ' before what would run as a formula",
                _enum("standard", "excel"),
            ),
            _parameter(
                "null", "what stands for NULL", {"type": "string", "maxLength": NULL_CHARACTERS}
            ),
        ]
    else:
        quoted = "string: numbers in quotes, so that JavaScript keeps all their digits"
        found.append(_parameter("numbers", quoted, _enum("number", "string")))
    operators = ", ".join(f"__{operator}" for operator in Operator)
    filters = {"type": "object", "additionalProperties": {"type": "string"}}
    text = f"COLUMN=value, or with an operator behind the column: {operators}; __in takes several"
    return [*found, _parameter("filters", text, filters, explode=True)]


def _enum(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values), "default": values[0]}


def _parameter(
    name: str, description: str, schema: dict[str, Any], *, explode: bool | None = None
) -> dict[str, Any]:
    found = {"name": name, "in": "query", "description": description, "schema": schema}
    return found if explode is None else found | {"style": "form", "explode": explode}
