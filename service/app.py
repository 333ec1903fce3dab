"""All the wiring: store, routes, limits, listening, shutting down."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic

import structlog
from aiohttp import web

from .databases import Database, open_database
from .engines import Engine, appetite
from .errors import ConfigurationError
from .memory import container_memory, process_memory, release_free_memory
from .metrics import Metrics, Parts
from .settings import KIB, MIB, Settings
from .signals import end_at_once, reload_signal, stop_signal
from .stream.admission import Admission
from .stream.bound import Bound, check_large_rows, fit_connections, fit_memory, fit_open_files
from .stream.large_rows import LargeRows
from .stream.pages import Budgets, ReadAhead
from .tasks.routes import Tasks, task_routes
from .team import CONNECTIONS, IN_KERNEL, IN_PROCESS, PID, STREAMS, Team
from .web import openapi
from .web.authentication import DEVELOPMENT_SECRET, Token, Tokens
from .web.catalogue import Catalogue
from .web.connections import RECEIVE_BUFFER_BYTES, Connection, Connections
from .web.exports import Exports
from .web.guard import register
from .web.lists import Lists
from .web.operations import Operations
from .web.origins import ANY, Origins
from .web.problems import pages_for_browsers
from .web.relations import Relations
from .web.routes import FIXED_PATHS, fixed_routes, relation_routes
from .web.streams import streams_of_all

log = structlog.get_logger()

BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""
ACCEPTED_AT_ONCE = 16
"""Connections accepted before those beyond the limit are dropped: their files must be spare."""
READ_BYTES = 8 * KIB
"""Bytes of a request body that aiohttp reads ahead of the handler."""
LINGER_SECONDS = 5
"""How long a refused request's body is still read, so that the client sees the answer."""
RELEASE_SOONEST, RELEASE_LATEST = 0.2, 10.0
"""Seconds until freed memory is given back: after much was freed at once, and without that."""
RELEASE_REST = 20
"""Times as long as giving back took that it is left alone: a large process takes longer."""
REPORT_SECONDS = 2.0
"""Seconds until what a stream has sent is in the metrics; at its end it is at once."""
REPORT_SLICE = 500
"""Streams reported before others get a turn; a millisecond or so."""
CLEANUP_SECONDS = 1
"""What requests other than streams get to finish; aiohttp may wait for it twice."""


AcceptTokens = Callable[[Sequence[Token]], None]
"""From now on these tokens come in; whoever streams with another one is reset."""


async def run(settings: Settings, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told the address once it listens.

    SIGHUP reads the token file again. A second SIGTERM or SIGINT ends the process at once.

    Raises ConfigurationError when the service cannot start as it was told to.
    """
    stop = stop_signal(end_at_once)
    async with serve(settings, reload_signal(stop)) as address:
        ready(address)
        await stop.wait()


@asynccontextmanager
async def serve(settings: Settings, reload: asyncio.Event | None = None) -> AsyncIterator[str]:
    """The service on its address for as long as the context lasts; then it shuts down.

    reload: when it is set, the token file is read again.
    """
    tokens = await asyncio.to_thread(load_tokens, settings)
    database = await open_database(settings)
    try:
        settings, bound = await fit(database.settings)
        (listener,) = listen(settings)
        async with serving(
            settings, bound, database, tokens, listener=listener, team=Team()
        ) as accept:
            reloading = asyncio.create_task(
                reload_tokens(settings, reload or asyncio.Event(), accept)
            )
            log.info("listening", address=address_of(listener), database=settings.shown_database)
            yield address_of(listener)
            log.info("shutting down", grace=settings.grace)
        reloading.cancel()
        log.info("stopped")
    finally:
        await database.close()


def load_tokens(settings: Settings) -> Tokens:
    """The tokens that these settings let in; ConfigurationError when their file is unfit."""
    roles = not settings.database.startswith("sqlite:")
    return Tokens.load(settings.tokens, settings.host, roles=roles)


async def reload_tokens(settings: Settings, reload: asyncio.Event, accept: AcceptTokens) -> None:
    """Read the token file again whenever the event is set; a bad one changes nothing."""
    while True:
        await reload.wait()
        reload.clear()
        if settings.tokens is None:
            log.info("told to read the token file again: there is none")
            continue
        try:
            tokens = await asyncio.to_thread(load_tokens, settings)
        except ConfigurationError as error:
            log.error("the tokens stay as they were", reason=error.message, hint=error.hint)
            continue
        accept(tokens.known)
        log.info("the token file was read again", tokens=len(tokens.known))


async def fit(settings: Settings) -> tuple[Settings, Bound]:
    """Settings that fit this machine, and their bound; what was cut is logged.

    To be called with the database open: the memory that the process takes by then is in the bound.
    """
    base = (await asyncio.to_thread(process_memory)).uss
    if settings.workers > 1:
        base *= settings.workers + 1  # and the one that watches over them
    check_large_rows(settings)
    readers, files = appetite(settings)
    settings, notes = fit_open_files(settings, files)
    settings, more = fit_connections(settings)
    limit = int(settings.memory_limit) or await asyncio.to_thread(container_memory)
    settings, less = fit_memory(settings, base, limit, readers)
    for note in notes + more + less:
        log.warning(note)
    bound = Bound.of(settings, base, readers)
    if settings.tokens is None:
        log.warning(
            "no token file: the development token works for everything", token=DEVELOPMENT_SECRET
        )
        if ANY in settings.allow_origin:
            log.warning(
                "every web page may read and write here: all know the development token",
                hint="name an origin with --allow-origin, or a token file with --tokens",
            )
    log.info("worst case", memory=str(bound))
    return settings, bound


@asynccontextmanager
async def serving(
    settings: Settings,
    bound: Bound,
    database: Database,
    tokens: Tokens,
    *,
    listener: socket.socket,
    team: Team,
) -> AsyncIterator[AcceptTokens]:
    """One event loop's part of the service: all of it, or that of one worker of several."""
    team.set(PID, os.getpid())
    metrics = Metrics(team)
    admission = Admission(settings, team)
    ahead = ReadAhead(settings.read_ahead_bytes // team.size, settings.page_bytes)
    large_rows = LargeRows(
        settings.large_row_bytes // team.size, settings.row_bytes, settings.large_row_timeout
    )
    async with streams_of_all(admission, team) as streams:
        engine = database.engine
        relations = Relations(engine, settings.table, FIXED_PATHS)
        operations = Operations(
            engine, admission, metrics, streams, team, relations=relations, tokens=tokens
        )
        budgets = Budgets(ahead, large_rows)
        routes = fixed_routes(Catalogue(relations), operations)
        if database.tasks is not None:
            slots = max(1, settings.max_writes // team.size)
            routes += task_routes(Tasks(database.tasks, settings, slots))
        routes += relation_routes(
            Exports(engine.reader, relations, admission, budgets, metrics),
            Lists(engine.reader, relations, large_rows, settings),
        )
        operations.describe = partial(openapi.document, routes)
        app = web.Application(client_max_size=settings.max_body_bytes)
        app.middlewares.append(pages_for_browsers)
        register(app, routes, tokens, metrics)
        Origins(settings.allow_origin, development=settings.tokens is None).register(app)
        # A handler is cancelled as soon as its client is gone, so that nothing outlives it.
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=CLEANUP_SECONDS
        )
        await runner.setup()
        connections = Connections(settings, team)
        _publish(metrics, bound, settings, engine, team)

        def connection() -> Connection:
            assert runner.server is not None
            return Connection(
                connections,
                runner.server,
                access_log=None,
                keepalive_timeout=settings.head_timeout,
                lingering_time=LINGER_SECONDS,
                read_bufsize=READ_BYTES,
            )

        # What asyncio takes for the backlog is also how many it accepts in one go.
        server = await asyncio.get_running_loop().create_server(
            connection, sock=listener, backlog=ACCEPTED_AT_ONCE
        )
        listener.listen(BACKLOG)
        housekeeping = (
            asyncio.create_task(_log_memory(settings, team)),
            asyncio.create_task(_release_memory(ahead)),
            asyncio.create_task(_report(admission, metrics)),
        )

        def accept(known: Sequence[Token]) -> None:
            kept = tokens.replace(known)
            for stream in list(admission.streams.values()):
                if stream.token not in kept:
                    stream.flow.abort("revoked")

        try:
            yield accept
        finally:
            admission.closed = True
            server.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(settings.grace):
                    await admission.empty()
            for stream in list(admission.streams.values()):
                stream.flow.abort("shutdown")
            await runner.cleanup()
            for task in housekeeping:
                task.cancel()
            await connections.close()


def listen(settings: Settings) -> list[socket.socket]:
    """A listening socket for each worker, all on one address, among which the kernel chooses.

    Their connections have a small receive buffer from the first byte.
    """
    host, port = settings.host, settings.port
    listeners: list[socket.socket] = []
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]

        def bound(*options: int) -> socket.socket:
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            for option in (socket.SO_REUSEADDR, *options):
                listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            listener.bind(address)
            return listener

        if settings.workers > 1:
            # Another program that shares its port would share it with us: see that it is free.
            with bound() as probe:
                address = probe.getsockname()
            listeners.clear()
            for _ in range(settings.workers):
                bound(socket.SO_REUSEPORT).listen(BACKLOG)
        else:
            bound()
    except OSError as fault:
        for listener in listeners:
            listener.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {fault.strerror}",
            hint=_LISTEN_HINTS.get(fault.errno or 0, "--host names an address of this machine"),
        ) from None
    return listeners


_LISTEN_HINTS = {
    errno.EADDRINUSE: "another program has the port: choose one with --port, 0 for any free one",
    errno.EACCES: "ports below 1024 are for privileged programs: choose another one with --port",
}


def address_of(listener: socket.socket) -> str:
    """The URL of what listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _publish(
    metrics: Metrics, bound: Bound, settings: Settings, engine: Engine, team: Team
) -> None:
    def watch_total(name: str, description: str, column: str) -> None:
        metrics.watch(name, description, lambda: {(): team.total(column)})

    def publish(name: str, description: str, parts: dict[str, float]) -> None:
        fixed: Parts = {(part,): value for part, value in parts.items()}
        metrics.watch(name, description, lambda: fixed, ["part"])

    watch_total("weir_streams", "Live streams.", STREAMS)
    watch_total("weir_connections", "Open connections.", CONNECTIONS)
    watch_total(
        "weir_buffered_process_bytes",
        "Bytes in the process that wait for their clients.",
        IN_PROCESS,
    )
    watch_total("weir_buffered_kernel_bytes", "Bytes in the kernel's send queues.", IN_KERNEL)
    metrics.watch("weir_workers", "Workers that run.", lambda: {(): len(team.pids())})
    publish(
        "weir_bound_bytes",
        "The worst case: total = max_streams x stream + fixed.",
        {"stream": bound.stream, "fixed": bound.fixed, "total": bound.total},
    )
    publish(
        "weir_limit",
        "What is enforced, in streams and connections.",
        {
            "streams": settings.max_streams,
            "streams_per_token": settings.max_streams_per_token,
            "connections": settings.max_connections,
        },
    )
    metrics.watch(
        "weir_database_fit",
        "Whether a database server is read from.",
        lambda: {(server.name, server.role): server.fit for server in engine.servers()},
        ["server", "role"],
    )
    metrics.watch(
        "weir_database_lag_seconds",
        "Seconds that a replica is behind its primary.",
        lambda: {(s.name,): s.lag for s in engine.servers() if s.role == "replica"},
        ["server"],
    )


async def _report(admission: Admission, metrics: Metrics) -> None:
    """Have what streams under way have sent in the metrics, whichever worker is asked for them."""
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        for number, stream in enumerate(list(admission.streams.values())):
            stream.report(metrics)
            if number % REPORT_SLICE == 0:
                await asyncio.sleep(0)


async def _release_memory(ahead: ReadAhead) -> None:
    """Give back what was freed: soon after much was, but not more often than it pays."""
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(ahead.freed.wait(), RELEASE_LATEST)
        await asyncio.sleep(RELEASE_SOONEST)
        ahead.freed.clear()
        start = monotonic()
        await asyncio.to_thread(release_free_memory)
        await asyncio.sleep(RELEASE_REST * (monotonic() - start))


async def _log_memory(settings: Settings, team: Team) -> None:
    while True:
        memory = await asyncio.to_thread(process_memory)
        log.info(
            "memory",
            rss_mib=round(memory.rss / MIB, 1),
            uss_mib=round(memory.uss / MIB, 1),
            streams=team.own(STREAMS),
            connections=team.own(CONNECTIONS),
            process_kib=round(team.own(IN_PROCESS) / KIB),
            kernel_kib=round(team.own(IN_KERNEL) / KIB),
        )
        await asyncio.sleep(settings.log_interval)
