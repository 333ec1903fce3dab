"""The statements that a stream is made of, as texts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ...query import Filter, Format, KeyValues, Operator, Query, Range
from .. import COMPARED
from .dialect import cells, csv_line, ends, json_line, tested
from .literals import identifier, literal, row, typed
from .tables import PostgresRelation

POSITION = (
    "(CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')"
    " ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint"
)
"""How far this server has come: bytes of write-ahead log, the same on a primary and its copies."""
IDENTITY = (
    "SELECT system_identifier || '/' || (SELECT oid FROM pg_database"
    " WHERE datname = current_database()) FROM pg_control_system()"
)
"""What tells this database from others, and is the same on its copies. Any user may ask."""
FAULTS = (
    "",
    "it was made anew",
    "a column has another type",
    "its key is gone",
)
"""What `_fault` finds, by its number."""


def condition(given: Filter, relation: PostgresRelation, value: str) -> str:
    """A filter as SQL. value: what is compared, as SQL."""
    if given.operator is Operator.NULL:
        # `IS NULL` would take a row of NULLs for NULL.
        return f"{value} IS {'NOT ' * (given.values == ('true',))}DISTINCT FROM NULL"
    type_ = relation.types[given.column].sql
    values = [typed(text, type_) for text in given.values]
    if given.operator is Operator.IN:
        return f"{value} IN ({', '.join(values)})"
    return f"{value} {COMPARED[given.operator]} {values[0]}"


def key_row(relation: PostgresRelation, values: KeyValues) -> str:
    """A key's values as SQL."""
    return row(_constants(relation, values))


def _constants(relation: PostgresRelation, values: KeyValues) -> list[str]:
    pairs = zip(relation.key_names, values, strict=True)
    return [typed(value, relation.types[column].sql) for column, value in pairs]


@lru_cache(256)
def _fault(relation: PostgresRelation, columns: tuple[str, ...]) -> str:
    """Which of FAULTS has befallen the relation: 0, while all is as the catalogue had it.

    What `NULL::table` is, is known when the statement is read, behind the table's lock: it cannot
    be older or newer than what the rest of the statement sees.
    """
    name = relation.sql
    made_anew = f"{literal(name)}::regclass::oid <> {relation.oid}"
    now = ", ".join(f"pg_typeof(x.{identifier(column)})" for column in columns)
    then = ",".join(str(relation.types[column].oid) for column in columns)
    retyped = f"(SELECT ARRAY[{now}]::oid[] <> '{{{then}}}' FROM (SELECT (NULL::{name}).*) AS x)"
    fault = f"CASE WHEN {made_anew} THEN 1 WHEN {retyped} THEN 2"
    if relation.index:
        fault += (
            " WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index"
            f" WHERE indrelid = {relation.oid} AND indkey::text = {literal(relation.index)}"
            " AND indisunique AND indisvalid) THEN 3"
        )
    return f"(SELECT {fault} ELSE 0 END)"


def _used(query: Query, relation: PostgresRelation) -> tuple[str, ...]:
    """The columns that a query touches, each once."""
    filtered = [given.column for given in query.filters]
    return tuple(dict.fromkeys([*query.columns, *relation.key_names, *filtered]))


def start(relation: PostgresRelation, query: Query, position: str) -> str:
    """One row: how far the server has come, whether the key may be NULL, the highest key."""
    parts = relation.key_parts("t")
    highest = ", ".join(f"concat({part}) AS k{number}" for number, part in enumerate(parts))
    descending = ", ".join(f"{part} DESC" for part in parts)
    nulls = "0"
    if not relation.index:  # what a person has said is not to be trusted
        missing = " OR ".join(f"{part} IS NULL" for part in parts)
        nulls = (
            f"(SELECT count(*) FROM (SELECT FROM {relation.sql} AS t WHERE {missing} LIMIT 1) n)"
        )
    return (
        f"SELECT {position}::text, {_fault(relation, _used(query, relation))}::text,"
        f" {nulls}::text, last.* FROM (SELECT) AS one"
        f" LEFT JOIN LATERAL (SELECT {highest} FROM {relation.sql} AS t"
        f" ORDER BY {descending} LIMIT 1) AS last ON true"
    )


def lowest(relation: PostgresRelation) -> str:
    """The lowest key of a relation whose key is one column; a row of NULL when it is empty."""
    (part,) = relation.key_parts("t")
    return f"SELECT (SELECT {part}::text FROM {relation.sql} AS t ORDER BY {part} LIMIT 1)"


def fences(
    relation: PostgresRelation, after: KeyValues | None, until: KeyValues, rows: int, count: int
) -> str:
    """The keys of each `rows`-th row behind `after`, up to `count` of them, none behind `until`.

    The first row says whether the relation is as it was. To pass over an entry of an index costs
    a tenth of what reading the row does.
    """
    parts = relation.key_parts("t")
    names = [f"k{number}" for number in range(len(parts))]
    key, order = row(parts), ", ".join(parts)
    selected = ", ".join(f"{part} AS {name}" for part, name in zip(parts, names, strict=True))
    last = f"{key} <= {key_row(relation, until)}"

    def step(condition: str) -> str:
        return (
            f"(SELECT {selected} FROM {relation.sql} AS t WHERE {condition}{last}"
            f" ORDER BY {order} OFFSET {rows - 1:d} LIMIT 1) AS x"
        )

    first = f"{key} > {key_row(relation, after)} AND " if after is not None else ""
    previous = row([f"fence.{name}" for name in names])
    texts = ", ".join(f"concat(fence.{name})" for name in names)
    fault = _fault(relation, relation.key_names)
    return (
        f"WITH RECURSIVE fence AS (SELECT 1 AS n, x.* FROM {step(first)} WHERE {fault} = 0"
        f" UNION ALL SELECT fence.n + 1, x.* FROM fence, LATERAL"
        f" {step(f'{key} > {previous} AND ')} WHERE fence.n < {count:d})"
        f" SELECT {fault}::text, fence.n::text, {texts} FROM (SELECT) AS one"
        " LEFT JOIN fence ON true"
    )


def pages(
    relation: PostgresRelation,
    query: Query,
    ranges: Sequence[Range],
    left: int | None,
    most_bytes: int,
    *,
    position: str,
) -> str:
    """A row for each range, all as of one instant.

    Its columns: how far the server has come, the fault, the range's number, how many rows, and
    their lines, or NULL where they are longer than `most_bytes`.
    """
    shape = _shape(relation, query.shape)
    limit = "" if left is None else f" LIMIT {left:d}"
    what = (
        f"SELECT {position}, {shape.fault}::bigint, r.n, page.rows,"
        f" CASE WHEN octet_length(page.lines) <= {most_bytes:d} THEN page.lines END"
    )
    lower_names = [f"a{number}" for number in range(len(relation.key_names))]
    upper_names = [f"u{number}" for number in range(len(relation.key_names))]
    arms = []
    for number, group in _groups(ranges):
        open_ended = group[0].after is None
        lower = "" if open_ended else f"{shape.key} > {_of_range(lower_names)} AND "
        upper = f"{shape.key} <= {_of_range(upper_names)}"
        used = upper_names if open_ended else lower_names + upper_names
        values = ", ".join(
            f"({place}::bigint, {', '.join(_bounds(relation, range_))})"
            for place, range_ in enumerate(group, number)
        )
        arms.append(
            f"{what} FROM (VALUES {values}) AS r (n, {', '.join(used)}),"
            f" LATERAL ({shape.page(f'{lower}{upper}', limit)}) AS page"
        )
    return " UNION ALL ".join(arms)


def _of_range(names: Sequence[str]) -> str:
    """The ends of a range. Without its table's name one could be taken for a column of ours."""
    return row([f"r.{name}" for name in names])


def _groups(ranges: Sequence[Range]) -> list[tuple[int, Sequence[Range]]]:
    """The ranges by what bounds them: the very first one has no lower end."""
    if ranges[0].after is None:
        return [(0, ranges[:1]), *([(1, ranges[1:])] if len(ranges) > 1 else [])]
    return [(0, ranges)]


def _bounds(relation: PostgresRelation, range_: Range) -> list[str]:
    lower = [] if range_.after is None else _constants(relation, range_.after)
    return lower + _constants(relation, range_.until)


class _Shape(NamedTuple):
    """The parts of a query's statement that stay the same from page to page."""

    key: str
    fault: str
    head: str
    inner: str
    order: str
    filters: str

    def page(self, condition: str, limit: str) -> str:
        """The statement of one page; `condition` says which rows by their keys.

        A filter must never make the planner leave the key's index for another one and look at all
        of the table's rows for each page: it may not sort, so only the key's index is in order.
        OFFSET 0 keeps the planner from writing out what a line mentions several times.
        """
        rows = f"{self.inner} WHERE {condition}{self.filters} ORDER BY {self.order}"
        return f"{self.head} FROM ({rows}{limit} OFFSET 0) AS row"


@lru_cache(256)
def _shape(relation: PostgresRelation, query: Query) -> _Shape:
    """The parts of `query.shape`."""
    parts = relation.key_parts("t")
    given = cells(query, relation, "t")
    selected = [f"{cell.inner} AS {cell.name}" for cell in given]

    def line(*, plain: bool) -> str:
        if query.format is Format.CSV:
            return csv_line(query, given, plain=plain)
        return json_line(query, relation, given, plain=plain)

    lines = line(plain=False)
    if texts := tested(query, given):
        selected.append(f"{texts} AS tested")
    if not query.null and (plain := relation.plain.get(query.format)):
        selected.append(f"({plain}) AS plain")
        lines = f"CASE WHEN plain THEN {line(plain=True)} ELSE {lines} END"
    first, last = ends(query)
    return _Shape(
        key=row(parts),
        fault=_fault(relation, _used(query, relation)),
        head=(
            f"SELECT count(*) AS rows, coalesce({first}"
            f" || string_agg({lines}, {last} || {first}) || {last}, '') AS lines"
        ),
        inner=f"SELECT {', '.join(selected)} FROM {relation.sql} AS t",
        order=", ".join(parts),
        filters="".join(
            f" AND {condition(one, relation, f't.{identifier(one.column)}')}"
            for one in query.filters
        ),
    )
