"""What the engine needs of the servers: a connection for a short while, of a known state."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from asyncpg.pool import PoolConnectionProxy as Connection

T = TypeVar("T")


class Reads(Protocol):
    """Whoever finds a server that can be read from."""

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What `work` returns on the first server that gives it. `work` may be called again."""


PINS = {
    # What changes the text of a value.
    "datestyle": "ISO, YMD",
    "timezone": "UTC",
    "intervalstyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "standard_conforming_strings": "on",
    # The key's index is the one way to the rows: the planner cannot know how few they are.
    "enable_sort": "off",
    "enable_incremental_sort": "off",
}
"""Settings of each session that reads, beside those that all of them have."""
