"""The server under test: its processes, and what they cost now."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psutil
from prometheus_client.parser import text_string_to_metric_families

from .body import ANSWER_SECONDS, header_fields
from .endpoint import find_endpoint, place
from .errors import InconclusiveError, UsageError
from .plan import Plan
from .probe import (
    Connection,
    connections,
    forget_touched,
    memory_of,
    open_files,
    sum_up,
    tree,
)

ANY_ADDRESS = ("0.0.0.0", "::")
ALLOCATOR = re.compile(r"MALLOC_|GLIBC_TUNABLES|LD_PRELOAD|PYTHONMALLOC")


class Figures(NamedTuple):
    """What a server costs now, in bytes; None for what cannot be had. See record.Sample."""

    process: int | None
    kernel: int | None
    rss: int | None = None
    uss: int | None = None
    touched: int | None = None
    sockets: int | None = None
    files: int | None = None


Ends = dict[int, tuple[int, int]]
"""State and send queue (in bytes) of the server's end of a connection, by the client's port."""


@dataclass
class Target:
    """The server at the plan's URL. missing: figures that cannot be had, with the reason."""

    plan: Plan
    port: int
    roots: tuple[int, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    _forgot: bool = False

    def forget_touched(self) -> None:
        """Begin to count the memory that is touched, where that is allowed."""
        if "process" not in self.missing:
            with suppress(OSError):
                forget_touched(tree(self.roots))
                self._forgot = True

    def figures(self) -> Figures:
        """Raises InconclusiveError if the server has died."""
        processes = self._processes()
        memory = files = None
        if "process" not in self.missing and not self.plan.memory_url:
            memory = memory_of(processes)
            files = open_files(processes)
        known = self._connections(processes)
        queues = sum_up(known) if known is not None else None
        reported = self._reported()
        return Figures(
            process=memory.private if memory else reported,
            kernel=queues.tx_queue if queues else None,
            rss=memory.rss if memory else None,
            uss=memory.uss if memory else None,
            touched=memory.touched if memory and self._forgot else None,
            sockets=queues.sockets if queues else None,
            files=files,
        )

    def ends(self) -> Ends | None:
        """The server's ends of its connections; None if unknown."""
        known = self._connections(self._processes())
        return None if known is None else {each.peer: (each.state, each.tx_queue) for each in known}

    def _processes(self) -> list[psutil.Process]:
        """Those that are alive."""
        found = tree(self.roots)
        if self.roots and not found:
            raise InconclusiveError(
                "the server died in mid-trial", "look at its own log; nothing is proved by this"
            )
        return found

    def _connections(self, processes: Sequence[psutil.Process]) -> list[Connection] | None:
        """In the network namespace of the server, or in ours."""
        if "kernel" in self.missing:
            return None
        return connections(self.port, processes[0].pid if processes else None)

    def program(self) -> str:
        """The name of what runs: without its arguments, which may hold secrets."""
        for process in tree(self.roots):
            with suppress(psutil.Error):
                return process.name()
        return "unknown"

    def allocator(self) -> dict[str, str]:
        """What the server's environment says about its allocator: freed memory may stay."""
        for process in tree(self.roots):
            with suppress(psutil.Error):
                found = process.environ()
                return {key: value for key, value in found.items() if ALLOCATOR.match(key)}
        return {}

    def _reported(self) -> int | None:
        """Process memory by its own metrics page."""
        if not self.plan.memory_url:
            return None
        return reported_memory(self.plan)


def find_target(plan: Plan, pid: int | None = None) -> Target:
    """The server that listens at the plan's URL, by its port or by the id of its process."""
    where = place(plan.url)
    endpoint = find_endpoint(plan.url)
    target = Target(plan, where.port)
    address = str(endpoint.address[0])
    if not _is_local(address):
        for part in ("process", "kernel"):
            target.missing[part] = f"{where.host} is another machine"
    elif pid is not None:
        target.roots = (_listening(pid, where.port),)
    else:
        target.roots = _listeners(where.port, address)
        if not target.roots:
            target.missing["process"] = (
                f"the process that listens on port {where.port} is another user's, or in a "
                "container: run as root, or give --pid or --memory-url"
            )
    if not Path("/proc/net/tcp").exists():
        target.missing |= dict.fromkeys(("process", "kernel"), "there is no /proc here")
    if plan.memory_url:
        target.missing.pop("process", None)
        reported_memory(plan)
    elif "process" not in target.missing:
        try:
            memory_of(tree(target.roots))
        except OSError as fault:
            target.missing["process"] = (
                f"the memory of process {target.roots[0]} cannot be read ({fault.strerror}): run "
                "as root or as its user, or give --memory-url"
            )
    return target


def reported_memory(plan: Plan) -> int:
    """The sum of the plan's metric on its Prometheus text page, in bytes.

    Raises UsageError if the page or the metric is not there.
    """
    url, name = plan.memory_url, plan.memory_metric
    same_place = urlsplit(url)[:2] == urlsplit(plan.url)[:2]
    # Secrets go nowhere but to the server that they are for.
    headers = header_fields(plan.headers) if same_place else {}
    try:
        place(url)
        with urlopen(Request(url, headers=headers), timeout=ANSWER_SECONDS) as answer:
            text = answer.read().decode("utf-8")
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if name in (sample.name, _selector(sample.name, sample.labels))
        ]
    except (OSError, ValueError) as fault:
        raise UsageError(f"--memory-url {url}: {fault}") from None
    if not found:
        raise UsageError(f"--memory-url {url} has no {name}", "name one with --memory-metric")
    return int(sum(found))


def _selector(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def _is_local(address: str) -> bool:
    with suppress(ValueError):
        if address.startswith("127.") or address == "::1":
            return True
    return any(
        address == known.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for known in addresses
    )


def _listeners(port: int, address: str) -> tuple[int, ...]:
    """The processes that listen on a port at this address, or else at any."""
    found: dict[str, set[int]] = {}
    for each in psutil.net_connections("tcp"):
        at = each.laddr
        if each.status == psutil.CONN_LISTEN and at and at.port == port and each.pid:
            found.setdefault(at.ip, set()).add(each.pid)
    for known in (address, *ANY_ADDRESS):
        if known in found:
            return tuple(sorted(found[known]))
    return ()


def _listening(pid: int, port: int) -> int:
    """Check that a process, or one below it, listens on a port."""
    if pid <= 0:
        raise UsageError(f"--pid {pid} is no process", "give the server's")
    try:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port:
                    return pid
    except psutil.NoSuchProcess:
        raise UsageError(f"--pid {pid}: there is no such process") from None
    except psutil.AccessDenied:
        return pid  # another user's: what cannot be read is said later
    others = ", ".join(map(str, _listeners(port, ""))) or "none that can be seen"
    raise UsageError(
        f"--pid {pid} does not listen on port {port}, nor does a process below it",
        f"the ones that do: {others}",
    )
