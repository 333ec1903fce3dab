"""A PostgreSQL database as an Engine: of ours, or a stranger's."""

from collections.abc import Mapping
from typing import Protocol

from ...relation import Relation
from ...settings import Settings
from .. import ServerState
from .reader import PostgresReader
from .server import Origin
from .servers import Servers


class Catalogue(Protocol):
    """The relations of a database."""

    async def relations(self) -> Mapping[str, Relation]:
        """All of them by address."""

    def forget(self) -> None:
        """Ask the server again when next asked: something was not as it should have been."""


class PostgresEngine:
    """An Engine on a primary and its replicas."""

    def __init__(
        self, servers: Servers, catalogue: Catalogue, settings: Settings, origin: Origin
    ) -> None:
        self._servers = servers
        self._catalogue = catalogue
        self.reader = PostgresReader(servers, settings, origin.position, catalogue.forget)

    async def relations(self) -> Mapping[str, Relation]:
        return await self._catalogue.relations()

    async def ping(self) -> None:
        await self._servers.ping()

    def servers(self) -> list[ServerState]:
        return self._servers.states()

    async def close(self) -> None:
        await self._servers.close()
