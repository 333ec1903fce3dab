"""Small servers with a known verdict: what the simulator must tell apart.

Each answers `GET /?bytes=N` with so many bytes; one behaviour a file, one function each.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from ..verdict import Outcome

Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
"""Send a body of so many bytes; the head has gone before."""


class Expected(NamedTuple):
    """The verdict on a specimen, and on its two kinds of memory."""

    outcome: Outcome
    process: Outcome | None
    kernel: Outcome | None


EXPECTED = {
    "bounded": Expected(Outcome.BOUNDED, Outcome.BOUNDED, Outcome.BOUNDED),
    "unbounded": Expected(Outcome.UNBOUNDED, Outcome.UNBOUNDED, Outcome.OVER_BUDGET),
    "reads-it-all-first": Expected(Outcome.UNBOUNDED, Outcome.UNBOUNDED, Outcome.OVER_BUDGET),
    "kernel-hungry": Expected(Outcome.OVER_BUDGET, Outcome.BOUNDED, Outcome.OVER_BUDGET),
    "shedding": Expected(Outcome.SHED, None, None),
}
CHUNK = 16_384
"""Bytes that a specimen writes at a time."""


def chunks(size: int) -> Iterator[bytes]:
    """The body in pieces, each of them new: one that is shared would cost nothing to keep."""
    for start in range(0, size, CHUNK):
        yield (start.to_bytes(8, "big") * (CHUNK // 8))[: size - start]
