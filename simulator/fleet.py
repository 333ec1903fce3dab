"""Many readers in one process, driven by one epoll."""

import heapq
import select
from collections import Counter
from dataclasses import replace
from math import inf
from random import Random
from time import monotonic
from typing import NamedTuple

from .endpoint import Endpoint
from .pacing import Share, Wait, deal
from .reader import TIME_IS_UP, Life, Reader, State

AT_ONCE = 500
"""Readers on their way at the same time: more would overflow the server's backlog, and a
connection that does not fit waits a second for its next try."""
LONGEST_SLEEP = 0.5
RETRY_SECONDS = 1.0
"""Until a reader that was refused or dropped begins again, if it is to: no storm of tries."""


class Counts(NamedTuple):
    """Readers by state, and what has come of them; see State.

    received: bytes by all of them. behind: those that have not yet taken what their profile
    reads before it is slow. begun: connections tried. completed and cut: those that
    got a whole body, or were dropped in the middle of one; over all, also those begun again.
    """

    connecting: int = 0
    asking: int = 0
    standing: int = 0
    whole: int = 0
    dropped: int = 0
    refused: int = 0
    failed: int = 0
    received: int = 0
    behind: int = 0
    begun: int = 0
    completed: int = 0
    cut: int = 0

    @property
    def on_their_way(self) -> int:
        return self.connecting + self.asking

    @property
    def readers(self) -> int:
        return sum(self[:7])


class Outcome(NamedTuple):
    """One reader as it is now. port: its own, by which the server's side can be found.
    waiting: bytes that have come, and that it has not read."""

    number: int
    profile: str
    state: State
    port: int
    received: int
    waiting: int
    fault: str


class Fleet:
    """The readers of one process. `reach` says how many; `turn` lets them do what is due.

    again: whether readers whose body ended begin again, and not only those that abort.
    """

    def __init__(
        self, endpoint: Endpoint, mix: tuple[Share, ...], seed: int, *, again: bool = False
    ) -> None:
        self._endpoint, self._mix, self._again = endpoint, mix, again
        self._random = Random(seed)
        self._first = {share.profile.name: share.profile.reads_first for share in mix}
        self._wanted = 0
        self._readers: list[Reader] = []
        self._lives: dict[int, Life] = {}
        self._at: dict[int, Reader] = {}
        self._timers: list[tuple[float, int]] = []
        self._due: dict[int, float] = {}
        self._poll = select.epoll()
        self._states = Counter[State]()
        self._begun = self._completed = self._cut = 0

    def reach(self, readers: int) -> None:
        """Have so many readers, if there are fewer; they come as fast as the server takes them."""
        self._wanted = max(self._wanted, readers)

    def fileno(self) -> int:
        """Readable when a socket has something for its reader: a fleet can be waited for."""
        return self._poll.fileno()

    def due(self) -> float:
        """Seconds until the next reader's time is up; not more than LONGEST_SLEEP."""
        if self._may_begin():
            return 0.0
        due = self._timers[0][0] - monotonic() if self._timers else LONGEST_SLEEP
        return max(0.0, min(LONGEST_SLEEP, due))

    def turn(self) -> None:
        """Do what is due, and return without waiting for more."""
        while self._may_begin():
            self._begin(self._new())
        for descriptor, events in self._poll.poll(0):
            reader = self._at[descriptor]
            self._due.pop(reader.number, None)
            self._resume(reader, events)
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, index = heapq.heappop(self._timers)
            if self._due.get(index) != due:
                continue  # it was woken by its socket before
            del self._due[index]
            if index in self._lives:
                self._resume(self._readers[index], TIME_IS_UP)
            else:
                self._begin(self._readers[index])

    def counts(self) -> Counts:
        return Counts(
            **{state.value: self._states[state] for state in State},
            received=sum(reader.received for reader in self._readers),
            behind=sum(
                reader.state is State.STANDING and reader.received < self._first[reader.profile]
                for reader in self._readers
            ),
            begun=self._begun,
            completed=self._completed,
            cut=self._cut,
        )

    def outcomes(self) -> list[Outcome]:
        return [
            Outcome(
                reader.number,
                reader.profile,
                reader.state,
                reader.port,
                reader.received,
                reader.waiting,
                reader.fault,
            )
            for reader in self._readers
        ]

    def close(self) -> None:
        """Reset every connection."""
        for reader in self._readers:
            reader.close()
        self._poll.close()

    def _may_begin(self) -> bool:
        on_their_way = self._states[State.CONNECTING] + self._states[State.ASKING]
        return len(self._readers) < self._wanted and on_their_way < AT_ONCE

    def _new(self) -> Reader:
        index = len(self._readers)
        reader = Reader(index, deal(self._mix, index).name)
        self._readers.append(reader)
        self._states[reader.state] += 1
        return reader

    def _begin(self, reader: Reader) -> None:
        profile = deal(self._mix, reader.number)
        endpoint = self._endpoint
        if profile.receive_buffer:
            endpoint = replace(endpoint, receive_buffer=profile.receive_buffer)
        script = profile.script(self._random, **profile.parameters)
        self._begun += 1
        self._lives[reader.number] = reader.life(endpoint, script)
        self._resume(reader)

    def _resume(self, reader: Reader, events: int | None = None) -> None:
        """Let a reader go on until it waits for something, and see to it that it is woken."""
        before, known = reader.state, reader.descriptor
        try:
            need = self._lives[reader.number].send(events)
        except StopIteration as end:
            self._finish(reader, known, before, of_itself=end.value)
            return
        self._states[before] -= 1
        self._states[reader.state] += 1
        # With no event asked for, epoll still tells of a connection that was reset.
        interest = need if isinstance(need, int) else 0
        if known < 0:
            self._at[reader.descriptor] = reader
            self._poll.register(reader.descriptor, interest)
        else:
            self._poll.modify(reader.descriptor, interest)
        if isinstance(need, Wait):
            self._wake(reader, need.seconds)

    def _wake(self, reader: Reader, seconds: float) -> None:
        if seconds < inf:
            self._due[reader.number] = due = monotonic() + seconds
            heapq.heappush(self._timers, (due, reader.number))

    def _finish(self, reader: Reader, known: int, before: State, *, of_itself: bool) -> None:
        if known >= 0:
            del self._at[known]  # epoll itself forgets what is closed
        del self._lives[reader.number]
        self._states[before] -= 1
        self._states[reader.state] += 1
        self._completed += reader.state is State.WHOLE
        self._cut += reader.state is State.DROPPED
        if of_itself:
            self._wake(reader, 0)
        elif self._again:
            self._wake(reader, RETRY_SECONDS)
