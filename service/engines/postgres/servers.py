"""Which PostgreSQL server a page is read from: a replica that is fit, or else the primary."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from time import monotonic
from typing import TypeVar

import structlog
from asyncpg.pool import PoolConnectionProxy as Connection

from ...errors import Code, ConfigurationError, StoreError
from ...settings import Settings
from .. import ServerState
from .server import AwayError, Origin, Server, first_connection
from .tables import RelationError

log = structlog.get_logger()

T = TypeVar("T")

LOOK_PAUSE, LOOK_PAUSE_AWAY = 1.0, 0.25
"""Seconds between two looks at the servers, while all answer and while one does not."""
HISTORY = 3600
"""Changes of the primary that are remembered; of more, every second one is forgotten."""


class BehindError(AwayError):
    """The server lacks changes that the stream has to have seen."""


class TooSlowError(AwayError):
    """The server is well, and has called off a statement that took too long, as for a lock."""


class Servers:
    """A primary and its replicas, looked at as long as that can change anything.

    A replica is fit when it answers, belongs to the same database, and is not further behind
    than `max_replica_lag`. How far it is behind is told by `seq`, which grows in the order of
    commits: the time since the primary first had a change that the replica lacks. So nothing
    depends on how the replication is done, and a quiet primary's replica is not called late.
    """

    def __init__(self, settings: Settings, origin: Origin) -> None:
        def server(address: str) -> Server:
            return Server(address, settings, origin, size=settings.pool_size, writes=False)

        self._origin = origin

        self.primary = server(settings.database)
        self.replicas = [server(address) for address in settings.read_database]
        self._wait = settings.reconnect_timeout
        self._max_lag = settings.max_replica_lag
        self._history: deque[tuple[float, int]] = deque()
        self._looked = asyncio.Event()
        self._wanted = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Prepare the primary, check the replicas; ConfigurationError when one is wrong.

        A replica that cannot be reached now is left out until it can.
        """
        async with first_connection(self.primary.address) as connection:
            await self._origin.prepare(connection, self.primary.name)
            known = await self._origin.identify(connection, self.primary.name)
        for server in (self.primary, *self.replicas):
            server.identity = known
        await asyncio.gather(*(server.open() for server in [self.primary, *self.replicas]))
        for replica in self.replicas:
            try:
                async with first_connection(replica.address) as connection:
                    found = await self._origin.identify(connection, replica.name)
            except ConfigurationError as error:
                if error.code is not Code.UNREACHABLE:
                    raise
                replica.lost(AwayError(error.message))
                continue
            if found != known:
                raise ConfigurationError(
                    f"{replica.name} is no replica of {self.primary.name}",
                    hint="--read-database names a replica of --database",
                )
        await self._look()
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await asyncio.gather(*(server.close() for server in [self.primary, *self.replicas]))

    async def ping(self) -> None:
        """Return when a page can be read: from any server, as all copies have the same ones.

        Replicas are looked at all the time, and their primary with them; a primary alone is now.
        """
        if not self.replicas:
            await self._next_look()
        if not self._in_order():
            raise self._away()

    async def read(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        primary: bool = False,
    ) -> T:
        """What `work` returns, from the first server that gives it, or from the primary only.

        What was read half is read again from the start, elsewhere or later: `work` must bear
        that. Raises StoreError when no server gives it within `reconnect_timeout`.
        """
        give_up = monotonic() + self._wait
        fault: StoreError = self._away()
        while True:
            for server in self._in_order(primary):
                try:
                    async with server.connection() as connection:
                        return await work(connection)
                except (BehindError, TooSlowError) as error:
                    fault = error  # alive, and perhaps soon there
                except RelationError as error:
                    if server is self.primary:
                        raise
                    fault = error  # perhaps not so elsewhere; the server is well
                except StoreError as error:
                    if server is self.primary and not isinstance(error, AwayError):
                        raise
                    fault = error
                    if server.up:  # the first that finds out
                        server.lost(error)
                        log.warning("server left out", server=server.name, reason=server.reason)
            try:
                async with asyncio.timeout(give_up - monotonic()):
                    await self._next_look()
            except TimeoutError:
                raise fault from None

    async def _next_look(self) -> None:
        self._looked.clear()
        self._wanted.set()
        await self._looked.wait()

    def _away(self) -> AwayError:
        """Why there is no server to read from."""
        return AwayError(
            f"{self.primary.name}: {self.primary.reason}", hint="is PostgreSQL running?"
        )

    def _in_order(self, primary: bool = False) -> list[Server]:
        """The servers to try, first the fit replica with the least to do, the primary last."""
        if primary:
            return [self.primary] if self.primary.up else []
        fit = [replica for replica in self.replicas if not self._unfit(replica)]
        fit.sort(key=lambda server: server.waiting)
        return fit + ([self.primary] if self.primary.up else [])

    def _unfit(self, replica: Server) -> str:
        """Why nothing is read from a replica, or ""."""
        if not replica.up:
            return replica.reason
        if (lag := self._lag(replica)) > self._max_lag:
            return f"it is {lag:.0f} seconds behind"
        return ""

    def _lag(self, replica: Server) -> float:
        """Seconds since the primary was first seen with a change that the replica lacks."""
        for moment, seq in self._history.copy():  # `/metrics` asks from a thread
            if seq > replica.seq:
                return monotonic() - moment
        return 0.0

    def states(self) -> list[ServerState]:
        """How each server is, the primary first."""
        found = [
            ServerState(self.primary.name, "primary", self.primary.up, 0.0, self.primary.reason)
        ]
        for replica in self.replicas:
            reason = self._unfit(replica)
            found.append(
                ServerState(replica.name, "replica", not reason, self._lag(replica), reason)
            )
        return found

    async def _watch(self) -> None:
        """Look again and again; with a primary alone only when it is away."""
        while True:
            away = not all(server.up for server in [self.primary, *self.replicas])
            if self.replicas or away:
                try:
                    async with asyncio.timeout(LOOK_PAUSE_AWAY if away else LOOK_PAUSE):
                        await self._wanted.wait()
                        await asyncio.sleep(LOOK_PAUSE_AWAY)
                except TimeoutError:
                    pass
            else:
                await self._wanted.wait()
            self._wanted.clear()
            await self._look()
            self._looked.set()

    async def _look(self) -> None:
        before = {state.name: state.fit for state in self.states()}
        # The replicas first: what the primary has by then, they cannot be blamed for yet.
        await asyncio.gather(*(replica.look() for replica in self.replicas))
        await self.primary.look()
        seq = self.primary.seq
        if self.primary.up and (not self._history or self._history[-1][1] != seq):
            if len(self._history) == HISTORY:
                self._history = deque(islice(self._history, 0, None, 2))
            self._history.append((monotonic(), seq))
        # What every replica has is of no interest any more.
        slowest = min((replica.seq for replica in self.replicas), default=seq)
        while self._history and self._history[0][1] <= slowest:
            self._history.popleft()
        for state in self.states():
            if state.fit != before[state.name]:
                log.warning(
                    "server is back" if state.fit else "server left out",
                    server=state.name,
                    **({} if state.fit else {"reason": state.reason}),
                )
