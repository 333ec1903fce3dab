"""All the wiring: store, routes, limits, listening, shutting down."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic

import structlog
from aiohttp import web

from service.errors import ConfigurationError
from service.memory import process_memory, release_free_memory
from service.metrics import Metrics
from service.settings import KIB, MIB, Settings
from service.stores import Store, open_store
from service.stream.admission import Admission, Bound, container_memory, fit_memory, fit_open_files
from service.stream.pages import ReadAhead
from service.web import openapi
from service.web.authentication import DEVELOPMENT_SECRET, Tokens
from service.web.connections import RECEIVE_BUFFER_BYTES, Connection, Connections
from service.web.exports import Exports
from service.web.guard import register
from service.web.operations import Operations
from service.web.routes import all_routes
from service.web.tasks import Tasks

log = structlog.get_logger()

BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""
READ_BYTES = 8 * KIB
"""Bytes of a request body that aiohttp reads ahead of the handler."""
LINGER_SECONDS = 5
"""How long a refused request's body is still read, so that the client sees the answer."""
RELEASE_SOONEST, RELEASE_LATEST = 0.2, 10.0
"""Seconds until freed memory is given back, after read-ahead was dropped and without that."""
RELEASE_REST = 20
"""Times as long as giving back took that it is left alone: a large process takes longer."""
CLEANUP_SECONDS = 1
"""What requests other than streams get to finish; aiohttp may wait for it twice."""


async def run(settings: Settings, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told the address once it listens.

    Raises ConfigurationError when the service cannot start as it was told to.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(settings) as address:
        ready(address)
        await stop.wait()


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[str]:
    """The service on its address for as long as the context lasts; then it shuts down."""
    tokens = await asyncio.to_thread(Tokens.load, settings.tokens, settings.host)
    store = await open_store(settings)
    try:
        base = (await asyncio.to_thread(process_memory)).uss
        settings, notes = fit_open_files(settings)
        limit = int(settings.memory_limit) or await asyncio.to_thread(container_memory)
        settings, more = fit_memory(settings, base, limit)
        for note in notes + more:
            log.warning(note)
        bound = Bound.of(settings, base)
        if settings.tokens is None:
            log.warning(
                "no token file: the development token works for everything",
                token=DEVELOPMENT_SECRET,
            )
        log.info("worst case", memory=str(bound))
        async with _listening(settings, bound, store, tokens) as address:
            yield address
    finally:
        await store.close()


@asynccontextmanager
async def _listening(
    settings: Settings, bound: Bound, store: Store, tokens: Tokens
) -> AsyncIterator[str]:
    listener = _listen(settings.host, settings.port)
    metrics = Metrics()
    admission = Admission(settings.max_streams, settings.max_streams_per_token)
    ahead = ReadAhead(settings.read_ahead_bytes // settings.page_bytes)
    operations = Operations(store, admission, metrics)
    routes = all_routes(
        Exports(store, admission, ahead, metrics), Tasks(store, settings), operations
    )
    operations.description = openapi.document(routes)
    app = web.Application(client_max_size=settings.max_body_bytes)
    register(app, routes, tokens, metrics)
    # A handler is cancelled as soon as its client is gone, so that nothing outlives it.
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=CLEANUP_SECONDS
    )
    await runner.setup()
    connections = Connections(settings)
    _publish(metrics, bound, settings, admission, connections)

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

    server = await asyncio.get_running_loop().create_server(
        connection, sock=listener, backlog=BACKLOG
    )
    housekeeping = (
        asyncio.create_task(_log_memory(settings, admission, connections)),
        asyncio.create_task(_release_memory(ahead)),
    )
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log.info("listening", address=address, database=settings.database)
    try:
        yield address
    finally:
        admission.closed = True
        server.close()
        log.info("shutting down", streams=len(admission.streams), grace=settings.grace)
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.grace):
                await admission.empty()
        for stream in list(admission.streams.values()):
            stream.flow.abort("shutdown")
        await runner.cleanup()
        for task in housekeeping:
            task.cancel()
        await connections.close()
        log.info("stopped")


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections have a small receive buffer from the first byte."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as fault:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {fault.strerror}",
            hint="another program may have the port: choose one with --port, 0 for any free one",
        ) from None
    return listener


def _publish(
    metrics: Metrics,
    bound: Bound,
    settings: Settings,
    admission: Admission,
    connections: Connections,
) -> None:
    metrics.watch("weir_streams", "Live streams.", lambda: len(admission.streams))
    metrics.watch("weir_connections", "Open connections.", lambda: len(connections))
    metrics.watch(
        "weir_buffered_process_bytes",
        "Bytes in the process that wait for their clients.",
        lambda: connections.in_process,
    )
    metrics.watch(
        "weir_buffered_kernel_bytes",
        "Bytes in the kernel's send queues.",
        lambda: connections.in_kernel,
    )
    metrics.publish(
        "weir_bound_bytes",
        "The worst case: total = max_streams x stream + fixed.",
        {"stream": bound.stream, "fixed": bound.fixed, "total": bound.total},
    )
    metrics.publish(
        "weir_limit",
        "What is enforced, in streams and connections.",
        {
            "streams": settings.max_streams,
            "streams_per_token": settings.max_streams_per_token,
            "connections": settings.max_connections,
        },
    )


async def _release_memory(ahead: ReadAhead) -> None:
    """Give back what was freed: soon after pages were dropped, but not more often than it pays."""
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(ahead.dropped.wait(), RELEASE_LATEST)
        await asyncio.sleep(RELEASE_SOONEST)
        ahead.dropped.clear()
        start = monotonic()
        await asyncio.to_thread(release_free_memory)
        await asyncio.sleep(RELEASE_REST * (monotonic() - start))


async def _log_memory(settings: Settings, admission: Admission, connections: Connections) -> None:
    while True:
        memory = await asyncio.to_thread(process_memory)
        log.info(
            "memory",
            rss_mib=round(memory.rss / MIB, 1),
            uss_mib=round(memory.uss / MIB, 1),
            streams=len(admission.streams),
            connections=len(connections),
            process_kib=round(connections.in_process / KIB),
            kernel_kib=round(connections.in_kernel / KIB),
        )
        await asyncio.sleep(settings.log_interval)
