"""Several workers on one machine: started, watched over, replaced when they die, ended together.

A worker is a process of its own, `python -m service.workers`, with the whole service in one event
loop. This process serves nothing. It opens the listening sockets, so that those who come while
a worker is being replaced wait in its socket's queue; and it takes back what a dead worker had
counted. A worker learns what to do from its standard input: a line of orders, then a line
whenever the tokens are others. From its end it learns that this process is gone.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from .app import AcceptTokens, address_of, fit, listen, load_tokens, reload_tokens, serving
from .databases import open_database
from .errors import ConfigurationError
from .logs import configure
from .settings import MIB, Settings
from .signals import end_at_once, reload_signal, stop_signal
from .stream.bound import Bound
from .team import Team
from .web.authentication import Token, Tokens

log = structlog.get_logger()

READY = b"ready\n"
RESTART_PAUSE = 1.0
"""Seconds until a worker is started again that did not even come to serve."""
END_SECONDS = 10
"""Beside the grace: what a worker gets to end, before it is killed."""
LINE_BYTES = 16 * MIB
"""Most bytes in a line that a worker is told; 2,000 tokens of the longest names take 2 MiB."""


@dataclass(frozen=True)
class Orders:
    """What a worker is told."""

    settings: Settings
    bound: Bound
    tokens: Sequence[Token]
    folder: Path
    number: int
    listener: int

    def dump(self) -> bytes:
        """One line of JSON."""
        members = {
            "settings": self.settings.model_dump(mode="json"),
            "bound": asdict(self.bound),
            "tokens": _members(self.tokens),
            "folder": str(self.folder),
            "number": self.number,
            "listener": self.listener,
        }
        return _line(members)

    @classmethod
    def load(cls, line: bytes) -> "Orders":
        members = json.loads(line)
        return cls(
            Settings.model_validate(members.pop("settings")),
            Bound(**members.pop("bound")),
            _tokens(members.pop("tokens")),
            folder=Path(members.pop("folder")),
            **members,
        )


def _line(told: object) -> bytes:
    return json.dumps(told).encode() + b"\n"


def _members(tokens: Sequence[Token]) -> list[dict[str, object]]:
    return [token.without_secret() for token in tokens]


def _tokens(members: Sequence[object]) -> list[Token]:
    return [Token.model_validate(token) for token in members]


async def run_workers(
    settings: Settings, ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serve with several workers until SIGTERM or SIGINT; `ready` is told the address.

    SIGHUP reads the token file again, for all of them. A second SIGTERM or SIGINT ends them at
    once.

    Raises ConfigurationError when the service cannot start as it was told to.
    """
    workers: list[_Worker] = []
    folder = None

    def kill(number: int) -> None:
        for worker in workers:
            worker.kill()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        end_at_once(number)

    stop = stop_signal(kill)
    reload = reload_signal(stop)
    tokens = await asyncio.to_thread(load_tokens, settings)
    database = await open_database(settings)  # makes the tables, or says what is wrong, once
    try:
        settings, bound = await fit(database.settings)
    finally:
        await database.close()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-")))
        team = Team(-1, settings.workers, folder)
        listeners = [stack.enter_context(listener) for listener in listen(settings)]
        workers += [
            _Worker(Orders(settings, bound, tokens.known, folder, number, listener.fileno()), team)
            for number, listener in enumerate(listeners)
        ]

        def accept(known: Sequence[Token]) -> None:
            for worker in workers:
                worker.accept(known)

        keepers = [asyncio.create_task(worker.keep()) for worker in workers]
        reloading = asyncio.create_task(reload_tokens(settings, reload, accept))
        start = asyncio.create_task(_started(workers))
        end = asyncio.create_task(stop.wait())
        await asyncio.wait([start, end], return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            address = address_of(listeners[0])
            log.info(
                "listening",
                address=address,
                workers=settings.workers,
                database=settings.shown_database,
            )
            ready(address)
        await end
        start.cancel()
        log.info("shutting down", grace=settings.grace)
        for listener in listeners:  # or the kernel would go on filling their queues
            listener.close()
        await asyncio.gather(*(worker.end(settings.grace) for worker in workers))
        await asyncio.gather(*keepers)
        reloading.cancel()
        log.info("stopped")


async def _started(workers: "Sequence[_Worker]") -> None:
    """Return when all of them serve."""
    for worker in workers:
        await worker.ready.wait()


class _Worker:
    """One worker's place: who fills it, and that it is filled."""

    def __init__(self, orders: Orders, team: Team) -> None:
        self.ready = asyncio.Event()
        self._orders = orders
        self._team = team
        self._process: asyncio.subprocess.Process | None = None
        self._ending = False
        self._starting = asyncio.Lock()

    async def keep(self) -> None:
        """Start the worker, and another one when it dies, until it is told to end."""
        number = self._orders.number
        while not self._ending:
            self.ready.clear()
            try:
                async with self._starting:
                    process = self._process = await self._spawn()
            except OSError as fault:
                log.error("worker cannot be started, it is tried again", reason=str(fault))
                await asyncio.sleep(RESTART_PAUSE)
                continue
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(ConnectionError):
                process.stdin.write(self._orders.dump())
                await process.stdin.drain()
            if await process.stdout.readline() == READY:
                self.ready.set()
            code = await process.wait()
            self._team.strike(number)
            if self._ending:
                return
            what = "died: its streams are broken" if self.ready.is_set() else "did not start"
            log.error(
                f"worker {what}, another one takes its place",
                worker=number,
                pid=process.pid,
                exit_code=code,
            )
            if not self.ready.is_set():
                await asyncio.sleep(RESTART_PAUSE)

    async def _spawn(self) -> asyncio.subprocess.Process:
        """A new process; it imports from where this one does, not from where it is started."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", f"{__package__}.workers"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[self._orders.listener],
            process_group=0,  # Ctrl-C is for the one that watches, who tells the others
            env=os.environ
            | {
                "PROMETHEUS_MULTIPROC_DIR": str(self._orders.folder),
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )

    def accept(self, tokens: Sequence[Token]) -> None:
        """Have the worker let in these from now on, and whoever takes its place."""
        self._orders = replace(self._orders, tokens=tokens)
        process = self._process
        if process is not None and process.returncode is None and process.stdin is not None:
            process.stdin.write(_line(_members(tokens)))

    def kill(self) -> None:
        """End the worker at once."""
        self._ending = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def end(self, grace: float) -> None:
        """Have the worker shut down, and kill it if it does not."""
        self._ending = True
        async with self._starting:  # or one that is just being started would stay
            process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace + END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()


async def _work(told: asyncio.StreamReader, orders: Orders) -> None:
    """Serve as one of the workers until told to end, or until nobody is left to tell it."""
    stop, alone = stop_signal(), asyncio.Event()
    settings = orders.settings
    tokens = Tokens(orders.tokens)
    team = Team(orders.number, settings.workers, orders.folder)

    async def listen(accept: AcceptTokens) -> None:
        while line := await told.readline():
            accept(_tokens(json.loads(line)))
        alone.set()
        stop.set()

    database = await open_database(settings)
    try:
        listener = socket.socket(fileno=orders.listener)
        async with serving(
            settings, orders.bound, database, tokens, listener=listener, team=team
        ) as accept:
            listening = asyncio.create_task(listen(accept))
            os.write(sys.stdout.fileno(), READY)
            await stop.wait()
        listening.cancel()
    finally:
        await database.close()
        team.strike(orders.number)
        if alone.is_set() and not team.pids():  # the last one puts away what they shared
            await asyncio.to_thread(shutil.rmtree, orders.folder, ignore_errors=True)


async def _told() -> None:
    """Hear what there is to do, and do it; nothing, when nobody is left to tell."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the one that watches tells what follows of it
    told = asyncio.StreamReader(LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(told), sys.stdin
    )
    try:
        if line := await told.readline():
            orders = Orders.load(line)
            configure(orders.settings.log_format, orders.number)
            await _work(told, orders)
    finally:
        transport.close()


def main() -> None:
    """What a worker's process runs."""
    try:
        asyncio.run(_told())
    except ConfigurationError as error:
        log.error("worker cannot start", reason=error.message, hint=error.hint)
        sys.exit(1)


if __name__ == "__main__":
    main()
