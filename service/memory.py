"""The memory of this process: how much it takes, and how the C library keeps what is freed."""

import ctypes
from typing import NamedTuple

import psutil

from service.settings import MIB

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of settings for mallopt(3)."""
KEPT_BYTES = 64 * MIB
"""Freed bytes at an end of the heap that stay at hand until `release_free_memory`."""
LARGE_BYTES = 32 * MIB
"""Smallest piece that is mapped by itself. The pages of a trip are far smaller: mapped, and
given back with every trip, they cost a sixth of the speed in page faults."""


class Memory(NamedTuple):
    """Of this process, in bytes: resident, and of that not shared with any other."""

    rss: int
    uss: int


def process_memory() -> Memory:
    """Read from /proc by psutil; some milliseconds for a large process."""
    information = psutil.Process().memory_full_info()
    return Memory(information.rss, information.uss)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed at hand, until it is released."""
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl does nothing
    if adjust is not None:
        adjust(M_TRIM_THRESHOLD, KEPT_BYTES)
        adjust(M_MMAP_THRESHOLD, LARGE_BYTES)


def release_free_memory() -> None:
    """Have the C library give back what it keeps, such as what a burst of readers took."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
    if trim is not None:
        trim(0)
