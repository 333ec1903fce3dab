"""The database that the service was told to use: ours, with tasks in it, or a stranger's."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .engines import Engine
from .errors import ConfigurationError
from .settings import Settings, without_password
from .tasks.model import TaskStore


@dataclass(frozen=True)
class Database:
    """An open database. tasks: None where it is a stranger's, which is only read.

    settings: what it was told to be opened with, and what follows from whose it is.
    """

    settings: Settings
    engine: Engine
    tasks: TaskStore | None
    close_tasks: Callable[[], Awaitable[None]] | None = None

    async def close(self) -> None:
        """Finish what is running and let go of it."""
        if self.close_tasks is not None:
            await self.close_tasks()
        await self.engine.close()


async def open_database(settings: Settings) -> Database:
    """The database that `settings.database` names; what it needs of ours is made or checked.

    Raises ConfigurationError when the address is not understood or the database is unfit.
    """
    scheme, separator, _ = settings.database.partition("://")
    if separator and scheme == "sqlite":
        if settings.read_database:
            raise ConfigurationError(
                "an SQLite file has no replicas",
                hint="leave out --read-database, or use postgresql://... for both",
            )
        return await _open_sqlite(settings)
    if separator and scheme in ("postgresql", "postgres"):
        return await _open_postgres(settings)
    raise ConfigurationError(
        f"database {without_password(settings.database)!r} is not an address that is understood",
        hint="use sqlite:///file.db (relative), sqlite:////path/to/file.db (absolute) "
        "or postgresql://user:password@host:5432/database",
    )


async def _open_sqlite(settings: Settings) -> Database:
    # Neither engine's driver is loaded where the other one is used.
    from .engines.sqlite.engine import FixedCatalogue, FoundCatalogue, SQLiteEngine
    from .engines.sqlite.file import path_of
    from .engines.sqlite.strangers import open_strangers
    from .tasks import sqlite as ours

    path = path_of(settings.database)
    strangers = await ours.is_strangers(path)
    settings = settings.of_database(ours=not strangers)
    if strangers:
        connections = await open_strangers(path, settings)
        catalogue = FoundCatalogue(_keys(settings))
        return Database(settings, SQLiteEngine(connections, settings, catalogue), None)
    connections = ours.connections_of(path, settings)
    store = ours.SQLiteTasks(connections, settings)
    try:
        await store.prepare()
    except BaseException:
        await connections.close()
        raise
    engine = SQLiteEngine(connections, settings, FixedCatalogue([ours.RELATION]), ours.CLOCK)
    return Database(settings, engine, store)


def _keys(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The columns of each relation that `--key` names."""
    keys = {}
    for text in settings.key:
        address, separator, columns = text.partition("=")
        if not separator or not columns:
            raise ConfigurationError(
                f"--key {text!r} names no columns", hint="write it as VIEW=COLUMN or VIEW=ONE,OTHER"
            )
        keys[address] = tuple(columns.split(","))
    return keys


async def _open_postgres(settings: Settings) -> Database:
    from .engines.postgres.catalogue import PostgresCatalogue
    from .engines.postgres.engine import PostgresEngine
    from .engines.postgres.servers import Servers
    from .engines.postgres.strangers import Strangers
    from .tasks import postgres as ours
    from .tasks.postgres_schema import Ours, is_strangers

    origin = Strangers() if await is_strangers(settings.database) else Ours()
    settings = settings.of_database(ours=isinstance(origin, Ours))
    servers = Servers(settings, origin)
    try:
        await servers.open()
        if isinstance(origin, Strangers):
            catalogue = PostgresCatalogue(servers, _keys(settings))
            engine = PostgresEngine(servers, catalogue, settings, origin)
            return Database(settings, engine, None)
        store = ours.PostgresTasks(servers, settings)
        await store.open()
    except BaseException:
        await servers.close()
        raise
    engine = PostgresEngine(servers, ours.OurCatalogue(servers), settings, origin)
    return Database(settings, engine, store, store.close)
