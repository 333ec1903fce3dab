"""Many readers that stop reading: raw non-blocking sockets, all in one process."""

import resource
import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple
from urllib.parse import urlsplit

SMALL_BUFFER = 4096
"""SO_RCVBUF that makes a reader's own side hold next to nothing, so that the server must."""
AT_ONCE = 1000
"""Readers on their way at the same time: more would overflow the server's backlog, and a
connection that does not fit waits a second for its next try."""
READ_BYTES = 65_536
PATIENCE = 20.0
"""Seconds without any progress of any reader after which those not answered are left out."""
OTHER_FILES = 64
"""Open files of this process that are no readers."""
STATUS_BYTES = len("HTTP/1.1 200")
TCP_ESTABLISHED = 1

Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class UnreachableError(Exception):
    """The readers cannot be set up: a URL that nobody serves or that is refused, or too many."""


class Counts(NamedTuple):
    """What became of the readers; numbers of readers but for bytes_read.

    readers: asked for. connected: the server's kernel took the connection. stalled: answered
    with a 2xx, and have stopped reading. refused: answered with another status. ended: the
    server closed before they stopped. established: stalled ones whose connection stands now.
    bytes_read: by all of them, heads included.
    """

    readers: int
    connected: int
    stalled: int
    refused: int
    ended: int
    established: int
    bytes_read: int


@dataclass(frozen=True)
class Plan:
    """What each reader does.

    headers: lines as in `Authorization: Bearer ...`. receive_buffer: SO_RCVBUF in bytes, set
    before connect; 0 leaves the system's default. first: bytes to read as fast as they come
    before stopping; 0 never reads at all.
    """

    url: str
    readers: int
    headers: tuple[str, ...] = ()
    receive_buffer: int = SMALL_BUFFER
    first: int = 0

    def address(self) -> tuple[socket.AddressFamily, Address]:
        """Where to connect. Raises UnreachableError for a URL that leads nowhere."""
        try:
            parts = urlsplit(self.url)
            port = parts.port or 80
        except ValueError as fault:
            raise UnreachableError(f"{self.url}: {fault}") from None
        if parts.scheme != "http" or not parts.hostname:
            raise UnreachableError(f"{self.url}: not a URL of the form http://host:port/path")
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError as fault:
            raise UnreachableError(f"{self.url}: {fault.strerror}") from None
        return found[0][0], found[0][4]

    def request(self) -> bytes:
        parts = urlsplit(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Accept-Encoding: identity"]
        return "\r\n".join([*lines, *self.headers, "", ""]).encode()


@dataclass(slots=True)
class _Reader:
    socket: socket.socket
    asked: bool = False
    answered: bool = False
    read: int = 0


@dataclass
class Fleet:
    """All readers, in this process. `stall`, then `counts` at any time, then `close`."""

    plan: Plan
    _poll: select.epoll = field(default_factory=select.epoll)
    _busy: dict[int, _Reader] = field(default_factory=dict)
    _stalled: list[_Reader] = field(default_factory=list)
    _opened: int = 0
    _connected: int = 0
    _unanswered: int = 0
    _refused: int = 0
    _ended: int = 0
    _bytes: int = 0
    _fault: str = ""
    _buffer: bytearray = field(default_factory=lambda: bytearray(READ_BYTES))

    def stall(self, deadline: float) -> None:
        """Return when every reader has stopped reading, been refused, or ended.

        Returns before that at `deadline` (a time.monotonic) or after PATIENCE. Raises
        UnreachableError if there are no readers to show for it.
        """
        _allow_files(self.plan.readers)
        family, address = self.plan.address()
        request = self.plan.request()
        progress = monotonic()
        while self._opened < self.plan.readers or self._busy:
            while self._opened < self.plan.readers and self._unanswered < AT_ONCE:
                self._open(family, address)
            events = self._poll.poll(0.5)
            now = monotonic()
            if events:
                progress = now
            elif now - progress > PATIENCE:
                self._fault = self._fault or f"no answer within {PATIENCE:.0f} s"
                break
            if now > deadline:
                break
            for descriptor, _ in events:
                self._step(descriptor, request)
        if not self._stalled:
            raise UnreachableError(f"{self.plan.url}: {self._fault or 'no reader got through'}")

    def counts(self) -> Counts:
        return Counts(
            readers=self.plan.readers,
            connected=self._connected,
            stalled=len(self._stalled),
            refused=self._refused,
            ended=self._ended,
            established=sum(_established(reader.socket) for reader in self._stalled),
            bytes_read=self._bytes,
        )

    def close(self) -> None:
        """Reset every connection, so that nothing lingers in either kernel."""
        for reader in (*self._busy.values(), *self._stalled):
            _reset(reader.socket)
        self._busy.clear()
        self._stalled.clear()
        self._poll.close()

    def _open(self, family: socket.AddressFamily, address: Address) -> None:
        reader = _Reader(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        self._opened += 1
        if self.plan.receive_buffer:
            # Before connect: the window that is offered first stays, whatever is set later.
            reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.plan.receive_buffer)
        self._unanswered += 1
        descriptor = reader.socket.fileno()
        self._busy[descriptor] = reader
        self._poll.register(descriptor, select.EPOLLOUT)
        try:
            reader.socket.connect(address)
        except BlockingIOError:
            pass
        except OSError as fault:
            self._end(descriptor, str(fault.strerror))

    def _step(self, descriptor: int, request: bytes) -> None:
        reader = self._busy[descriptor]
        try:
            if not reader.asked:
                self._ask(descriptor, reader, request)
            elif not reader.answered:
                self._look(descriptor, reader)
            else:
                self._read(descriptor, reader)
        except BlockingIOError:
            pass
        except OSError as fault:
            self._end(descriptor, str(fault.strerror))

    def _ask(self, descriptor: int, reader: _Reader, request: bytes) -> None:
        """The connection stands: send the request, small enough to go in one piece."""
        reader.socket.send(request)
        reader.asked = True
        self._connected += 1
        self._poll.modify(descriptor, select.EPOLLIN)

    def _look(self, descriptor: int, reader: _Reader) -> None:
        """The answer has begun: look at its status, and leave it in the kernel."""
        status = reader.socket.recv(STATUS_BYTES, socket.MSG_PEEK)
        if not status:
            self._end(descriptor, "closed without an answer")
        elif len(status) == STATUS_BYTES:
            reader.answered = True
            self._unanswered -= 1
            if status[9:10] != b"2":
                self._refused += 1
                self._discard(descriptor, f"answered {status.decode('latin-1')}")
            elif not self.plan.first:
                self._stop(descriptor)

    def _read(self, descriptor: int, reader: _Reader) -> None:
        wanted = min(READ_BYTES, self.plan.first - reader.read)
        size = reader.socket.recv_into(self._buffer, wanted)
        self._bytes += size
        reader.read += size
        if not size:
            self._end(descriptor, "the body is over before they stop; ask for a longer one")
        elif reader.read == self.plan.first:
            self._stop(descriptor)

    def _stop(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        self._stalled.append(self._busy.pop(descriptor))

    def _end(self, descriptor: int, reason: str) -> None:
        self._ended += 1
        self._unanswered -= not self._busy[descriptor].answered
        self._discard(descriptor, reason)

    def _discard(self, descriptor: int, reason: str) -> None:
        self._fault = self._fault or reason
        self._poll.unregister(descriptor)
        _reset(self._busy.pop(descriptor).socket)


def _allow_files(readers: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if readers + OTHER_FILES > hard:
        raise UnreachableError(
            f"{readers} readers need as many open files, and {hard} are allowed: raise `ulimit -n`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _established(connection: socket.socket) -> bool:
    """Whether both ends stand: `tcpi_state` is the first byte of the kernel's struct tcp_info."""
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == TCP_ESTABLISHED


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
