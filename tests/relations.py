"""Reads relations of a stranger's PostgreSQL database through the engine, with no HTTP between."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy as Connection

from service.engines.postgres.catalogue import PostgresCatalogue
from service.engines.postgres.reader import PostgresReader
from service.engines.postgres.server import PINS, Server
from service.engines.postgres.strangers import Strangers
from service.engines.postgres.tables import PostgresRelation
from service.query import Filter, Format, Operator, Query
from service.settings import Settings

T = TypeVar("T")


class Alone:
    """One server that is always read from."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.server = Server(url, settings, Strangers(), size=settings.pool_size, writes=False)

    async def read(self, work: Callable[[Connection], Awaitable[T]], *, primary: bool = False) -> T:
        async with self.server.connection() as connection:
            return await work(connection)


class Weir:
    """The engine, connected, and a connection of the test's own beside it, `sql`."""

    def __init__(self, alone: Alone, settings: Settings, sql: asyncpg.Connection) -> None:
        self.alone = alone
        self.sql = sql
        self.reader = PostgresReader(alone, settings)

    async def relations(self, **keys: tuple[str, ...]) -> dict[str, PostgresRelation]:
        """All relations by address. keys: what `--key` says."""
        return dict(await PostgresCatalogue(self.alone, keys).relations())

    async def query(self, address: str, form: Format = Format.CSV, **other: Any) -> Query:
        """A query of a relation: all of its columns, unless others are named."""
        keys = other.pop("keys", {})
        relation = (await self.relations(**keys))[address]
        asked = {"columns": relation.names} | other
        return Query(relation, form, **asked)

    async def lines(self, query: Query, random: Random | None = None) -> bytes:
        """All that a query gives, in pieces of random sizes."""
        return b"".join([data async for data in self.pieces(query, random or Random(1))])

    async def pieces(self, query: Query, random: Random) -> AsyncIterator[bytes]:
        """The pages of a query, one after the other, as a stream reads them."""
        start = await self.reader.start(query)
        after, left = start.after, query.limit
        query = replace(query, until=start.until, since=start.since)
        while left is None or left > 0:
            sizes = random.randint(1, 40), random.randint(1, 5)
            ranges = await self.reader.cut(query, after, *sizes)
            if not ranges:
                return
            if left is not None:
                ranges = ranges[:1]
            pages = await self.reader.read(query, ranges, left)
            assert None not in pages or len(pages) <= len(ranges)
            for page, range_ in zip(pages, ranges, strict=False):
                if page is None:
                    (single,) = (await self.reader.cut(query, after, 1, 1))[:1]
                    page = await self.reader.read_row(query, single)  # noqa: PLW2901
                    range_ = single  # noqa: PLW2901
                yield bytes(page.data)
                after = range_.until
                if left is not None:
                    left -= page.rows


@asynccontextmanager
async def weir(url: str, user: str = "", **settings: Any) -> AsyncIterator[Weir]:
    """The engine on a database, as another user if one is named."""
    known = Settings(database=url, **settings).of_database(ours=False)
    own = await asyncpg.connect(url, server_settings=PINS)
    address = url.replace("//weir:", f"//{user}:") if user else url
    alone = Alone(address, known)
    await alone.server.open()
    try:
        yield Weir(alone, known, own)
    finally:
        await alone.server.close()
        await own.close()


def where(column: str, operator: str, *values: str) -> Filter:
    """A filter as a client would ask for it."""
    return Filter(f"{column}__{operator}", column, Operator(operator), values)
