"""What a server costs: the memory of its processes, and its sockets' queues in the kernel."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

PROC = Path("/proc")
ESTABLISHED, CLOSE_WAIT, LISTEN = 0x01, 0x08, 0x0A
"""States of a connection in /proc/net/tcp; see the kernel's tcp_states.h. CLOSE_WAIT is one
whose client has shut its sending side, and which the server may still use."""
STANDING = (ESTABLISHED, CLOSE_WAIT)
ROLLUP_FIELDS = (
    "Rss",
    "Private_Clean",
    "Private_Dirty",
    "Private_Hugetlb",
    "Swap",
    "Referenced",
)


class Memory(NamedTuple):
    """Memory of processes, in bytes, summed up over all of them.

    rss: resident; what processes share is counted once for each.
    uss: what would be free if they ended. It moves when *another* program starts or ends that
    shares their libraries: by 13 MB in one measurement of a Python service.
    private: what they have written themselves, in memory or swapped out: USS without the clean
    pages of files, which is what readers can cost and nobody else can move.
    touched: used since `forget_touched`, or ever: memory that was freed, kept, and taken again
    does not show in the others.
    """

    rss: int
    uss: int
    private: int
    touched: int


class Connection(NamedTuple):
    """The server's end of a connection. peer: the client's port. tx_queue: bytes that the
    kernel holds for it, unsent or unacknowledged."""

    state: int
    peer: int
    tx_queue: int


class Queues(NamedTuple):
    """The sending side of a server's connections.

    tx_queue: bytes that the kernel holds, those of connections that the server has closed
    already included. sockets: connections that both sides still have open.
    """

    tx_queue: int
    sockets: int


def tree(roots: Iterable[int]) -> list[psutil.Process]:
    """The processes of these ids that are alive, and all their descendants, each once."""
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            for each in (process, *process.children(recursive=True)):
                if each.status() != psutil.STATUS_ZOMBIE:
                    found[each.pid] = each
    return list(found.values())


def memory(pid: int) -> Memory:
    """The memory of a process and all its descendants; see memory_of."""
    processes = tree([pid])
    if not processes:
        raise psutil.NoSuchProcess(pid)
    return memory_of(processes)


def memory_of(processes: Iterable[psutil.Process]) -> Memory:
    """The memory of these processes, from /proc/PID/smaps_rollup.

    Takes up to 5 ms for a large process. One that ends meanwhile counts as nothing. Raises
    PermissionError if one is another user's, FileNotFoundError where there is no such /proc.
    """
    total = Memory(0, 0, 0, 0)
    for process in processes:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            try:
                text = (PROC / str(process.pid) / "smaps_rollup").read_text("ascii")
            except FileNotFoundError:
                if process.is_running():
                    raise
                continue
            total = Memory(*map(sum, zip(total, parse_rollup(text), strict=True)))
    return total


def parse_rollup(text: str) -> Memory:
    """The sums of one process, from lines such as `Private_Dirty:    144 kB`."""
    found = dict.fromkeys(ROLLUP_FIELDS, 0)
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) * 1024
    written = found["Private_Dirty"] + found["Private_Hugetlb"]
    return Memory(
        rss=found["Rss"],
        uss=written + found["Private_Clean"],
        private=written + found["Swap"],
        touched=found["Referenced"],
    )


def forget_touched(processes: Iterable[psutil.Process]) -> None:
    """Let `touched` begin at zero, by /proc/PID/clear_refs: the kernel forgets which pages were
    used, and nothing else. Raises OSError where that is not allowed."""
    for process in processes:
        with suppress(ProcessLookupError, FileNotFoundError):
            (PROC / str(process.pid) / "clear_refs").write_text("1", "ascii")


def open_files(processes: Iterable[psutil.Process]) -> int:
    """How many file descriptors these processes have open."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.num_fds()
    return total


def connections(port: int, pid: int | None = None) -> list[Connection]:
    """The server's end of all connections to its TCP `port`, IPv4 and IPv6 (proc(5)).

    Reads the tables of the network namespace of `pid`, or of this process. Raises OSError where
    there is no /proc (not Linux).
    """
    folder = PROC / (str(pid) if pid else "self") / "net"
    found: list[Connection] = []
    for number, name in enumerate(("tcp", "tcp6")):
        try:
            with (folder / name).open(encoding="ascii") as lines:
                found += parse_connections(lines, port)
        except FileNotFoundError:
            if number == 0:
                raise  # only IPv6 may be missing
    return found


def parse_connections(lines: Iterable[str], port: int) -> Iterator[Connection]:
    """Those whose local port is `port`, but for the listening socket itself.

    lines: a table as in /proc/net/tcp, its title line included. The columns used are
    local_address (`0100007F:0BB8`), rem_address, st and tx_queue:rx_queue, in hexadecimal.
    """
    ending = f":{port:04X}"
    for line in lines:
        _, local, remote, state, sizes = line.split(maxsplit=5)[:5]
        if local.endswith(ending) and int(state, 16) != LISTEN:
            queue, peer = int(sizes.partition(":")[0], 16), int(remote.rpartition(":")[2], 16)
            yield Connection(int(state, 16), peer, queue)


def queues(port: int, pid: int | None = None) -> Queues:
    """The sum of `connections`."""
    return sum_up(connections(port, pid))


def sum_up(found: Iterable[Connection]) -> Queues:
    """What these connections hold together."""
    found = list(found)
    return Queues(
        sum(each.tx_queue for each in found), sum(each.state in STANDING for each in found)
    )
