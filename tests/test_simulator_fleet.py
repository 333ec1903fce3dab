"""Slow readers over real sockets: what becomes of them, and what they cost the simulator."""

from collections.abc import Callable, Iterator
from time import monotonic, sleep

import psutil
import pytest

from simulator.errors import InconclusiveError, UsageError
from simulator.fleet import Counts
from simulator.fleet_process import Asking, FleetProcess
from simulator.pacing import PROFILES
from simulator.plan import make_plan, parse_mix
from simulator.probe import CLOSE_WAIT, connections
from simulator.reader import State
from simulator.selftest import serving
from simulator.survey import survey
from simulator.target import find_target
from tests.conftest import StartProcess

MIB = 1024 * 1024
SMALL = 20_000
"""Bytes of a body that a reader has in no time."""


@pytest.fixture
def bounded() -> Iterator[str]:
    """The URL of a server that awaits every write."""
    with serving("bounded") as (url, _):
        yield url


def counts_until(
    fleet: FleetProcess, condition: Callable[[Counts], object], seconds: float = 20
) -> Counts:
    """The counts once the condition holds; polled, as the readers are another process."""
    end = monotonic() + seconds
    while not condition(counts := fleet.counts()):
        assert monotonic() < end, counts
        sleep(0.02)
    return counts


def test_stalled_readers_take_nothing(bounded: str) -> None:
    """Readers that stall stand in the middle of the body, and have read its status only."""
    with FleetProcess(Asking(bounded)) as fleet:
        counts = fleet.reach(50)
        assert counts.standing == 50
        assert counts.received == 50 * len("HTTP/1.1 200")
        assert all(each.waiting > 0 for each in fleet.outcomes())
        assert fleet.counts().received == counts.received


def test_readers_that_finish_are_whole(bounded: str) -> None:
    """A reader that keeps up has the whole body, to the byte, and says so."""
    mix = parse_mix("pause-resume:size=1MiB,pause=0.05")
    with FleetProcess(Asking(f"{bounded}?bytes={SMALL}", mix=mix)) as fleet:
        fleet.reach(5)
        counts = counts_until(fleet, lambda counts: counts.whole == 5)
        assert counts.received > 5 * SMALL
        assert (counts.completed, counts.cut) == (5, 0)


def test_readers_begin_again(bounded: str) -> None:
    """Where asked for, a reader whose body has ended comes again."""
    mix = parse_mix("pause-resume:size=1MiB,pause=0.05")
    with FleetProcess(Asking(f"{bounded}?bytes={SMALL}", mix=mix, again=True)) as fleet:
        fleet.reach(3)
        assert counts_until(fleet, lambda counts: counts.completed >= 6).cut == 0


def test_aborting_readers_come_again(bounded: str) -> None:
    """Those that abort reset in mid-body, and connect anew by themselves."""
    mix = parse_mix("abort:first=16KiB,pause=0.05")
    with FleetProcess(Asking(bounded, mix=mix)) as fleet:
        fleet.reach(10)
        assert counts_until(fleet, lambda counts: counts.begun >= 50).completed == 0


def test_the_server_sees_a_half_close(bounded: str) -> None:
    """A reader that shuts its sending side leaves the server's end in CLOSE_WAIT."""
    mix = parse_mix("half-close-then-stall:first=4KiB")
    port = int(bounded.rstrip("/").rsplit(":", 1)[1])
    with FleetProcess(Asking(bounded, mix=mix)) as fleet:
        assert fleet.reach(4).standing == 4
        counts_until(
            fleet, lambda _: [each.state for each in connections(port)] == [CLOSE_WAIT] * 4
        )


def test_readers_that_come_and_go_are_not_dropped() -> None:
    """Whoever connects or aborts while both ends are looked at was not dropped by the server."""
    with serving("bounded") as (url, pid):
        target = find_target(make_plan(url=url), pid)
        with FleetProcess(Asking(url, mix=parse_mix("abort:first=1,pause=0.2"))) as fleet:
            fleet.reach(100)
            looks = [list(survey(target, fleet, "here", 16 * MIB)) for _ in range(50)]
    assert all(sum(each.pressed for each in readers) > 50 for readers in looks)
    assert not [each for readers in looks for each in readers if each.lost]


def test_dropped_readers_are_noticed_while_they_wait() -> None:
    """A reader that never reads learns all the same that the server has reset it."""
    with serving("shedding") as (url, _), FleetProcess(Asking(url)) as fleet:
        fleet.reach(10)
        assert counts_until(fleet, lambda counts: counts.dropped == 10).cut == 10
        assert {each.fault for each in fleet.outcomes()} == {"Connection reset by peer"}


def test_refused_readers_say_how(spawn: StartProcess) -> None:
    """A status other than 2xx is no reader: it is counted apart, with the status."""
    with FleetProcess(Asking(spawn().url + "/tasks/export.csv")) as fleet:
        assert fleet.reach(3).refused == 3
        assert {each.fault for each in fleet.outcomes()} == {"401"}
        assert {each.state for each in fleet.outcomes()} == {State.REFUSED}


def test_nobody_listens() -> None:
    """A port without a server is told before any reader sets out."""
    with (
        pytest.raises(UsageError, match="nobody listens"),
        FleetProcess(Asking("http://127.0.0.1:1")),
    ):
        pass


def test_a_fleet_ends_with_its_handle(bounded: str) -> None:
    """Its process is gone when the context is left, and its connections with it."""
    port = int(bounded.rstrip("/").rsplit(":", 1)[1])
    with FleetProcess(Asking(bounded)) as fleet:
        fleet.reach(20)
        pid = fleet.pid
    assert not psutil.pid_exists(pid)
    end = monotonic() + 10
    while connections(port):
        assert monotonic() < end
        sleep(0.02)


def test_a_fleet_that_died_is_told(bounded: str) -> None:
    """Readers whose process was killed are no silent zero."""
    with FleetProcess(Asking(bounded)) as fleet:
        fleet.reach(2)
        psutil.Process(fleet.pid).kill()
        with pytest.raises(InconclusiveError, match="the process of the readers has ended"):
            for _ in range(100):
                fleet.counts()


def test_thousands_of_readers_are_light(bounded: str) -> None:
    """2,000 readers of all profiles take one process of less than 64 MiB."""
    with FleetProcess(Asking(bounded, mix=parse_mix("+".join(PROFILES)))) as fleet:
        assert fleet.reach(2000).standing > 1700
        assert psutil.Process(fleet.pid).memory_info().rss < 64 * MIB
