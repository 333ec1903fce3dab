"""The statements that read a relation: its last key, its ranges, its pages."""

from functools import lru_cache
from typing import Any

from ...errors import Code, InvalidError
from ...query import Filter, Operator, Query
from ...relation import Key
from .. import COMPARED
from .dialect import line
from .sql import inner, name
from .values import parse

HEAD = "%08d%012d"
HEAD_BYTES = 20
"""What comes before each page: how many rows it has, and how many bytes, in digits."""
SEQ_BYTES = 20
"""What comes before all pages: how far the database had come, in digits."""
SOURCE = "source"
"""What the relation is called in a statement. Each of its columns is named with it in front: a name
alone would mean one of ours where the two are the same, and a text where the column is gone."""
STATEMENTS = 256
"""Texts of statements that are remembered; making one takes longer than many a page."""


def key_of(query: Query) -> Key:
    """The key that the relation is read by; the web refuses a relation without one before."""
    if query.relation.key is None:
        raise InvalidError(
            f"{query.relation.address} has no key", hint=query.relation.no_key, code=Code.NO_KEY
        )
    return query.relation.key


def last_statement(query: Query, clock: str) -> str:
    """How far the database has come, and the relation's highest key: a row, or NULLs in it."""
    key = key_of(query)
    terms, backward = _terms(key), ", ".join(f"{SOURCE}.{term} DESC" for term in key.terms)
    last = f"SELECT {terms} {_source(query)} ORDER BY {backward} LIMIT 1"
    return f"SELECT clock.*, last.* FROM (SELECT {clock}) AS clock LEFT JOIN ({last}) AS last"


def row_statement(query: Query) -> str:
    """Whether there is a row with a key. Bindings: the key."""
    key = key_of(query)
    return f"SELECT 1 {_source(query)} WHERE {_compare(key, '=', _marks(key))} LIMIT 1"


def fence_statement(query: Query, *, first: bool) -> str:
    """The key so many rows behind a key: where a range of them ends.

    Bindings: the key behind which to start, unless it is the first; the last key; rows less one.
    """
    key = key_of(query)
    terms = _terms(key)
    behind = "" if first else f"{_compare(key, '>', _marks(key))} AND "
    return (
        f"SELECT {terms} {_source(query)} WHERE {behind}{_compare(key, '<=', _marks(key))}"
        f" ORDER BY {terms} LIMIT 1 OFFSET ?"
    )


@lru_cache(STATEMENTS)
def pages_statement(
    shape: Query, clock: str, count: int, *, first: bool, limited: bool, wide: bool
) -> str:
    """The pages of `count` ranges, and before them how far the database has come.

    All of it is one blob: each value that is handed over would cost half as much as a page takes to
    be made, as Python's lock has to be taken for it. wide: the database is encoded in UTF-16; then
    each is a text of its own, as only Python can turn it into UTF-8.

    Bindings: for each range its two keys, the first one of which counts only unless `first`; the
    values of the filters; and if limited, most rows of a page.
    """
    key = key_of(shape)
    after = [f"after{at}" for at in range(len(key.terms))]
    until = [f"until{at}" for at in range(len(key.terms))]
    mark = f"({', '.join('?' * 2 * len(key.terms))})"
    conditions = [] if first else [_compare(key, ">", _of_range(after))]
    conditions += [_compare(key, "<=", _of_range(until)), *map(_condition, shape.filters)]
    rows = f"SELECT {_selected(shape)} {_source(shape)} WHERE {' AND '.join(conditions)}"
    # Asked for an order, SQLite hands each row on once more, which is worth a sixth of the page.
    if limited or shape.filters or not key.ascending:
        rows += f" ORDER BY {', '.join(key.terms)}{' LIMIT ?' if limited else ''}"
    page = (
        f"SELECT format('{HEAD}', n, octet_length(lines)) || lines FROM (SELECT count(*) AS n,"
        f" coalesce(group_concat({line(shape, 4 if wide else 2)}, ''), '') AS lines FROM ({rows}))"
    )
    seq = f"format('%0{SEQ_BYTES}d', {clock})"
    ranges = f"WITH range({', '.join(after + until)}) AS (VALUES {', '.join([mark] * count)})"
    if wide:
        return f"{ranges} SELECT {seq} || ({page}) FROM range"
    return f"{ranges} SELECT CAST({seq} || group_concat(({page}), '') AS BLOB) FROM range"


def filter_values(query: Query) -> list[Any]:
    """What the filters compare with; InvalidError for what is no value of its column."""
    return [
        parse(query.relation.column(each.column), text, each.parameter)
        for each in query.filters
        if each.operator is not Operator.NULL
        for text in each.values
    ]


def _selected(shape: Query) -> str:
    """What a line is made of, and no more: a long value in another column is not even read."""
    columns = [f"{SOURCE}.{name(column)} AS {inner(column)}" for column in shape.columns]
    return "*" if shape.relation.plain else ", ".join(columns)


def _source(query: Query) -> str:
    key = key_of(query)
    relation = query.relation
    return f"FROM {name(relation.schema)}.{name(relation.name)} AS {SOURCE} {key.access}"


def _terms(key: Key) -> str:
    return ", ".join(f"{SOURCE}.{term}" for term in key.terms)


def _of_range(names: list[str]) -> str:
    return ", ".join(f"range.{each}" for each in names)


def _marks(key: Key) -> str:
    return ", ".join("?" * len(key.terms))


def _compare(key: Key, operator: str, values: str) -> str:
    return f"({_terms(key)}) {operator} ({values})"


def _condition(each: Filter) -> str:
    column = f"{SOURCE}.{name(each.column)}"
    if each.operator is Operator.NULL:
        return f"{column} IS {'NULL' if each.values[0] == 'true' else 'NOT NULL'}"
    if each.operator is Operator.IN:
        return f"{column} IN ({', '.join('?' * len(each.values))})"
    return f"{column} {COMPARED[each.operator]} ?"
