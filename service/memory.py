"""The memory of processes: how much they take, and giving back what was freed."""

import ctypes
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import psutil


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
