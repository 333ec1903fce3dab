"""What a server costs: the memory of its processes, and its sockets' queues in the kernel."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

ESTABLISHED = "01"
"""A connection's state in /proc/net/tcp; see TCP_ESTABLISHED in the kernel's tcp_states.h."""
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


class Memory(NamedTuple):
    """Memory of a process and all its descendants, in bytes.

    rss: resident; what processes share is counted once for each.
    uss: what would be free if they ended. It moves when *another* program starts or ends
    that shares their libraries: by 13 MB in one measurement of a Python service.
    """

    rss: int
    uss: int


class Queues(NamedTuple):
    """The sending side of a server's established connections.

    tx_queue: bytes that the server's kernel holds, unsent or unacknowledged, in all.
    sockets: how many connections that is.
    """

    tx_queue: int
    sockets: int


def memory(pid: int) -> Memory:
    """The memory of the process tree below `pid`, from /proc by psutil (statm, smaps_rollup).

    Takes up to 5 ms for a large process. A descendant that ends meanwhile counts as nothing.
    Raises psutil.NoSuchProcess if `pid` is gone, psutil.AccessDenied if it is another user's.
    """
    process = psutil.Process(pid)
    known = process.memory_full_info()
    rss, uss = known.rss, known.uss
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            known = child.memory_full_info()
            rss, uss = rss + known.rss, uss + known.uss
    return Memory(rss, uss)


def queues(port: int) -> Queues:
    """The send queues of the server on TCP `port` of this machine, IPv4 and IPv6.

    Reads the tables of this process's network namespace (proc(5)): a server in a container
    with a network of its own is not in them. Raises OSError where there is no /proc (not Linux).
    """
    found = []
    for number, table in enumerate(TABLES):
        try:
            with table.open(encoding="ascii") as lines:
                found.append(parse_queues(lines, port))
        except FileNotFoundError:
            if number == 0:
                raise  # only IPv6 may be missing
    return Queues(sum(each.tx_queue for each in found), sum(each.sockets for each in found))


def parse_queues(lines: Iterable[str], port: int) -> Queues:
    """Sum up the established connections whose local port is `port`.

    lines: a table as in /proc/net/tcp, its title line included. The columns used are
    local_address (`0100007F:0BB8`), st and tx_queue:rx_queue, all in hexadecimal.
    """
    ending = f":{port:04X}"
    total = sockets = 0
    for line in lines:
        _, local, _, state, sizes = line.split(maxsplit=5)[:5]
        if state == ESTABLISHED and local.endswith(ending):
            total += int(sizes.partition(":")[0], 16)
            sockets += 1
    return Queues(total, sockets)
