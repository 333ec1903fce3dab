"""A SQLite file as an Engine: of ours, or a stranger's, which is only read."""

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import apsw

from ...errors import StoreError
from ...query import Query
from ...relation import Relation
from ...settings import Settings
from .. import ServerState
from .catalogue import relations
from .connections import Connections
from .reader import LONGEST, NO_CLOCK, SQLiteReader
from .sql import rows


class Catalogue(Protocol):
    """The relations of a file."""

    def current(self, connection: apsw.Connection) -> Mapping[str, Relation]:
        """All of them as they are now, by address."""

    def check(self, connection: apsw.Connection, query: Query) -> None:
        """Raise StoreError when the relation is no longer what it was when it was asked for."""


class FixedCatalogue:
    """Relations that nobody else changes: those of our own file."""

    def __init__(self, relations: Sequence[Relation]) -> None:
        self._relations = {relation.address: relation for relation in relations}

    def current(self, connection: apsw.Connection) -> Mapping[str, Relation]:
        return self._relations

    def check(self, connection: apsw.Connection, query: Query) -> None:
        pass


class FoundCatalogue:
    """Relations of a stranger's file, read again whenever its schema has changed.

    keys: columns that identify the rows of a relation, where somebody knows better than the file.
    """

    def __init__(self, keys: Mapping[str, Sequence[str]]) -> None:
        self._keys = keys
        self._lock = threading.Lock()
        self._version: int | None = None
        self._relations: dict[str, Relation] = {}

    def current(self, connection: apsw.Connection) -> Mapping[str, Relation]:
        # Where the schema has changed, this connection reads all of it again: under the limit for a
        # page another table's long statement would be a fault of this one's.
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, LONGEST)
        rows(connection, "SELECT 1 FROM sqlite_schema LIMIT 0")
        version = connection.pragma("schema_version")
        if version == self._version:
            return self._relations
        with self._lock:
            if version == self._version:  # another thread has read it meanwhile
                return self._relations
            found = {each.address: each for each in relations(connection, self._keys)}
            # Streams under way have the old objects: those that are still true stay.
            for address, relation in self._relations.items():
                if not _is_numbered(relation) and relation.same(found.get(address)):
                    found[address] = relation
            self._relations, self._version = found, version
            return found

    def check(self, connection: apsw.Connection, query: Query) -> None:
        relation = query.relation
        now = self.current(connection).get(relation.address)
        if now is relation:
            return
        if relation.same(now) and _is_numbered(relation):
            raise StoreError(
                f"{relation.address}: a vacuum, or another change of the schema, may have given "
                "its rows other numbers, which they are read by",
                hint="start the export again; with a primary key or a unique index it would go on",
            )
        if not relation.same(now):
            raise StoreError(
                f"{relation.address} is no longer what it was: "
                + ("its columns or its key were changed" if now else "it was dropped or renamed"),
                hint="start the export again",
            )


def _is_numbered(relation: Relation) -> bool:
    """Whether it is read by the numbers of its rows, which are no column of it."""
    return relation.key is not None and not set(relation.key.columns) <= set(relation.names)


class SQLiteEngine:
    """An Engine on one file."""

    def __init__(
        self,
        connections: Connections,
        settings: Settings,
        catalogue: Catalogue,
        clock: str = NO_CLOCK,
    ) -> None:
        """clock: SQL that says how far the file has come, growing with each change."""
        self._connections = connections
        self._catalogue = catalogue
        self.reader = SQLiteReader(connections, catalogue.check, settings, clock)

    async def relations(self) -> Mapping[str, Relation]:
        return await self._connections.read(self._catalogue.current)

    async def ping(self) -> None:
        await self._connections.read(lambda connection: connection.pragma("schema_version"))

    def servers(self) -> list[ServerState]:
        return []

    async def close(self) -> None:
        await self._connections.close()
