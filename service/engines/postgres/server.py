"""One PostgreSQL server: its connections, whether it answers, how far it has come."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from ...errors import Code, ConfigurationError, StoreError
from ...settings import Settings, without_password

T = TypeVar("T")

CONNECT_SECONDS = 5.0
"""How long a connection may take to be made."""
LOOK_SECONDS = 5.0
"""How long the question whether it is alive may take to be answered."""
SPARE_SECONDS = 5.0
"""How much later than the server itself we give up on a statement: the server may be stopped."""
TRANSACTION_SECONDS = 60
"""How long the server keeps a transaction of ours in which nothing is asked of it."""


"""Code of the ConfigurationError for a server that may be there later."""

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that is cut in the middle of a message
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up, statement timed out
    asyncpg.InsufficientResourcesError,  # too many connections, out of memory, disk full
    asyncpg.TransactionRollbackError,  # a replica had to replay what was being read
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a replica
    asyncpg.LockNotAvailableError,
)
"""What may be different later, or on another server."""


class AwayError(StoreError):
    """The server does not answer now; it may later."""


def address_name(address: str) -> str:
    """The server and the database of an address, for logs and labels: no user, no password."""
    with suppress(ValueError):
        parts = urlsplit(without_password(address))
        return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path or '/'}"
    return without_password(address)


class Reads(Protocol):
    """Whoever finds a server that can be read from."""

    async def read(
        self, work: Callable[[PoolConnectionProxy], Awaitable[T]], *, primary: bool = False
    ) -> T:
        """What `work` returns on the first server that gives it. `work` may be called again."""


class Origin(Protocol):
    """Where a database comes from, ours or a stranger's: how it is told from others.

    identity: SQL of a text that is the same in all copies of a database, and in no other. position:
    SQL of a whole number that says how far a copy has come; it grows in the order of commits.
    """

    identity: str
    position: str

    async def prepare(self, connection: asyncpg.Connection, name: str) -> None:
        """Make or check what is needed on the primary; ConfigurationError when it is unfit.

        name: how the database is called in messages.
        """

    async def identify(self, connection: asyncpg.Connection, name: str) -> str:
        """Its identity, on any copy; ConfigurationError when the copy is unfit."""


class Server:
    """A pool of connections to one server, for reading or for writing.

    up: it answered when it was last asked. seq: how far it had come then. identity: that of the
    database that it must lead to, or "" for any.
    waiting: how many of ours use it or wait to. reason: why it is not up, or not used.
    """

    def __init__(
        self, address: str, settings: Settings, origin: Origin, *, size: int, writes: bool
    ) -> None:
        self._origin = origin
        self.address = address
        self.name = address_name(address)
        self.up = True
        self.seq = 0
        self.identity = ""
        self.waiting = 0
        self.reason = ""
        self._writes = writes
        self._watcher: asyncpg.Connection | None = None
        self._patience = settings.statement_timeout + SPARE_SECONDS
        self._answered = 0.0
        self._pool = asyncpg.create_pool(
            address,
            min_size=0,
            max_size=size,
            timeout=CONNECT_SECONDS,
            command_timeout=self._patience,
            init=self._prepare,
            reset=_leave,
            server_settings=_COMMON
            | {
                "statement_timeout": str(int(settings.statement_timeout * 1000)),
                "idle_in_transaction_session_timeout": str(TRANSACTION_SECONDS * 1000),
            }
            | ({} if writes else _READING),
        )

    async def open(self) -> None:
        """No connection is made before it is needed."""
        await self._pool

    async def close(self) -> None:
        self._forget_watcher()
        with suppress(*AWAY):  # it may never have been opened, too
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._pool.close()
            finally:
                self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[PoolConnectionProxy]:
        """One connection for a short while. What goes wrong is an AwayError or a StoreError."""
        self.waiting += 1
        try:
            connection = await self._acquire()
            try:
                yield connection
                self._answered = monotonic()
            except TimeoutError:  # it would ask a server that hangs to cancel, and wait
                with suppress(asyncpg.InterfaceError):  # it may have given up by itself
                    connection.terminate()
                raise
            finally:
                await self._pool.release(connection)
        except AWAY as fault:
            hint = "is PostgreSQL running, and not overloaded? Its log says more"
            raise AwayError(f"{self.name}: {_message(fault)}", hint=hint) from fault
        except asyncpg.PostgresError as fault:
            raise StoreError(
                f"{self.name}: {_message(fault)}", hint="PostgreSQL's log says more"
            ) from fault
        finally:
            self.waiting -= 1

    async def _acquire(self) -> PoolConnectionProxy:
        """A connection: however long it takes while others are answered, else in bounded time.

        Those who wait for a server that hangs must not do so one after another, and a server
        that has much to do is not away.
        """
        while True:
            asked = monotonic()
            try:
                async with asyncio.timeout(self._patience):
                    return await self._pool.acquire()
            except TimeoutError:
                if self._answered < asked:
                    raise

    async def _prepare(self, connection: asyncpg.Connection) -> None:
        """Make sure where a new connection leads, and that what it writes is on the disk."""
        if self.identity:
            self._check(await connection.fetchval(f"SELECT {self._origin.identity}"))
        if self._writes:
            # What is answered 2xx is on the disk, whatever the server's default.
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )

    def _check(self, identity: str) -> None:
        if identity != self.identity:
            raise AwayError(
                f"{self.name}: another database has taken its place",
                hint="see where its address leads",
            )

    def lost(self, fault: StoreError) -> None:
        """It failed: it is not asked again until it has answered a look."""
        self.up, self.reason = False, fault.message.removeprefix(f"{self.name}: ")

    async def look(self) -> None:
        """Ask how far it has come, through a connection that nobody else waits for."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if self._watcher is None or self._watcher.is_closed():
                    self._watcher = await asyncpg.connect(
                        self.address, timeout=CONNECT_SECONDS, server_settings=_COMMON
                    )
                statement = f"SELECT {self._origin.position}, {self._origin.identity}"
                found = await self._watcher.fetchrow(statement)
                if found is None or found[0] is None:
                    raise StoreError("it does not say how far it has come")
                self._check(found[1])
                self.seq = found[0]
        except Exception as fault:  # whatever it is: the next look must come
            self._forget_watcher()
            self.up, self.reason = False, _message(fault)
        else:
            if not self.up:
                await self._pool.expire_connections()
            self.up, self.reason = True, ""

    def _forget_watcher(self) -> None:
        if self._watcher is not None:
            self._watcher.terminate()
            self._watcher = None


_COMMON = {
    "application_name": "weir",
    # Whoever waited for the clock has to see what it shows by then, whatever the default.
    "default_transaction_isolation": "read committed",
}
PINS = {
    # What changes the text of a value.
    "datestyle": "ISO, YMD",
    "timezone": "UTC",
    "intervalstyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "standard_conforming_strings": "on",
    # The key's index is the one way to the rows: the planner cannot know how few they are.
    "enable_sort": "off",
    "enable_incremental_sort": "off",
}
"""Settings of each session that reads, beside those that all of them have."""
_READING = {
    **PINS,
    "default_transaction_read_only": "on",
    # One way is left to find a range of ids: along the index, in their order. The planner
    # cannot know how few they are, and would sort, or compile, or start helpers.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


async def _leave(connection: asyncpg.Connection) -> None:
    """Nothing to put back: no statement of ours leaves anything behind in a session."""


def _message(fault: BaseException, late: str = "no answer in time") -> str:
    """One line, whatever it was; `late` when it was a time-out."""
    if isinstance(fault, TimeoutError):
        return late
    return " ".join(str(fault).split()) or type(fault).__name__


@asynccontextmanager
async def first_connection(address: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to find out whether all is well; ConfigurationError says what is not."""
    name = address_name(address)
    try:
        connection = await asyncpg.connect(
            address, timeout=CONNECT_SECONDS, server_settings=_COMMON
        )
    except (
        OSError,
        TimeoutError,
        asyncpg.InternalClientError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
    ) as fault:
        late = f"no answer within {CONNECT_SECONDS:g} seconds"
        raise ConfigurationError(
            f"{name} cannot be reached: {_message(fault, late)}",
            hint="is PostgreSQL running there, and are host and port right?",
            code=Code.UNREACHABLE,
        ) from None
    except asyncpg.InvalidAuthorizationSpecificationError as fault:
        raise ConfigurationError(
            f"{name}: {_message(fault)}",
            hint="check user and password; in an address, write special characters as %40 is for @",
        ) from None
    except asyncpg.InvalidCatalogNameError as fault:
        raise ConfigurationError(
            f"{name}: {_message(fault)}", hint="make it with CREATE DATABASE, or name another one"
        ) from None
    except asyncpg.PostgresError as fault:
        raise ConfigurationError(
            f"{name}: {_message(fault)}", hint="PostgreSQL's log says more"
        ) from None
    # Their messages may quote the password.
    except (ValueError, OverflowError, asyncpg.InterfaceError):
        raise ConfigurationError(
            f"database {without_password(address)!r} is not an address that is understood",
            hint="use postgresql://user:password@host:5432/database",
        ) from None
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as fault:
        raise ConfigurationError(
            f"{name}: {_message(fault)}",
            hint="GRANT CREATE ON SCHEMA public lets its user make the tables",
        ) from None
    except (*AWAY, asyncpg.PostgresError) as fault:
        raise ConfigurationError(
            f"{name}: {_message(fault)}", hint="PostgreSQL's log says more"
        ) from None
    finally:
        connection.terminate()
