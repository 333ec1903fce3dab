"""The memory of processes: how much they take, and giving back what was freed."""

import ctypes
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

UNLIMITED = 1 << 60
"""Bytes. Version 1 of control groups has no word for no limit: it writes a number near 2^63."""


class Memory(NamedTuple):
    """In bytes: resident, and of that not shared with any other process."""

    rss: int
    uss: int


def process_memory(pids: Iterable[int | None] = (None,)) -> Memory:
    """Of these processes together, this one if none is named; those that are gone have none.

    Read from /proc by psutil; some milliseconds for a large process.
    """
    rss = uss = 0
    for pid in pids:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            information = psutil.Process(pid).memory_full_info()
            rss += information.rss
            uss += information.uss
    return Memory(rss, uss)


def release_free_memory() -> None:
    """Have the C library give back what it keeps, such as what a burst of readers took."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
    if trim is not None:
        trim(0)


def container_memory(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int:
    """The memory limit of this process's control groups, in bytes; 0 when there is none.

    The lowest one counts, of its own group and of those above it. Both versions of control groups
    are read, as described in cgroups(7): `groups` names the group, `root` is where limits are.
    """
    limits: list[int] = []
    with suppress(OSError):
        for line in groups.read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                tree, name = root / "memory", "memory.limit_in_bytes"
            elif not controllers:
                tree, name = root, "memory.max"
            else:
                continue
            own = Path(path.lstrip("/"))
            # In a container the path may be the one that the host sees: its root is ours then.
            for folder in {own, *own.parents, Path()}:
                with suppress(OSError, ValueError):  # "max" is no number, and no limit
                    limits.append(int((tree / folder / name).read_text("ascii")))
    return min((limit for limit in limits if limit < UNLIMITED), default=0)
