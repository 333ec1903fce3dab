"""The memory of this process: how much it takes, and giving back what was freed."""

import ctypes
from typing import NamedTuple

import psutil


class Memory(NamedTuple):
    """Of this process, in bytes: resident, and of that not shared with any other."""

    rss: int
    uss: int


def process_memory() -> Memory:
    """Read from /proc by psutil; some milliseconds for a large process."""
    information = psutil.Process().memory_full_info()
    return Memory(information.rss, information.uss)


def release_free_memory() -> None:
    """Have the C library give back what it keeps, such as what a burst of readers took."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
    if trim is not None:
        trim(0)
