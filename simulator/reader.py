"""One slow reader: a raw socket that does what its script says, and notes what came of it."""

import os
import select
import socket
import ssl
import struct
import sys
from collections.abc import Generator
from contextlib import suppress
from enum import StrEnum
from fcntl import ioctl
from termios import FIONREAD

from .endpoint import Endpoint
from .pacing import Abort, HalfClose, Read, Script, Wait

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
Need = int | Wait
"""What a reader waits for: its socket, to be read or written, or so many seconds."""
Events = int | None
"""What it is resumed with: what epoll says of its socket, or TIME_IS_UP."""
TIME_IS_UP = 0
FOR_EVER = Wait(float("inf"))
STATUS_BYTES = len("HTTP/1.1 200")
HEAD_LIMIT = 65_536
"""Longest head that is looked through for the length of the body, in bytes."""
PIECE = 65_536
"""Most bytes taken in one call."""
CHUNKED_END = b"\r\n0\r\n\r\n"

Life = Generator[Need, Events, bool]


class State(StrEnum):
    """Where a reader is; the last four are final."""

    CONNECTING = "connecting"
    ASKING = "asking"  # connected, no answer yet
    STANDING = "standing"  # answered with a 2xx, and in the middle of the body
    WHOLE = "whole"  # got the whole body
    DROPPED = "dropped"  # the server ended the connection before the end of the body
    REFUSED = "refused"  # answered with another status than 2xx
    FAILED = "failed"  # no connection, or no answer


class Answer:
    """How far a response has come: fed with its bytes, it knows when the body is whole."""

    __slots__ = ("_head", "_length", "_tail", "body_bytes")

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()
        self._length: int | None = None
        self._tail = b""
        self.body_bytes = 0

    def feed(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
            if not end and len(self._head) <= HEAD_LIMIT:
                return
            self._length = content_length(head)
            self._head, data = None, rest
        self.body_bytes += len(data)
        self._tail = (self._tail + data)[-len(CHUNKED_END) :]

    @property
    def whole(self) -> bool:
        """Whether this can be the end: all of its length, or behind the last chunk."""
        if self._length is not None:
            return self.body_bytes == self._length
        return CHUNKED_END.endswith(self._tail) and len(self._tail) >= len(CHUNKED_END) - 2


def content_length(head: bytes) -> int | None:
    """The Content-Length that a response's head gives, in bytes, or None."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


class Reader:
    """A connection that asks once and reads by its script.

    `life` is to be driven: it yields what it waits for, and is resumed when that is there.
    received: bytes so far, head included, by this connection and those before it.
    """

    __slots__ = (
        "answer",
        "fault",
        "number",
        "port",
        "profile",
        "received",
        "socket",
        "state",
    )

    def __init__(self, number: int, profile: str) -> None:
        self.number = number
        self.profile = profile
        self.socket: socket.socket | None = None
        self.state = State.CONNECTING
        self.port = 0
        self.received = 0
        self.fault = ""
        self.answer = Answer()

    def life(self, endpoint: Endpoint, script: Script) -> Life:
        """From connect to the end; returns whether it ended itself, to begin again."""
        self.state, self.fault = State.CONNECTING, ""
        self.answer = Answer()
        again = False
        try:
            connection = yield from self._connect(endpoint)
            yield from _send(connection, endpoint.request)
            self.state = State.ASKING
            status = yield from self._take(connection, STATUS_BYTES)
            if status[9:10] == b"2":
                self.state = State.STANDING
                again = yield from self._follow(connection, script)
            else:
                self.state = State.REFUSED
                self.fault = status[9:].decode("latin-1")
        except _EndOfBodyError:
            self._ended("closed by the server")
        except OSError as fault:
            self._ended(fault.strerror or str(fault))
        self.close()
        if again:
            self.state = State.CONNECTING  # it stands no longer, and begins again later
        return again

    @property
    def descriptor(self) -> int:
        """The open file of its connection, -1 without one."""
        return self.socket.fileno() if self.socket else -1

    @property
    def waiting(self) -> int:
        """Bytes in its receive queue."""
        if not self.socket:
            return 0
        return int.from_bytes(ioctl(self.socket, FIONREAD, bytes(4)), sys.byteorder)

    def close(self) -> None:
        """Reset the connection, so that nothing lingers in either kernel."""
        if self.socket:
            with suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.socket.close()
            self.socket, self.port = None, 0

    def _connect(self, endpoint: Endpoint) -> Generator[Need, Events, socket.socket]:
        plain = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.socket = plain
        if endpoint.receive_buffer:
            # Before connect: the window that is offered first stays, whatever is set later.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, endpoint.receive_buffer)
        with suppress(BlockingIOError):
            plain.connect(endpoint.address)
        yield WRITE
        if error := plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
        self.port = plain.getsockname()[1]
        if not endpoint.tls:
            return plain
        wrapped = endpoint.tls.wrap_socket(
            plain, do_handshake_on_connect=False, server_hostname=endpoint.host
        )
        self.socket = wrapped
        while True:
            try:
                wrapped.do_handshake()
            except ssl.SSLWantReadError:
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE
            else:
                return wrapped

    def _follow(self, connection: socket.socket, script: Script) -> Life:
        for step in script:
            match step:
                case Read(size):
                    yield from self._take(connection, size)
                case Wait():
                    yield from self._wait(connection, step)
                case HalfClose():
                    # Of TLS, too, only the TCP connection is shut: the peer sees its end.
                    socket.socket.shutdown(connection, socket.SHUT_WR)
                case Abort():
                    return True
        yield from self._wait(connection, FOR_EVER)
        raise AssertionError("for ever is over")

    def _wait(self, connection: socket.socket, time: Wait) -> Generator[Need, Events, None]:
        """Let time pass. Only a broken connection makes a socket wake who asked for no event."""
        if (yield time) != TIME_IS_UP:
            if error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            raise _EndOfBodyError

    def _take(self, connection: socket.socket, size: int) -> Generator[Need, Events, bytes]:
        """Take exactly so many bytes, and return the first of them that came."""
        first = b""
        while size:
            try:
                data = connection.recv(min(size, PIECE))
            except (BlockingIOError, ssl.SSLWantReadError):
                yield READ
                continue
            if not data:
                raise _EndOfBodyError
            first = first or data
            size -= len(data)
            self.received += len(data)
            self.answer.feed(data)
        return first

    def _ended(self, fault: str) -> None:
        standing = self.state is State.STANDING
        if standing and self.answer.whole:
            self.state = State.WHOLE
        else:
            self.state, self.fault = (State.DROPPED if standing else State.FAILED), fault


class _EndOfBodyError(Exception):
    """The server has nothing more to send."""


def _send(connection: socket.socket, data: bytes) -> Generator[Need, Events, None]:
    while data:
        try:
            data = data[connection.send(data) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            yield WRITE
