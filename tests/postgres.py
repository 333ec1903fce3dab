"""The PostgreSQL servers of the tests: one that most share, and those of a test's own."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack
from threading import Lock

import asyncpg
import pytest
from postgres_cluster import PASSWORD, Cluster, Server, make_cluster

from tests.databases import PostgreSQL

__all__ = ["OWN_SERVER", "PASSWORD", "Cluster", "Connect", "Postgres", "make_cluster"]

OWN_SERVER = "WEIR_TEST_POSTGRES"
"""The variable that may name a server to use instead of the shared one, as a URL."""
_making = Lock()


class Postgres(Server, AbstractContextManager["Postgres"]):
    """The server that most tests share: the one in WEIR_TEST_POSTGRES, or one started when asked.

    A test that stops or copies its server wants `make_cluster()`.
    """

    def __init__(self) -> None:
        self._given = os.environ.get(OWN_SERVER)
        self._cluster: Cluster | None = None
        self._databases: list[str] = []

    def __exit__(self, *_: object) -> None:
        """Remove the server if it was started, else the databases that were made."""
        if self._cluster:
            self._cluster.remove()
        else:
            for name in self._databases:
                self.drop_database(name)

    def url(self) -> str:
        if self._given:
            return self._given
        with _making:
            self._cluster = self._cluster or make_cluster()
        return self._cluster.url()

    def create_database(self, name: str) -> str:
        """Make an empty database; gives its URL."""
        self._databases.append(name)
        return super().create_database(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server that most tests share; nothing is started before it is asked for a database."""
    with Postgres() as shared:
        yield shared


Connect = Callable[..., Awaitable[asyncpg.Connection]]


@pytest.fixture
async def connect(database: PostgreSQL) -> AsyncIterator[Connect]:
    """Opens connections of the test's own: `await connect()`; closed at the end."""
    async with AsyncExitStack() as stack:

        async def begin(name: str = "test") -> asyncpg.Connection:
            settings = {"application_name": name}
            connection = await asyncpg.connect(database.url, server_settings=settings)
            stack.push_async_callback(connection.close)
            return connection

        yield begin


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A primary of the test's own, to stop, crash and copy."""
    made = make_cluster()
    yield made
    made.remove()
