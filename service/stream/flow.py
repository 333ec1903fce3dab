"""One client's socket: what it still holds, whether it moves, when it has room, how it ends.

The figures are the kernel's own (Linux): SIOCOUTQ is described in tcp(7), `struct tcp_info`
in linux/tcp.h.
"""

import asyncio
import errno
import fcntl
import select
import socket
import struct
from array import array
from collections.abc import Callable
from time import monotonic

SIOCOUTQ = 0x5411
"""ioctl: bytes in the send queue, sent and not acknowledged or not sent."""
TCP_INFO_BYTES = 148
ACKED_AT, _ACKED = 120, struct.Struct("Q")
"""Where `tcpi_bytes_acked` stands in struct tcp_info (Linux 4.1 and later)."""
UNSENT_AT, _UNSENT = 144, struct.Struct("I")
"""Where `tcpi_notsent_bytes` stands (Linux 4.6 and later)."""

PATIENCE = 0.1
"""Seconds that a client may keep us waiting and still be a fast one."""
SETTLE_FIRST, SETTLE_LAST = 0.001, 0.5
"""Seconds between two looks at whether the last bytes have been acknowledged."""

_RESET, _PLAIN = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""SO_LINGER: drop what is queued and reset; or leave the rest to the kernel, the default."""
_number = array("i", [0])


class Room:
    """Tells when a socket has room again, for sockets that asyncio itself owns.

    A transport waits for room only once it holds bytes of its own. To hold none, wait
    before the write: an epoll of ours watches the same sockets, and asyncio watches it.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._wake)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    async def wait(self, descriptor: int) -> None:
        """Return when less than the low water mark (TCP_NOTSENT_LOWAT) is unsent."""
        waiter = self._waiting[descriptor] = self._loop.create_future()
        self._epoll.register(descriptor, select.EPOLLOUT | select.EPOLLONESHOT)
        try:
            await waiter
        finally:
            if self._waiting.get(descriptor) is waiter:
                del self._waiting[descriptor]
                self._forget(descriptor)

    def _wake(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            waiter = self._waiting.pop(descriptor, None)
            self._forget(descriptor)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _forget(self, descriptor: int) -> None:
        try:
            self._epoll.unregister(descriptor)
        except OSError as fault:  # closed in the meantime: the kernel has forgotten it already
            # EPERM: a file of another kind has the number by now.
            if fault.errno not in (errno.ENOENT, errno.EBADF, errno.EPERM):
                raise


class Flow:
    """The sending side of one connection.

    waited: seconds that the present stream has spent waiting for the client so far.
    waiting_since: monotonic time since when a writer waits for room; None while none does.
    settled: the peer hung up after it had acknowledged every byte.
    ended_by: why the connection was reset from this side ("stalled", "shutdown"), or "".
    """

    __slots__ = (
        "_acked",
        "_progress_at",
        "_room",
        "_socket",
        "_transport",
        "_unsent_bytes",
        "ended_by",
        "settled",
        "waited",
        "waiting_since",
    )

    def __init__(self, transport: asyncio.Transport, room: Room, unsent_bytes: int) -> None:
        self._transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._room = room
        self._unsent_bytes = unsent_bytes
        self._acked = 0
        self._progress_at = monotonic()
        self.ended_by = ""
        self.settled = False
        self.waited = 0.0
        self.waiting_since: float | None = None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent_bytes)
        # A write that is awaited returns when the kernel has all of it.
        transport.set_write_buffer_limits(high=0)

    @property
    def in_process(self) -> int:
        """Bytes that the transport holds, not yet taken by the kernel."""
        return self._transport.get_write_buffer_size()

    @property
    def in_kernel(self) -> int:
        """Bytes in the kernel's send queue, not yet acknowledged by the peer."""
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return 0  # closed
        fcntl.ioctl(descriptor, SIOCOUTQ, _number)
        return _number[0]

    def _clear(self) -> bool:
        """Whether the transport is empty and the kernel has less unsent than its mark."""
        return not self.in_process and self._unsent() < self._unsent_bytes

    def _unsent(self) -> int:
        information = self._information()
        return 0 if information is None else int(_UNSENT.unpack_from(information, UNSENT_AT)[0])

    def _information(self) -> bytes | None:
        """The kernel's struct tcp_info; None once the socket is closed.

        Asked on the way of every page, where an ioctl would do: that one lets go of Python's
        lock, and getting it back costs more than the call.
        """
        if self._socket.fileno() < 0:
            return None
        return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)

    async def room(self, slow: Callable[[], None] = lambda: None) -> None:
        """Return when the kernel will take a page; call `slow` if that takes a while."""
        if self._clear():
            return
        alarm = asyncio.get_running_loop().call_later(PATIENCE, slow)
        self.waiting_since = monotonic()
        try:
            while not self._clear():
                await self._room.wait(self._socket.fileno())
        finally:
            alarm.cancel()
            self.waited += monotonic() - self.waiting_since
            self.waiting_since = None

    async def settle(self) -> None:
        """Return when the peer has acknowledged every byte, or is gone."""
        pause = SETTLE_FIRST
        self.waiting_since = monotonic()
        try:
            while self.in_kernel:
                await asyncio.sleep(pause)
                pause = min(pause * 2, SETTLE_LAST)
        finally:
            self.waited += monotonic() - self.waiting_since
            self.waiting_since = None

    def still_for(self, now: float) -> float:
        """Seconds for which bytes have been pending and the peer has acknowledged none.

        Looks at what the peer acknowledged, not at when a write returned: the queue of a
        slow but live reader drains in large steps, minutes apart.
        """
        information = self._information()
        if information is None:
            return 0.0
        (acked,) = _ACKED.unpack_from(information, ACKED_AT)
        if acked != self._acked or not (self.in_process or self.in_kernel):
            self._acked = acked
            self._progress_at = now
        return now - self._progress_at

    def hung_up(self) -> None:
        """The peer will send no more: with bytes still on their way to it, it is gone.

        Left to itself, asyncio would close the socket once its buffer is empty, which a
        reader that has stopped never lets happen.
        """
        self.settled = not (self.in_process or self.in_kernel)
        if not self.settled:
            self.abort()

    def reset_at_end(self) -> None:
        """A stream begins: any end of the connection is a reset, even that of a killed process.

        Without chunks (HTTP/1.0) a plain end is all that tells a whole body from a torn one.
        """
        self.waited = 0.0
        self._linger(_RESET)

    def end_plainly(self) -> None:
        """All is with the peer: the connection may end plainly, or carry the next response."""
        self._linger(_PLAIN)

    def _linger(self, how: bytes) -> None:
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)

    def abort(self, reason: str = "") -> None:
        """End the connection at once with a reset, and free what the kernel holds for it.

        Closed plainly, the queue would stay in the kernel and a broken transfer look whole.
        """
        self.ended_by = self.ended_by or reason
        self._linger(_RESET)
        self._transport.abort()
