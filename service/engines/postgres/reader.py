"""Pages of any relation of a PostgreSQL database, each trip to it one statement."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import asyncpg
from asyncpg.pool import PoolConnectionProxy as Connection

from ...errors import Code, InvalidError, RowTooLargeError
from ...query import Filter, KeyValues, Operator, Page, Query, Range, Start
from ...relation import Relation
from ...settings import Settings
from . import statements
from .copying import fetch, fetch_one, number, rows
from .literals import identifier, typed
from .server import AWAY, Reads
from .servers import BehindError, TooSlowError
from .statements import POSITION
from .tables import INTEGERS, PostgresRelation, RelationError

T = TypeVar("T")

TOO_SLOW = "is the relation locked, or a view that takes long? --statement-timeout is the limit"

DENSE = 0.9
"""From so many rows for each possible key on, ranges are counted in keys: at most a tenth longer or
shorter than asked for, on the average. To ask the index costs a tenth of what reading costs."""


class PostgresReader:
    """A Reader of what `PostgresCatalogue` has found."""

    def __init__(
        self,
        servers: Reads,
        settings: Settings,
        position: str = POSITION,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """position: SQL that says how far a server has come. forget: called when a relation is not
        what the catalogue has."""
        self._forget = forget
        self._position = position
        self._servers = servers
        self._page_bytes = int(settings.page_bytes)
        self._row_bytes = int(settings.row_bytes)
        self._lowest: WeakKeyDictionary[PostgresRelation, int | None] = WeakKeyDictionary()

    async def start(self, query: Query, *, latest: bool = False) -> Start:
        """How things stand now; a filter's value or an `after` of a wrong type is InvalidError."""
        relation = _relation(query)

        async def check(connection: Connection) -> KeyValues | None:
            return await _checked(connection, query, relation)

        async def look(connection: Connection) -> Start:
            found = await fetch_one(connection, statements.start(relation, query, self._position))
            position, fault, nulls, *highest = found
            _complain(relation, int(fault or 0))
            if nulls != "0":
                raise RelationError(
                    f"{relation.address}: a column of its key is NULL in some rows",
                    hint="--key names columns that are never NULL",
                )
            until = None if None in highest else tuple(highest)
            return Start(after, until, int(position or 0))

        after = await self._servers.read(check)
        return await self._run(query, look, primary=latest)

    async def cut(
        self, query: Query, after: KeyValues | None, rows: int, count: int
    ) -> list[Range]:
        """Ranges of `rows` rows each, asked of the key's index."""
        relation, until = _relation(query), query.until
        if until is None or after == until:
            return []
        if (lowest := await self._dense_from(query, relation)) is not None:
            return _dense(after, until, lowest, rows, count)
        statement = statements.fences(relation, after, until, rows, count)

        async def work(connection: Connection) -> list[KeyValues]:
            found = await fetch(connection, statement)
            _complain(relation, int(found[0][0] or 0))
            return [tuple(key) for _, place, *key in found if place is not None]

        return _between(after, await self._run(query, work), until, count)

    async def _dense_from(self, query: Query, relation: PostgresRelation) -> int | None:
        """The lowest key, when keys are integers and hardly one is missing up to `until`.

        What the server estimates is good enough: were it wrong, ranges would be empty or too long,
        and not one row would be lost.
        """
        types = [relation.types[column].name for column in relation.key_names]
        if len(types) != 1 or types[0] not in INTEGERS or not relation.rows or not query.until:
            return None
        if relation not in self._lowest:

            async def work(connection: Connection) -> str | None:
                return (await fetch_one(connection, statements.lowest(relation)))[0]

            found = await self._run(query, work)
            self._lowest[relation] = None if found is None else int(found)
        lowest = self._lowest[relation]
        if lowest is None or relation.rows < DENSE * (int(query.until[0]) - lowest + 1):
            return None
        return lowest

    async def read(
        self, query: Query, ranges: Sequence[Range], left: int | None
    ) -> list[Page | None]:
        """The pages of these ranges; None, and no more, for one longer than a page."""
        return await self._run(query, lambda to: self._read(to, query, ranges, left))

    async def read_row(self, query: Query, range_: Range) -> Page:
        """The page of a range of one row, of up to `row_bytes`."""
        most = self._row_bytes
        (page,) = await self._run(query, lambda to: self._pages(to, query, [range_], None, most))
        if page is None:
            key = ", ".join(map(str, range_.until))
            raise RowTooLargeError(
                f"the row of {query.relation.address} with the key {key} is longer than"
                f" {most} bytes",
                hint="leave its long columns out with columns=, or raise --row-bytes",
            )
        return page

    def shown(self, relation: Relation, key: KeyValues) -> tuple[str, ...]:
        return tuple(map(str, key))

    async def _read(
        self, connection: Connection, query: Query, ranges: Sequence[Range], left: int | None
    ) -> list[Page | None]:
        try:
            return await self._pages(connection, query, ranges, left, self._page_bytes)
        except asyncpg.ProgramLimitExceededError:  # a gigabyte is the longest value that there is
            if len(ranges) == 1:
                return [None]
        first = await self._read(connection, query, ranges[:1], left)
        if first[-1] is None:
            return first
        return first + await self._read(connection, query, ranges[1:], left)

    async def _pages(
        self,
        connection: Connection,
        query: Query,
        ranges: Sequence[Range],
        left: int | None,
        most_bytes: int,
    ) -> list[Page | None]:
        relation = _relation(query)
        statement = statements.pages(
            relation, query, ranges, left, most_bytes, position=self._position
        )
        found: list[Page | None] = []
        for position, fault, place, count, lines in await rows(connection, statement):
            _complain(relation, number(fault))
            _reached(number(position), query.since)
            if number(place) != len(found):
                raise asyncpg.InternalClientError("pages have come in another order")
            # What is not UTF-8 in the database is longer here than it is there.
            if lines is None or len(lines) > most_bytes:
                return [*found, None]
            found.append(Page(number(count), lines))
        return found

    async def _wait_for(self, connection: Connection, since: int | None) -> None:
        """Make sure that a copy has come far enough before a statement sees what there is.

        Asked within the statement, the answer might be newer than the rows. A primary is always
        ahead.
        """
        if since is not None and getattr(connection.get_settings(), "in_hot_standby", "") == "on":
            (position,) = await fetch_one(connection, f"SELECT {self._position}::text")
            _reached(int(position or 0), since)

    async def _run(
        self,
        query: Query,
        work: Callable[[Connection], Awaitable[T]],
        *,
        primary: bool = False,
    ) -> T:
        """Do it on a server that has come far enough, as the query's role."""
        relation = _relation(query)

        async def guarded(connection: Connection) -> T:
            try:
                await self._wait_for(connection, query.since)
                return await (
                    _as_role(connection, query.role, work) if query.role else work(connection)
                )
            except asyncpg.QueryCanceledError as fault:
                reason = " ".join(str(fault).split())
                raise TooSlowError(f"{relation.address}: {reason}", hint=TOO_SLOW) from fault
            except AWAY:
                raise
            except asyncpg.PostgresError as fault:
                raise _broken(relation, fault) from fault

        try:
            return await self._servers.read(guarded, primary=primary)
        except RelationError:
            self._forget()
            raise


def _dense(
    after: KeyValues | None, until: KeyValues, lowest: int, rows: int, count: int
) -> list[Range]:
    """Ranges of as many keys as they shall have rows, which cost nothing to find."""
    first = lowest - 1 if after is None else max(int(after[0]), lowest - 1)
    last = int(until[0])
    ends: list[KeyValues] = [
        (str(end),) for end in range(first + rows, min(first + rows * count, last) + 1, rows)
    ]
    return _between(after, ends, until, count)


def _between(
    after: KeyValues | None, fences: list[KeyValues], until: KeyValues, count: int
) -> list[Range]:
    """The ranges that these keys end; if they are fewer than `count`, one more up to `until`."""
    if len(fences) < count and (not fences or fences[-1] != until):
        fences = [*fences, until]
    return [Range(*ends) for ends in zip([after, *fences], fences, strict=False)]


def _relation(query: Query) -> PostgresRelation:
    relation = cast(PostgresRelation, query.relation)
    if relation.key is None:  # nobody should have come so far
        raise RelationError(f"{relation.address} has no key: {relation.no_key}")
    return relation


def _broken(relation: PostgresRelation, fault: asyncpg.PostgresError) -> RelationError:
    return RelationError(
        f"{relation.address}: {' '.join(str(fault).split())}", hint="PostgreSQL's log says more"
    )


def _complain(relation: PostgresRelation, fault: int) -> None:
    """Raise what a statement has found out about its relation."""
    if fault:
        raise RelationError(
            f"{relation.address} has changed: {statements.FAULTS[fault]}",
            hint="start again: the catalogue says how it is now",
        )


def _reached(position: int, since: int | None) -> None:
    if since is not None and position < since:
        raise BehindError(
            f"the server has come to byte {position} of its log, the stream began at {since}",
            hint="was it restored, or has a late replica taken over? Start the export again",
        )


async def _as_role(
    connection: Connection, role: str, work: Callable[[Connection], Awaitable[T]]
) -> T:
    """Do it in a transaction of its own, as another role, which ends with it."""
    try:
        await connection.execute(f"BEGIN READ ONLY; SET LOCAL ROLE {identifier(role)}")
        result = await work(connection)
    except (asyncpg.PostgresError, RelationError, BehindError):
        await connection.execute("ROLLBACK")
        raise
    except BaseException:  # nobody knows what state it is in
        connection.terminate()
        raise
    await connection.execute("COMMIT")
    return result


async def _checked(
    connection: Connection, query: Query, relation: PostgresRelation
) -> KeyValues | None:
    """`after` as the server writes it; InvalidError names what is no value of its type.

    The server is asked: nobody else knows what a value of any type looks like.
    """
    asked = [(given.parameter, *_test(given, relation)) for given in query.filters]
    after = query.after or ()
    if query.after is not None and len(after) != len(relation.key_names):
        key = ",".join(relation.key_names)
        raise _invalid("after", f"has {len(after)} parts", f"the key is {key}")
    for text, column in zip(after, relation.key_names, strict=False):
        type_ = relation.types[column]
        hint = f"{column} is {relation.column(column).type}"
        asked.append(("after", _constant("after", text, type_.sql, "concat({})"), hint))
    if not asked:
        return None
    try:
        whole = f"SELECT {', '.join(f'({sql})::text' for _, sql, _ in asked)}"
        found = await fetch_one(connection, whole)
    except AWAY:
        raise
    except asyncpg.PostgresError:
        for parameter, sql, hint in asked:  # one of them it was
            try:
                await fetch(connection, f"SELECT ({sql})::text")
            except AWAY:
                raise
            except asyncpg.PostgresError as fault:
                raise _invalid(parameter, " ".join(str(fault).split()), hint) from None
        raise
    return found[len(query.filters) :] if query.after is not None else None


def _test(given: Filter, relation: PostgresRelation) -> tuple[str, str]:
    """What fails when the filter would, and what is allowed in it."""
    column = relation.column(given.column)
    if given.operator is Operator.NULL:
        if given.values not in (("true",), ("false",)):
            raise _invalid(given.parameter, "is neither true nor false", "use true or false")
        return "true", ""
    type_ = relation.types[given.column].sql
    for text in given.values:
        _constant(given.parameter, text, type_, "{}")
    sql = statements.condition(given, relation, f"NULL::{type_}")
    return sql, f"{given.column} is {column.type}"


def _constant(parameter: str, text: str, type_: str, template: str) -> str:
    try:
        return template.format(typed(text, type_))
    except ValueError as fault:
        raise _invalid(parameter, str(fault), "give text without it") from None


def _invalid(parameter: str, detail: str, hint: str) -> InvalidError:
    return InvalidError(
        f"{parameter}: {detail}",
        code=Code.INVALID_PARAMETER,
        hint=hint,
        errors=[{"at": parameter, "detail": detail}],
    )
