"""Every reader at one moment, seen from both ends: who holds the server up, and who was dropped."""

from collections.abc import Iterator

from .fleet import Outcome
from .fleet_process import FleetProcess
from .probe import STANDING
from .reader import State
from .record import ReaderLine
from .target import Ends, Target


def survey(target: Target, fleet: FleetProcess, phase: str, body: int) -> Iterator[ReaderLine]:
    """A line for each reader of the fleet. body: the bytes that it asked for.

    A reader that comes while they are looked at is not in the server's first look, and one that
    leaves is not in its second; the server has dropped neither: either look will do.
    """
    before, readers, after = target.ends(), fleet.outcomes(), target.ends()
    ends = None
    if before is not None and after is not None:
        ends = after | {port: end for port, end in before.items() if end[0] in STANDING}
    for each in readers:
        yield _line(each, phase, ends, body)


def _line(reader: Outcome, phase: str, ends: Ends | None, body: int) -> ReaderLine:
    state, queue = (ends or {}).get(reader.port, (0, 0)) if reader.port else (0, 0)
    standing = reader.state is State.STANDING
    taken = reader.received + reader.waiting + queue
    closed = standing and ends is not None and state not in STANDING
    return ReaderLine(
        phase=phase,
        number=reader.number,
        profile=reader.profile,
        state=reader.state,
        received=reader.received,
        taken=taken,
        queue=None if ends is None else queue,
        pressed=standing and state in STANDING and queue > 0,
        closed=closed,
        in_kernel=closed and taken >= body,
        fault=reader.fault,
    )
