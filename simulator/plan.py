"""What a trial is to do: the plan, as the command line or a test asks for it. Pure."""

import re
from typing import Annotated, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from .errors import UsageError
from .pacing import PROFILES, Profile, Share

KIB, MIB, GIB = 1024, 1024**2, 1024**3
EVERY_PROFILE = "mix"
FEWEST_READERS = 8
"""A quarter of them is the first step of the staircase; fewer are lost in any noise."""
PROOF = 4
"""A body must be so many times the two budgets: a server could hold a smaller one whole."""
CEILING = 2 * GIB
"""Bytes that a server may grow by before the readers are sent away, at the least."""
URLS = ("url", "small_url", "memory_url")
WEIGHT_DIGITS = 6


class Pace(NamedTuple):
    """How long a trial takes over its parts; seconds but for quiet and looks.

    settle: longest wait for memory to come to rest; quiet: samples in a row that it has to.
    looks: samples that are judged then; every: between two. hold: how long
    all readers are held.
    """

    settle: float
    quiet: int
    looks: int
    every: float
    hold: float


STANDARD = Pace(settle=5, quiet=8, looks=8, every=0.15, hold=10)
QUICK = Pace(settle=1.2, quiet=6, looks=4, every=0.05, hold=1.2)


def _mix(text: str) -> str:
    return describe_mix(parse_mix(text))


class Plan(BaseModel):
    """A trial. Sizes are in bytes, and may be given as `64KiB`.

    url: what the readers ask for. small_url: the same with a body of about a quarter, for the
    dose. headers: lines as in `Authorization: Bearer ...`. readers: at the top of the staircase.
    profile: see parse_mix. receive_buffer: SO_RCVBUF of each, set before connect; 0 leaves the
    system's default. user_budget, kernel_budget: for each reader. hold: seconds, or the pace's.
    rounds: of the ratchet, connecting and aborting. allow_shed: a server that drops slow readers
    passes. memory_url, memory_metric: a Prometheus text page and the metric there that says the
    server's process memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    small_url: str = ""
    headers: tuple[str, ...] = ()
    readers: int = Field(200, ge=FEWEST_READERS)
    profile: Annotated[str, AfterValidator(_mix)] = "stall"
    seed: int = 1
    receive_buffer: ByteSize = Field(ByteSize(4 * KIB), ge=0)
    user_budget: ByteSize = Field(ByteSize(64 * KIB), gt=0)
    kernel_budget: ByteSize = Field(ByteSize(64 * KIB), gt=0)
    quick: bool = False
    hold: float | None = Field(None, gt=0, le=86_400)
    rounds: int = Field(3, ge=1)
    allow_shed: bool = False
    self_test: bool = True
    insecure: bool = False
    memory_url: str = ""
    memory_metric: str = "process_resident_memory_bytes"

    @property
    def mix(self) -> tuple[Share, ...]:
        return parse_mix(self.profile)

    @property
    def pace(self) -> Pace:
        pace = QUICK if self.quick else STANDARD
        return pace._replace(hold=self.hold) if self.hold else pace

    @property
    def steps(self) -> tuple[int, int, int]:
        """Readers at each plateau of the staircase."""
        return self.readers // 4, self.readers // 2, self.readers

    @property
    def enough_body(self) -> int:
        """Bytes that a body must have to prove anything."""
        first = max(share.profile.reads_first for share in self.mix)
        return first + PROOF * (self.user_budget + self.kernel_budget)

    @property
    def ceiling(self) -> int:
        """Bytes: far above what the budgets allow, and enough to see an unbounded server by."""
        return max(CEILING, PROOF * self.readers * (self.user_budget + self.kernel_budget))

    def without_secrets(self) -> "Plan":
        """The plan as it may be written down."""
        urls = {name: _without_userinfo(getattr(self, name)) for name in URLS}
        return self.model_copy(update={"headers": tuple(map(_hidden, self.headers)), **urls})


def make_plan(**values: object) -> Plan:
    """A plan from values as given. Raises UsageError that names the first bad one."""
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"{name}: {first['msg'].lower()}", f"got {first['input']!r}") from None


def parse_mix(text: str) -> tuple[Share, ...]:
    """What `--profile` says: `stall`, `drip:size=64,every=5`, `3*stall+drip`, or `mix` for all.

    Raises UsageError, which names what is known, for anything else.
    """
    if text.strip() == EVERY_PROFILE:
        return tuple(Share(1, profile) for profile in PROFILES.values())
    return tuple(_share(part.strip()) for part in re.split(r"\s*\+\s*(?=\d+\*|[a-z])", text))


def describe_mix(mix: tuple[Share, ...]) -> str:
    """The text that parse_mix makes the same mix of."""
    return "+".join(
        str(share.profile) if len(mix) == 1 else f"{share.weight}*{share.profile}" for share in mix
    )


def _share(text: str) -> Share:
    found = re.fullmatch(r"(?:(\d+)\*)?([a-z-]+)(?::(.+))?", text)
    if not found or found[2] not in PROFILES:
        names = ", ".join(PROFILES)
        raise UsageError(
            f"profile {text!r} is not known",
            f"the profiles are {names}, and {EVERY_PROFILE} for all of them",
        )
    known, digits = PROFILES[found[2]], found[1] or "1"
    if len(digits) > WEIGHT_DIGITS or not int(digits):
        raise UsageError(f"the weight in profile {text!r} will not do", "give it 1 to 999999")
    weight = int(digits)
    values = dict(known.parameters)
    for pair in found[3].split(",") if found[3] else ():
        name, _, value = pair.partition("=")
        if name not in values:
            raise UsageError(
                f"profile {known.name} has no parameter {name!r}",
                f"it has {', '.join(values) or 'none'}",
            )
        values[name] = _value(f"{known.name}:{pair}", value, is_size=isinstance(values[name], int))
    return Share(weight, Profile(known.name, known.script, known.summary, values))


def _value(where: str, text: str, *, is_size: bool) -> int | float:
    value: int | float = 0
    try:
        if is_size:
            value = int(TypeAdapter(ByteSize).validate_python(text))
        else:
            value = float(text.removesuffix("s"))
    except (ValidationError, ValueError):
        pass
    if not 0 < value < float("inf"):
        wanted = "a number of bytes such as 64KiB" if is_size else "a number of seconds such as 0.5"
        raise UsageError(f"{where} does not parse", f"give {wanted}, above zero")
    return value


def _without_userinfo(url: str) -> str:
    return re.sub(r"(?<=://)[^/?#]*@", "", url)


def _hidden(line: str) -> str:
    name, _, _ = line.partition(":")
    return f"{name}: (hidden)"
