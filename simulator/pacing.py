"""When a reader reads: the nine profiles, each a script of steps. Pure: no socket, no clock."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

TICKS = 4
"""Reads a second of a steady reader: fewer would be bursts, more would cost the simulator."""
GOLDEN_RATIO = (5**0.5 - 1) / 2
SMALLEST_BUFFER = 1
"""SO_RCVBUF that the kernel raises to the least it allows (2,304 bytes on Linux 6)."""


class Read(NamedTuple):
    """Take so many bytes, as fast as they come."""

    size: int


class Wait(NamedTuple):
    """Take nothing for so many seconds."""

    seconds: float


class HalfClose(NamedTuple):
    """Shut the sending side: the server sees the end of the requests, and may still answer."""


class Abort(NamedTuple):
    """Reset the connection, and begin again with another one."""


Step = Read | Wait | HalfClose | Abort
Script = Iterator[Step]
"""What a reader does once its answer has begun. One that ends leaves the reader stalled."""


def steady(random: Random, *, rate: int = 2048) -> Script:
    """Reads RATE bytes a second, evenly."""
    size = max(1, rate // TICKS)
    yield Wait(random.uniform(0, size / rate))
    while True:
        yield Read(size)
        yield Wait(size / rate)


def drip(random: Random, *, size: int = 512, every: float = 1.0) -> Script:
    """Reads SIZE bytes EVERY so many seconds."""
    yield Wait(random.uniform(0, every))
    while True:
        yield Read(size)
        yield Wait(every)


def stall(_: Random) -> Script:
    """Never reads the body."""
    yield from ()


def pause_resume(random: Random, *, size: int = 32_768, pause: float = 4.0) -> Script:
    """Reads SIZE bytes as fast as they come, then nothing for PAUSE seconds, and again."""
    yield Wait(random.uniform(0, pause))
    while True:
        yield Read(size)
        yield Wait(pause)


def burst(random: Random, *, size: int = 65_536, every: float = 2.0) -> Script:
    """Reads bursts of up to twice SIZE bytes, EVERY so many seconds on average, at random."""
    while True:
        yield Wait(random.expovariate(1 / every))
        yield Read(random.randint(1, 2 * size))


def read_then_stall(_: Random, *, first: int = 1_048_576) -> Script:
    """Reads the FIRST so many bytes as fast as they come, then never again."""
    yield Read(first)


def half_close_then_stall(_: Random, *, first: int = 4096) -> Script:
    """Reads the FIRST so many bytes, shuts its sending side, then never reads again."""
    yield Read(first)
    yield HalfClose()


def abort(random: Random, *, first: int = 65_536, pause: float = 2.0) -> Script:
    """Reads the FIRST so many bytes, PAUSEs about so long, resets, and comes again."""
    yield Read(first)
    yield Wait(random.uniform(0.5, 1.5) * pause)
    yield Abort()


def tiny_window(random: Random, *, size: int = 64, every: float = 0.5) -> Script:
    """Offers the smallest window there is, and reads SIZE bytes EVERY so many seconds."""
    yield from drip(random, size=size, every=every)


@dataclass(frozen=True)
class Profile:
    """One way of reading. parameters: those of its script, by name, with what they hold."""

    name: str
    script: Callable[..., Script]
    summary: str
    parameters: dict[str, int | float]

    @property
    def receive_buffer(self) -> int | None:
        """SO_RCVBUF in bytes that it insists on."""
        return SMALLEST_BUFFER if self.script is tiny_window else None

    @property
    def moves(self) -> bool:
        """Whether it goes on reading for as long as it is held."""
        return self.script not in (stall, read_then_stall, half_close_then_stall)

    @property
    def reads_first(self) -> int:
        """Bytes that it takes before it is slow: a body has to be longer than that."""
        return int(self.parameters.get("first", 0))

    def __str__(self) -> str:
        return ":".join(
            [self.name, ",".join(f"{key}={value}" for key, value in self.parameters.items())]
        ).rstrip(":")


class Share(NamedTuple):
    """A profile's part of a mix, by weight."""

    weight: int
    profile: Profile


def _profile(script: Callable[..., Script]) -> Profile:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(script).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    summary = inspect.getdoc(script) or ""
    return Profile(script.__name__.replace("_", "-"), script, summary, defaults)


SCRIPTS: tuple[Callable[..., Script], ...] = (
    steady,
    drip,
    stall,
    pause_resume,
    burst,
    read_then_stall,
    half_close_then_stall,
    abort,
    tiny_window,
)
PROFILES = {profile.name: profile for profile in map(_profile, SCRIPTS)}


def deal(mix: tuple[Share, ...], number: int) -> Profile:
    """The profile of reader `number`, so that any first readers are mixed as the weights say.

    Multiples of the golden ratio fall evenly between 0 and 1, however many have been taken.
    """
    place = int(number * GOLDEN_RATIO % 1 * sum(share.weight for share in mix))
    for weight, profile in mix:
        if place < weight:
            return profile
        place -= weight
    raise AssertionError("a mix has a weight")
