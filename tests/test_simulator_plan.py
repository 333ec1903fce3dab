"""What a trial is asked to do: every plan that makes sense, and a word about each that does not."""

from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator.endpoint import place, request
from simulator.errors import EXIT_USAGE, UsageError
from simulator.pacing import PROFILES, Profile, Share, deal
from simulator.plan import (
    CEILING,
    FEWEST_READERS,
    KIB,
    MIB,
    PROOF,
    QUICK,
    STANDARD,
    Plan,
    describe_mix,
    make_plan,
    parse_mix,
)

EXAMPLES = settings(max_examples=200, deadline=None, database=None)
URL = "http://127.0.0.1:3000/tasks"
LONGEST_WAIT = 1e9
"""Seconds; in what is longer than that nobody is interested."""
TOO_LONG = "9" * 5000
UNKNOWN = ["", "sprint", "Stall", "stall+", "+", "stall;drip", "2stall", "-1*stall", "mix+stall"]
UNKNOWN += ["1.5*stall", "stall:", "*stall", "stall*2", "st\nall"]
NO_URLS = ["", "h", "127.0.0.1:3000", "localhost:3000/a", "/a", "http://", "http:///a", "h/x?y"]
NO_URLS += ["http://:80/", "http://h:port/", "http://h:99999/", "http://h:-1/", "http://[::1/"]
NO_URLS += ["ftp://h/x"]
NO_HTTP_URLS = ["ftp://h:21/x", "//h:80/x", "ws://h:80/"]


@st.composite
def shares(draw: st.DrawFn, name: str, *, alone: bool) -> Share:
    """A profile with any parameters, by any weight; one alone has no use for a weight."""
    known = PROFILES[name]
    values = {
        key: draw(
            st.integers(1, 2**62)
            if isinstance(value, int)
            else st.floats(0, LONGEST_WAIT, exclude_min=True)
        )
        for key, value in known.parameters.items()
    }
    weight = 1 if alone else draw(st.integers(1, 1000))
    return Share(weight, Profile(known.name, known.script, known.summary, values))


@st.composite
def mixes(draw: st.DrawFn) -> tuple[Share, ...]:
    names = draw(st.lists(st.sampled_from(list(PROFILES)), min_size=1, max_size=6))
    return tuple(draw(shares(name, alone=len(names) == 1)) for name in names)


@EXAMPLES
@given(mixes())
def test_a_mix_is_read_back(mix: tuple[Share, ...]) -> None:
    """What describes a mix is parsed to the same mix, whatever its profiles and parameters."""
    assert parse_mix(describe_mix(mix)) == mix


@EXAMPLES
@given(mixes())
def test_a_plan_keeps_its_mix(mix: tuple[Share, ...]) -> None:
    """A plan has the mix that it was asked for, and so has a plan made of what it says of it."""
    plan = make_plan(url=URL, profile=describe_mix(mix))
    assert plan.mix == mix
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stall", "stall"),
        (" stall ", "stall"),
        ("3*stall", "stall"),
        ("drip", "drip:size=512,every=1.0"),
        ("drip:size=64,every=5", "drip:size=64,every=5.0"),
        ("drip:every=5s,size=64KiB", "drip:size=65536,every=5.0"),
        ("drip:size=1k", "drip:size=1000,every=1.0"),
        ("3*stall+drip", "3*stall+1*drip:size=512,every=1.0"),
        ("stall + stall", "1*stall+1*stall"),
        ("steady:rate=1MiB", "steady:rate=1048576"),
    ],
)
def test_what_is_asked_for(text: str, expected: str) -> None:
    """A mix is described in full: its weights, and every parameter in bytes or seconds."""
    assert describe_mix(parse_mix(text)) == expected


def test_all_of_them() -> None:
    """`mix` is every profile once, and can be said in full."""
    mix = parse_mix(" mix ")
    assert [(share.weight, share.profile.name) for share in mix] == [(1, each) for each in PROFILES]
    assert parse_mix(describe_mix(mix)) == mix


@pytest.mark.parametrize("text", UNKNOWN)
def test_an_unknown_profile(text: str) -> None:
    """What is no profile is answered with the names of all that are."""
    with pytest.raises(UsageError) as caught:
        parse_mix(text)
    assert caught.value.exit_code == EXIT_USAGE == 2
    for name in (*PROFILES, "mix"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0*stall", "will not do"),
        ("stall+0*drip", "'0*drip' will not do"),
        ("stall:size=1", "stall has no parameter 'size'; it has none"),
        ("drip:sise=1", "drip has no parameter 'sise'; it has size, every"),
        ("drip:64", "drip has no parameter '64'; it has size, every"),
        ("drip:size=64,", "drip has no parameter ''"),
        ("drip:size=0", "drip:size=0 does not parse; give a number of bytes such as 64KiB"),
        ("drip:size=-1", "a number of bytes"),
        ("drip:size=", "a number of bytes"),
        ("drip:size=many", "a number of bytes"),
        ("drip:size=1XiB", "a number of bytes"),
        ("drip:size=0.5", "a number of bytes"),
        ("drip:every=0", "drip:every=0 does not parse; give a number of seconds such as 0.5"),
        ("drip:every=-1", "a number of seconds"),
        ("drip:every=nan", "a number of seconds"),
        ("drip:every=inf", "a number of seconds"),
        ("drip:every=1e999", "a number of seconds"),
        ("drip:every=5m", "a number of seconds"),
        ("drip:every=", "a number of seconds"),
        ("drip:every=1=2", "a number of seconds"),
        (f"drip:size={TOO_LONG}KiB", "a number of bytes"),
        pytest.param(f"{TOO_LONG}*stall", "weight"),
        pytest.param(f"{TOO_LONG[:400]}*stall", "weight"),
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_parameter(text: str, said: str) -> None:
    """What is wrong with a profile's parameter is said, with what would do; so by a plan."""
    for attempt in (lambda: parse_mix(text), lambda: make_plan(url=URL, profile=text)):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert said in str(caught.value)
        assert caught.value.exit_code == EXIT_USAGE


@EXAMPLES
@given(st.text(st.sampled_from("stal drip:every=size,+*0159.kKiB-e\n"), max_size=30) | st.text())
def test_any_text_is_a_mix_or_an_error(text: str) -> None:
    """Whatever is typed, it is a mix that deals to readers, or a UsageError."""
    with suppress(UsageError):
        assert deal(parse_mix(text), 12_345).name in PROFILES


@pytest.mark.parametrize(
    "text",
    [pytest.param(text) for text in ("drip:every=1e16", "pause-resume:pause=1e+2")],
)
def test_a_long_wait_is_read_back(text: str) -> None:
    """A wait is understood however a number may be written."""
    assert make_plan(url=URL, profile=text).mix


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 64 * KIB),
        ("1MiB", MIB),
        ("1.5MiB", 3 * MIB // 2),
        ("64kib", 64 * KIB),
        ("64 KiB", 64 * KIB),
        ("10kB", 10_000),
        ("1", 1),
        ("65536", 64 * KIB),
        (65536, 64 * KIB),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    """Budgets and buffers are given as people write sizes."""
    plan = make_plan(url=URL, user_budget=text, kernel_budget=text, receive_buffer=text)
    assert (plan.user_budget, plan.kernel_budget, plan.receive_buffer) == (size, size, size)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"user_budget": "0"}, "--user-budget: input should be greater than 0"),
        ({"user_budget": "-1"}, "--user-budget"),
        ({"kernel_budget": "0"}, "--kernel-budget"),
        ({"kernel_budget": "lots"}, "--kernel-budget: could not parse value"),
        ({"kernel_budget": "1XB"}, "got '1XB'"),
        ({"user_budget": None}, "--user-budget"),
        ({"receive_buffer": "-1"}, "--receive-buffer"),
        ({"readers": FEWEST_READERS - 1}, "--readers: input should be greater than or equal to 8"),
        ({"readers": 0}, "got 0"),
        ({"readers": -200}, "got -200"),
        ({"readers": 8.5}, "--readers"),
        ({"readers": "many"}, "got 'many'"),
        ({"hold": 0}, "--hold"),
        ({"hold": -1.0}, "--hold"),
        ({"hold": float("nan")}, "--hold"),
        ({"seed": "x"}, "--seed"),
        ({"more": 1}, "--more: extra inputs are not permitted"),
        ({"url": None}, "--url"),
        ({"user_budget": TOO_LONG + "KiB"}, "--user-budget"),
    ],
    ids=lambda values: str(values)[:30],
)
def test_a_bad_plan(values: dict[str, object], said: str) -> None:
    """The option that makes no sense is named as it is typed, with what was given."""
    with pytest.raises(UsageError) as caught:
        make_plan(**{"url": URL, **values})
    assert said in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


def test_a_plan_needs_a_url() -> None:
    """Only the URL has no default."""
    with pytest.raises(UsageError, match="--url: field required"):
        make_plan()
    assert make_plan(url=URL).profile == "stall"


@EXAMPLES
@given(st.integers(FEWEST_READERS, 100_000))
def test_steps(readers: int) -> None:
    """A staircase has three steps that differ, each about twice the one before."""
    first, second, third = make_plan(url=URL, readers=readers).steps
    assert 0 < first < second < third == readers
    assert 2 * first <= second <= 2 * first + 1
    assert 2 * second <= third <= 2 * second + 1


@pytest.mark.parametrize(
    ("profile", "first"),
    [
        ("stall", 0),
        ("drip", 0),
        ("read-then-stall", MIB),
        ("read-then-stall:first=3MiB", 3 * MIB),
        ("stall+half-close-then-stall", 4 * KIB),
        ("mix", MIB),
    ],
)
def test_enough_body(profile: str, first: int) -> None:
    """A body has to be longer than what is read first, by some times both budgets."""
    plan = make_plan(url=URL, profile=profile, user_budget="10KiB", kernel_budget="20KiB")
    assert plan.enough_body == first + PROOF * 30 * KIB


@EXAMPLES
@given(st.integers(FEWEST_READERS, 10_000), st.integers(1, MIB), st.integers(1, MIB))
def test_the_ceiling_is_far_above_the_budgets(readers: int, user: int, kernel: int) -> None:
    """A server within its budgets never reaches the ceiling."""
    plan = make_plan(url=URL, readers=readers, user_budget=user, kernel_budget=kernel)
    assert plan.ceiling >= max(CEILING, PROOF * readers * (user + kernel))


def test_paces() -> None:
    """A quick trial is quicker, and `hold` changes how long readers are held, and nothing else."""
    assert make_plan(url=URL).pace == STANDARD
    assert make_plan(url=URL, quick=True).pace == QUICK
    assert make_plan(url=URL, hold=33).pace == STANDARD._replace(hold=33)


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer s3cret",
        "authorization:s3cret",
        "AUTHORIZATION : s3cret",
        "Cookie: session=s3cret; a:b",
        "Proxy-Authorization: Basic s3cret",
        "X-API-Key: s3cret",
    ],
)
def test_secrets_are_not_written_down(line: str) -> None:
    """A plan that is written down has the names of its headers, and not what they hold."""
    plan = make_plan(url=URL, headers=("Accept: text/csv", line, "X-Trace: a:b"))
    written = plan.without_secrets()
    assert written.headers[0::2] == ("Accept: (hidden)", "X-Trace: (hidden)")
    assert written.headers[1].lower().startswith(line.partition(":")[0].lower())
    assert "s3cret" not in written.model_dump_json()
    assert "s3cret" in plan.headers[1]
    assert written.model_copy(update={"headers": plan.headers}) == plan


@pytest.mark.parametrize("name", ["url", "small_url", "memory_url"])
def test_passwords_in_urls_are_not_written_down(name: str) -> None:
    """A plan that is written down has no password in any of its URLs."""
    plan = make_plan(**{"url": URL, name: "http://user:s3cret@127.0.0.1:3000/tasks"})
    assert "s3cret" not in plan.without_secrets().model_dump_json()


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("http://127.0.0.1:3000/a", "127.0.0.1", 3000, False),
        ("http://127.0.0.1", "127.0.0.1", 80, False),
        ("https://example.org/a?b=c", "example.org", 443, True),
        ("https://Example.ORG:8443", "example.org", 8443, True),
        ("http://[::1]:3000/", "::1", 3000, False),
        ("https://[2001:db8::1]/x", "2001:db8::1", 443, True),
        ("http://user:pass@h:81/x", "h", 81, False),
        ("HTTP://h/x", "h", 80, False),
    ],
)
def test_place(url: str, host: str, port: int, tls: bool) -> None:
    """A URL leads to a host and a port, by TLS if it says so."""
    found = place(url)
    assert (found.host, found.port, found.tls) == (host, port, tls)


@pytest.mark.parametrize("url", NO_URLS + [pytest.param(url) for url in NO_HTTP_URLS])
def test_no_place(url: str) -> None:
    """What is no URL of HTTP is named, with exit code 2."""
    with pytest.raises(UsageError) as caught:
        place(url)
    assert url in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("http://127.0.0.1:3000/a/b", "/a/b", "127.0.0.1:3000"),
        ("http://h", "/", "h"),
        ("http://h?a=b", "/?a=b", "h"),
        ("https://h:8443/a?b=c&d=%20e#f", "/a?b=c&d=%20e", "h:8443"),
        ("http://[::1]:3000/?after=1", "/?after=1", "[::1]:3000"),
        ("http://user:p%40ss@h:81/x", "/x", "h:81"),
        ("http://h/?http://other/", "/?http://other/", "h"),
    ],
)
def test_request(url: str, target: str, host: str) -> None:
    """A reader asks once, for the path with its query and nothing of the rest of the URL."""
    headers = ("Authorization: Bearer x", "Accept: text/csv")
    head, end = request(place(url), headers).decode().split("\r\n\r\n")
    first, *lines = head.split("\r\n")
    assert first == f"GET {target} HTTP/1.1"
    assert f"Host: {host}" in lines
    assert {"Accept-Encoding: identity", "Connection: close"} <= set(lines)
    assert tuple(lines[-2:]) == headers
    assert end == ""


@EXAMPLES
@given(path=st.from_regex(r"(/[a-z0-9%.~-]{0,8}){0,3}", fullmatch=True), query=st.text("ab=&;1"))
def test_any_path_is_asked_for(path: str, query: str) -> None:
    """Any path and query stand in the first line as they stand in the URL."""
    assume(path or query)
    url = f"http://h:1{path}" + (f"?{query}" if query else "")
    first = request(place(url), ()).split(b"\r\n")[0].decode()
    assert first == f"GET {path or '/'}{'?' if query else ''}{query} HTTP/1.1"
