"""What a server costs: the kernel's tables parsed, and read of this very process."""

import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import ioctl
from termios import FIONREAD
from typing import NamedTuple

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.plan import KIB, MIB
from simulator.probe import (
    CLOSE_WAIT,
    ESTABLISHED,
    LISTEN,
    Connection,
    Memory,
    Queues,
    connections,
    forget_touched,
    memory,
    memory_of,
    open_files,
    parse_connections,
    parse_rollup,
    queues,
    tree,
)
from tests.conftest import until

EXAMPLES = settings(max_examples=150, deadline=None, database=None)
FIN_WAIT1, TIME_WAIT = 0x04, 0x06
PORT = 3000
BLOCK = 32 * MIB
NOISE = 4 * MIB
"""Bytes by which this process may move while it is looked at."""
PAGE = 4 * KIB

TITLE = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    "inode                                                     \n"
)
TCP = f"""{TITLE}\
   0: 00000000:0BB8 00000000:0000 0A 00000000:00000005 00:00000000 00000000     0        0 634 1 0
   1: 0100007F:0BB8 0100007F:ADCF 01 0000A3F0:00000000 01:00000016 00000000  1000        0 71 2 0
   2: 0100007F:ADCF 0100007F:0BB8 01 00000000:0000FFFF 00:00000000 00000000  1000        0 72 1 0
   3: 0100007F:0BB8 0100007F:ADD0 04 00000101:00000000 01:00000016 00000003     0        0 0 2 0
   4: 0100007F:0BB8 0100007F:ADD1 08 00000010:00000001 00:00000000 00000000  1000        0 73 1 0
   5: 0100007F:0BB8 0100007F:ADD2 06 00000000:00000000 03:00000001 00000000     0        0 0 3 0
   6: 0100007F:10BB 0100007F:ADD3 01 00FFFFFF:00000000 00:00000000 00000000  1000        0 74 1 0
   7: 0A00000A:1F90 0100007F:0BB8 01 00FFFFFF:00000000 00:00000000 00000000  1000        0 75 1 0
"""
NONE = "00000000000000000000000000000000"
LOOPBACK = "00000000000000000000000001000000"
MAPPED = "0000000000000000FFFF00000100007F"
REST = "00:00000000 00000000     0        0 0 1 0"
TCP6 = f"""\
  sl  local_address                         remote_address                        st tx_queue \
rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: {NONE}:0BB8 {NONE}:0000 0A 00000000:00000000 {REST}
   1: {LOOPBACK}:0BB8 {LOOPBACK}:C001 01 00000020:00000000 {REST}
   2: {MAPPED}:0BB8 {MAPPED}:C002 01 00000003:00000000 {REST}
   3: {LOOPBACK}:0BB9 {LOOPBACK}:0BB8 01 00000700:00000000 {REST}
"""
ROLLUP = """\
55c313bea000-7fff103fe000 ---p 00000000 00:00 0                          [rollup]
Rss:              101724 kB
Pss:                 518 kB
Pss_Dirty:           112 kB
Shared_Clean:       1520 kB
Shared_Dirty:          7 kB
Private_Clean:        92 kB
Private_Dirty:       112 kB
Referenced:         1700 kB
Anonymous:           112 kB
Private_Hugetlb:    2048 kB
Swap:                 16 kB
SwapPss:               8 kB
Locked:                0 kB
"""
OLD_ROLLUP = "\n".join(line for line in ROLLUP.splitlines() if "Huge" not in line)


def test_ipv4_table() -> None:
    """Of /proc/net/tcp, the server's connections count: not its listening socket, not its
    clients' ends, not other ports; what it has closed counts with what is still to be sent."""
    assert list(parse_connections(TCP.splitlines(keepends=True), PORT)) == [
        Connection(ESTABLISHED, 0xADCF, 0xA3F0),
        Connection(FIN_WAIT1, 0xADD0, 0x101),
        Connection(CLOSE_WAIT, 0xADD1, 0x10),
        Connection(TIME_WAIT, 0xADD2, 0),
    ]


def test_ipv6_table() -> None:
    """Of /proc/net/tcp6, connections count by IPv6 and by IPv4 to a socket of both."""
    assert list(parse_connections(TCP6.splitlines(keepends=True), PORT)) == [
        Connection(ESTABLISHED, 0xC001, 0x20),
        Connection(ESTABLISHED, 0xC002, 3),
    ]


@pytest.mark.parametrize("lines", [[], [TITLE]])
def test_empty_table(lines: list[str]) -> None:
    """A table without connections has none."""
    assert list(parse_connections(lines, PORT)) == []


class Row(NamedTuple):
    """A line of the kernel's table."""

    local: int
    peer: int
    state: int
    tx_queue: int
    rx_queue: int

    def __str__(self) -> str:
        return (
            f"   0: 0100007F:{self.local:04X} 0100007F:{self.peer:04X} {self.state:02X} "
            f"{self.tx_queue:08X}:{self.rx_queue:08X} {REST}"
        )


PORTS = st.integers(1, 0xFFFF)
BYTES = st.integers(0, 0xFFFFFFFF)
ROWS = st.lists(st.builds(Row, PORTS | st.just(PORT), PORTS, st.integers(1, 12), BYTES, BYTES))


@EXAMPLES
@given(ROWS)
def test_any_table(rows: list[Row]) -> None:
    """Whatever stands in a table, the server's own rows are found, with their send queues."""
    lines = [TITLE, *map(str, rows)]
    assert list(parse_connections(lines, PORT)) == [
        Connection(row.state, row.peer, row.tx_queue)
        for row in rows
        if row.local == PORT and row.state != LISTEN
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROLLUP, Memory(rss=101_724, uss=112 + 2048 + 92, private=112 + 2048 + 16, touched=1700)),
        (OLD_ROLLUP, Memory(rss=101_724, uss=112 + 92, private=112 + 16, touched=1700)),
        ("", Memory(0, 0, 0, 0)),
    ],
    ids=["whole", "without huge pages", "empty"],
)
def test_rollup(text: str, expected: Memory) -> None:
    """Memory is summed from a rollup: what files have shared is no cost, what is swapped out is."""
    assert parse_rollup(text) == Memory(*(value * KIB for value in expected))


@contextmanager
def child(code: str = "input()") -> Iterator[subprocess.Popen[bytes]]:
    """Another Python that runs until it is read from, or until the context ends."""
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def pids(*roots: int) -> set[int]:
    return {process.pid for process in tree(roots)}


def test_tree_of_this_process() -> None:
    """A process's tree is itself and what it has started, each once, for as long as it lives."""
    own = os.getpid()
    with child() as first, child() as second:
        assert {own, first.pid, second.pid} <= pids(own)
        assert pids(first.pid) == {first.pid}
        assert pids(first.pid, first.pid, second.pid) == {first.pid, second.pid}
        assert len(tree([own, first.pid])) == len(pids(own))
    assert not {first.pid, second.pid} & pids(own)


def test_tree_goes_deep() -> None:
    """A process of a process is of the tree."""
    code = (
        "import subprocess, sys;"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'input()']);"
        "print(p.pid, flush=True); p.wait()"
    )
    with child(code) as process:
        assert process.stdout
        grandchild = int(process.stdout.readline())
        assert pids(process.pid) == {process.pid, grandchild}
        assert process.stdin
        process.stdin.close()
        process.wait(20)


def test_the_dead_are_no_part_of_a_tree() -> None:
    """A process that has ended counts as nothing, even if nobody has asked how."""
    with child("pass") as process:
        alive = psutil.Process(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert pids(process.pid) == set()
        with pytest.raises(psutil.NoSuchProcess):
            memory(process.pid)
        process.wait(20)
        assert memory_of([alive]) == Memory(0, 0, 0, 0)
        assert open_files([alive]) == 0
        forget_touched([alive])


def test_memory_that_is_written_shows() -> None:
    """32 MiB that this process writes are seen in all figures, and go when they are freed."""
    before = memory(os.getpid())
    # Asked of the kernel: what tests before have freed could be given out once more.
    block = mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, BLOCK, PAGE):
        block[at] = 1
    grown = memory(os.getpid())
    for name in ("rss", "uss", "private"):
        assert getattr(grown, name) - getattr(before, name) == pytest.approx(BLOCK, abs=NOISE)
    block.close()
    assert memory(os.getpid()).private - before.private < NOISE


def test_memory_of_children_is_added() -> None:
    """What a child takes counts for its parent."""
    with child(f"x = b'x' * {BLOCK}; print(1, flush=True); input()") as process:
        assert process.stdout
        process.stdout.readline()
        alone, both = memory(process.pid), memory_of(tree([os.getpid()]))
        assert alone.private > BLOCK
        assert both.private > alone.private + memory_of([psutil.Process()]).private - NOISE


def test_memory_that_is_used_again_shows() -> None:
    """Memory that this process had before and touches again is seen in `touched` alone."""
    block = bytearray(BLOCK)
    block[::PAGE] = b"x" * (BLOCK // PAGE)
    own = [psutil.Process()]
    forget_touched(own)
    before = memory_of(own)
    assert before.touched < before.rss - BLOCK + NOISE
    block[::PAGE] = b"y" * (BLOCK // PAGE)
    after = memory_of(own)
    assert after.touched - before.touched > BLOCK - NOISE
    assert abs(after.private - before.private) < NOISE


def test_open_files_are_counted() -> None:
    """Each file that is opened is one more."""
    own = [psutil.Process()]
    before = open_files(own)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(open(os.devnull))
        assert open_files(own) == before + 10
    assert open_files(own) == before


class Pair(NamedTuple):
    """A connection by loopback whose client is slow. sent: bytes that the kernel accepted."""

    server: socket.socket
    client: socket.socket
    port: int
    sent: int

    @property
    def waiting(self) -> int:
        """Bytes in the client's receive queue."""
        return int.from_bytes(ioctl(self.client, FIONREAD, bytes(4)), sys.byteorder)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A server that has sent all that the kernel takes, to a client that reads nothing."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        client.connect(("127.0.0.1", port))
        server = stack.enter_context(listener.accept()[0])
        server.setblocking(False)
        sent = 0
        try:
            while True:
                sent += server.send(bytes(64 * KIB))
        except BlockingIOError:
            yield Pair(server, client, port, sent)


async def test_unread_bytes_show_in_the_queue(pair: Pair) -> None:
    """What the client has not taken is in one of the two kernels' queues, to the byte."""
    await until(lambda: queues(pair.port).tx_queue + pair.waiting == pair.sent)
    found = queues(pair.port)
    assert found == Queues(pair.sent - pair.waiting, 1)
    assert found.tx_queue > 64 * KIB
    assert queues(pair.port, os.getpid()) == found
    peer = pair.client.getsockname()[1]
    assert connections(pair.port) == [Connection(ESTABLISHED, peer, found.tx_queue)]
    assert connections(peer)[0].tx_queue == 0


async def test_a_half_closed_connection_stands(pair: Pair) -> None:
    """A client that has only shut its sending side can still hold the server up."""
    pair.client.shutdown(socket.SHUT_WR)
    await until(lambda: connections(pair.port)[0].state == CLOSE_WAIT)
    assert queues(pair.port).sockets == 1
    assert queues(pair.port).tx_queue > 64 * KIB


async def test_a_closed_connection_leaves_its_queue(pair: Pair) -> None:
    """What a server has closed does not stand, and its bytes are still in the kernel."""
    pair.server.close()
    await until(lambda: connections(pair.port)[0].state == FIN_WAIT1)
    assert queues(pair.port).sockets == 0
    assert queues(pair.port).tx_queue > 64 * KIB


async def test_nothing_is_left_of_a_reset_connection(pair: Pair) -> None:
    """When a client resets its connection, the kernel's queue is empty at once."""
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
    pair.client.close()
    pair.server.close()
    await until(lambda: queues(pair.port) == Queues(0, 0))
