"""How slow readers read, step by step, and how they know that an answer is whole."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.pacing import (
    PROFILES,
    SMALLEST_BUFFER,
    TICKS,
    Abort,
    HalfClose,
    Profile,
    Read,
    Share,
    Step,
    Wait,
    deal,
)
from simulator.plan import parse_mix
from simulator.reader import HEAD_LIMIT, Answer, content_length

EXAMPLES = settings(max_examples=150, deadline=None, database=None)
NAMES = ["steady", "drip", "stall", "pause-resume", "burst"]
NAMES += ["read-then-stall", "half-close-then-stall", "abort", "tiny-window"]
ENDING = {"stall", "read-then-stall", "half-close-then-stall", "abort"}
"""Those whose script ends: in a stall, or with the connection."""
DEALT_WRONG = 4
"""Readers that any run of them may be away from its weights: 2.5 at most were seen in any of
thousands of mixes and runs of up to 400."""

SEEDS = st.integers(0, 2**64)
MIXES = st.lists(st.integers(1, 9), min_size=1, max_size=len(NAMES)).map(
    lambda weights: tuple(map(Share, weights, PROFILES.values()))
)
WIRE = st.binary(min_size=1, max_size=40).filter(lambda data: b"\r\n" not in data)


def profile(text: str) -> Profile:
    return parse_mix(text)[0].profile


def steps(known: Profile, seed: int = 1, most: int = 400) -> list[Step]:
    """The first steps of a script, or all of them."""
    return list(islice(known.script(Random(seed), **known.parameters), most))


class Taken(NamedTuple):
    """Bytes that were read at a time."""

    at: float
    size: int


def play(known: Profile, seconds: float, seed: int = 1) -> Iterator[Taken]:
    """What is read until a moment of simulated time, by a reader that never has to wait."""
    now = 0.0
    for step in known.script(Random(seed), **known.parameters):
        match step:
            case Read(size):
                yield Taken(now, size)
            case Wait(pause):
                now += pause
        if now > seconds:
            return


def test_there_are_nine_profiles() -> None:
    """The profiles are those of the design, each with a sentence about it."""
    assert list(PROFILES) == NAMES
    assert all(known.summary.endswith(".") for known in PROFILES.values())


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(seed=SEEDS)
def test_a_seed_tells_everything(name: str, seed: int) -> None:
    """The same seed gives the same script, step by step."""
    assert steps(PROFILES[name], seed, 60) == steps(PROFILES[name], seed, 60)


@pytest.mark.parametrize(
    "name", ["steady", "drip", "pause-resume", "burst", "abort", "tiny-window"]
)
def test_readers_do_not_march_in_step(name: str) -> None:
    """Readers with chance of their own do not do the same at the same time."""
    assert steps(PROFILES[name], 1, 8) != steps(PROFILES[name], 2, 8)


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(seed=SEEDS)
def test_every_step_can_be_taken(name: str, seed: int) -> None:
    """No script waits for a time below zero, reads nothing, or ends unless it stalls."""
    found = steps(PROFILES[name], seed, 100)
    for step in found:
        match step:
            case Read(size):
                assert size > 0
            case Wait(seconds):
                assert seconds >= 0
    assert (len(found) < 100) == (name in ENDING)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stall", []),
        ("read-then-stall", [Read(1024 * 1024)]),
        ("read-then-stall:first=10", [Read(10)]),
        ("half-close-then-stall", [Read(4096), HalfClose()]),
        ("half-close-then-stall:first=7", [Read(7), HalfClose()]),
    ],
)
def test_scripts_without_chance(text: str, expected: list[Step]) -> None:
    """The profiles that stall at once do what they say, and nothing else."""
    assert steps(profile(text)) == expected


@EXAMPLES
@given(seed=SEEDS, first=st.integers(1, 2**20), pause=st.floats(0.1, 100))
def test_abort_reads_waits_and_resets(seed: int, first: int, pause: float) -> None:
    """A reader that aborts reads its bytes, waits for half to one and a half times its pause."""
    read, wait, end = steps(profile(f"abort:first={first},pause={pause}"), seed)
    assert read == Read(first)
    assert isinstance(wait, Wait)
    assert 0.5 * pause <= wait.seconds <= 1.5 * pause
    assert end == Abort()


@pytest.mark.parametrize(
    ("text", "size", "every"),
    [
        ("steady", 2048 // TICKS, 1 / TICKS),
        ("drip", 512, 1.0),
        ("drip:size=64,every=5", 64, 5.0),
        ("pause-resume", 32 * 1024, 4.0),
        ("pause-resume:size=1KiB,pause=0.5", 1024, 0.5),
        ("tiny-window", 64, 0.5),
        ("tiny-window:size=1,every=2s", 1, 2.0),
    ],
)
def test_even_profiles(text: str, size: int, every: float) -> None:
    """Profiles with a beat begin anywhere in it, and keep it from then on."""
    begin, *rest = steps(profile(text))
    assert isinstance(begin, Wait)
    assert 0 <= begin.seconds <= every
    assert rest[0::2] == [Read(size)] * len(rest[0::2])
    assert rest[1::2] == [Wait(every)] * len(rest[1::2])


@pytest.mark.parametrize(
    "rate",
    [pytest.param(rate) for rate in (4, 64, 2048, 10_000, 1_000_000, 1, 3, 7)],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_steady_keeps_its_rate(rate: int, seed: int) -> None:
    """A steady reader takes its rate, to a tick in either direction, over any minute."""
    seconds = 60
    total = sum(each.size for each in play(profile(f"steady:rate={rate}"), seconds, seed))
    assert abs(total - rate * seconds) <= max(1, rate / TICKS)


@EXAMPLES
@given(seed=SEEDS, size=st.integers(1, 2**20))
def test_bursts_are_bounded(seed: int, size: int) -> None:
    """No burst is above twice its size, and each comes after a wait."""
    found = steps(profile(f"burst:size={size}"), seed)
    assert all(isinstance(step, Wait) for step in found[0::2])
    assert all(isinstance(step, Read) and 1 <= step.size <= 2 * size for step in found[1::2])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bursts_come_as_often_as_they_say(seed: int) -> None:
    """Over an hour, bursts of a mean size come at a mean distance, and at random."""
    found = list(play(profile("burst:size=1000,every=2"), 3600, seed))
    assert len(found) == pytest.approx(1800, rel=0.15)
    assert sum(each.size for each in found) / len(found) == pytest.approx(1000, rel=0.15)
    assert len({later.at - each.at for each, later in pairwise(found)}) > len(found) // 2


@pytest.mark.parametrize("name", NAMES)
def test_what_a_profile_insists_on(name: str) -> None:
    """Only the tiny window sets a buffer; what is read first is what a script reads at once; those
    that stall do not move."""
    known = PROFILES[name]
    assert known.moves == (name not in ENDING - {"abort"})
    assert known.receive_buffer == (SMALLEST_BUFFER if name == "tiny-window" else None)
    first = steps(known)[:1]
    assert known.reads_first == sum(step.size for step in first if isinstance(step, Read))


@EXAMPLES
@given(mix=MIXES, begin=st.integers(0, 5000), length=st.integers(1, 400))
def test_any_run_of_readers_is_mixed(mix: tuple[Share, ...], begin: int, length: int) -> None:
    """Any run of readers has each profile by its weight, to a few readers."""
    dealt = Counter(deal(mix, number).name for number in range(begin, begin + length))
    total = sum(share.weight for share in mix)
    assert dealt.total() == length
    for weight, known in mix:
        assert abs(dealt[known.name] - length * weight / total) <= DEALT_WRONG


def test_a_mix_of_all_has_each_among_the_first() -> None:
    """The first readers of a mix of all nine are of each profile."""
    mix = parse_mix("mix")
    assert {deal(mix, number).name for number in range(2 * len(NAMES))} == set(NAMES)


def fed(*parts: bytes) -> Answer:
    answer = Answer()
    for part in parts:
        answer.feed(part)
    return answer


def by_length(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def by_chunks(chunks: list[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@EXAMPLES
@given(body=st.binary(max_size=300), data=st.data())
def test_whole_by_length(body: bytes, data: st.DataObject) -> None:
    """Cut in two anywhere, an answer with a length is whole at its end, and not before."""
    wire = by_length(body)
    cut = data.draw(st.integers(0, len(wire)))
    assert fed(wire[:cut], wire[cut:]).whole
    assert fed(wire[:cut]).whole == (cut == len(wire))
    assert not fed(wire, b"x").whole
    assert fed(wire[:cut], wire[cut:]).body_bytes == len(body)


@EXAMPLES
@given(chunks=st.lists(WIRE, max_size=5), data=st.data())
def test_whole_by_chunks(chunks: list[bytes], data: st.DataObject) -> None:
    """Cut in three anywhere, a chunked answer is whole behind its last chunk, and not before."""
    wire = by_chunks(chunks)
    first, second = sorted(data.draw(st.integers(0, len(wire))) for _ in "ab")
    assert fed(wire[:first], wire[first:second], wire[second:]).whole
    assert fed(wire[:first], wire[first:second]).whole == (second == len(wire))


@pytest.mark.parametrize("chunks", [[], [b"x"], [b"0"], [b"a" * 16], [b"a" * 256, b"b" * 15]])
def test_every_cut_of_a_chunked_answer(chunks: list[bytes]) -> None:
    """Fed byte by byte, a chunked answer is whole at its last byte only."""
    wire = by_chunks(chunks)
    answer = Answer()
    seen = []
    for number in range(len(wire)):
        answer.feed(wire[number : number + 1])
        seen.append(answer.whole)
    assert seen == [False] * (len(wire) - 1) + [True]


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil it is closed",
        b"x" * (HEAD_LIMIT + 1),
        b"x" * HEAD_LIMIT + b"\r\n\r\n",
    ],
    ids=["nothing", "no end", "length, no end", "no body", "no length", "too long", "odd"],
)
def test_what_cannot_be_told_is_not_whole(wire: bytes) -> None:
    """Without a whole head, or a word about the length, no end is the end of the body."""
    assert not fed(wire).whole


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"Content-Length: 17", 17),
        (b"content-length:17", 17),
        (b"CONTENT-LENGTH: 0 ", 0),
        (b"Content-Length: 17\r\nX: y", 17),
        (b"X: y\r\nContent-Length: 17", 17),
        (b"Content-Length: ", None),
        (b"Content-Length: -1", None),
        (b"Content-Length: 1e3", None),
        (b"Content-Length: 0x11", None),
        (b"X-Content-Length: 17", None),
        (b"X: Content-Length: 17", None),
        (b"", None),
    ],
)
def test_content_length(line: bytes, expected: int | None) -> None:
    """A length is a header of its own, a decimal number, and never in the status line."""
    assert content_length(b"HTTP/1.1 200 OK\r\n" + line) == expected
    assert content_length(line) is None or b"\r\n" in line
