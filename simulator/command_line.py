"""The command line of the simulator; `__main__.py` runs it."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import click

from .errors import EXIT_INCONCLUSIVE, EXIT_USAGE, SimulatorError, UsageError

EXIT_INTERRUPTED = 130
READERS, QUICK_READERS = 400, 200
"""What they cost has to stand out of what memory moves by itself, some megabytes."""
Show = Callable[[str, float], None]


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Does an HTTP server's memory stay bounded when its readers are slow?

    Exit codes: 0 bounded, 1 not bounded (or sheds), 2 wrong usage, 3 inconclusive, 130
    interrupted.
    """


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what readers do."""
    for option in reversed(
        (
            click.argument("url"),
            click.option(
                "-H", "--header", "headers", multiple=True, metavar="LINE", help="as in curl"
            ),
            click.option("--readers", type=int, help="at the top  [default: 400; 200 if quick]"),
            click.option(
                "-p",
                "--profile",
                default="stall",
                show_default=True,
                help="how they read: `drip:size=64,every=5`, a mix `3*stall+drip`, `mix`: all",
            ),
            click.option("--seed", type=int, default=1, show_default=True, help="of all chance"),
            click.option(
                "--receive-buffer",
                default="4KiB",
                show_default=True,
                help="SO_RCVBUF of each reader; 0 leaves the system's",
            ),
            click.option("-k", "--insecure", is_flag=True, help="take any certificate"),
        )
    ):
        command = option(command)
    return command


@main.command()
@_asking
@click.option("--small-url", default="", help="the same with about a quarter of the body: the dose")
@click.option("--user-budget", default="64KiB", show_default=True, help="process memory a reader")
@click.option("--kernel-budget", default="64KiB", show_default=True, help="send queue a reader")
@click.option("--pid", type=int, help="the server's process; otherwise who listens on the port")
@click.option("--command", "run_command", help="start this server, and stop it afterwards")
@click.option("--quick", is_flag=True, help="in under 15 s instead of 60")
@click.option("--hold", type=float, metavar="SECONDS", help="how long all readers are held")
@click.option("--rounds", type=int, default=3, show_default=True, help="connecting and aborting")
@click.option("--allow-shed", is_flag=True, help="a server that drops slow readers passes")
@click.option("--no-self-test", is_flag=True, help="do not ask first whether this machine can tell")
@click.option("--memory-url", default="", help="read process memory from a Prometheus text page")
@click.option(
    "--memory-metric",
    default="process_resident_memory_bytes",
    show_default=True,
    help="the metric there; with labels as they stand, or the sum over all",
)
@click.option("--record", type=click.Path(path_type=Path), help="a new file, for `report`")
def run(
    *,
    readers: int | None,
    pid: int | None,
    run_command: str | None,
    no_self_test: bool,
    record: Path | None,
    **values: Any,
) -> None:
    """Try the server at URL with slow readers, and judge it."""
    from .plan import make_plan
    from .record import Record
    from .report import Judged, text
    from .run import run_trial

    if readers is None:
        readers = QUICK_READERS if values["quick"] else READERS
    plan = make_plan(**values, readers=readers, self_test=not no_self_test)
    if pid is not None and run_command is not None:
        raise UsageError("--pid and --command name two servers", "give one of them")
    words = _words(run_command) if run_command is not None else None
    with _writable(record) as file, _progress() as show:
        written = Record(plan, file)
        verdict = run_trial(plan, written, pid=pid, command=words, show=show)
    name = urlsplit(plan.url).netloc if record is None else record.name
    click.echo(text.render([Judged(name, written, verdict)], color=sys.stdout.isatty()))
    if record is not None:
        click.echo(f"record: {record}")
    sys.exit(verdict.exit_code)


@main.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "junit", "html"]),
    default="text",
    show_default=True,
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="file; else shown")
@click.option("--png", type=click.Path(path_type=Path), help="write the plot of memory as well")
@click.option("--brief", is_flag=True, help="text: only the comparison of several records")
@click.option("--user-budget", help="judge by this instead")
@click.option("--kernel-budget", help="judge by this instead")
@click.option("--allow-shed", is_flag=True, default=None, help="judge by this instead")
def report(
    *,
    records: tuple[Path, ...],
    format_: str,
    output: Path | None,
    png: Path | None,
    brief: bool,
    **budgets: Any,
) -> None:
    """Judge RECORDS again, and report; several are shown side by side.

    The exit code is the highest of their verdicts'.
    """
    from .judge import judge
    from .record import read_record
    from .report import FORMATS, Judged, plot, text

    files = {path.resolve() for path in records}
    for target in (output, png):
        if target and target.resolve() in files:
            raise UsageError(f"{target} is a record itself", "write the report to another file")
    judged = []
    for path in records:
        found = read_record(path)
        judged.append(Judged(path.stem, found, judge(found, **_budgets(budgets))))
    color = output is None and sys.stdout.isatty()
    if brief and format_ == "text":
        shown = text.compare(judged, color=color)
    else:
        shown = FORMATS[format_](judged, color=color)
    if png:
        _write(png, plot.draw(judged, "png"))
    if output:
        _write(output, shown.encode())
    else:
        click.echo(shown)
    sys.exit(max(each.verdict.exit_code for each in judged))


@main.command()
def profiles() -> None:
    """List the ways of reading slowly."""
    from .pacing import PROFILES

    for profile in PROFILES.values():
        click.echo(f"{profile!s:42} {profile.summary}")


@main.command("self-test")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True)
def self_test(*, rounds: int) -> None:
    """Try every specimen, and print the expected verdict against the one seen."""
    from .selftest import expected, try_specimen
    from .specimens import EXPECTED

    wrong = 0
    for number in range(1, rounds + 1):
        for name, known in EXPECTED.items():
            start = monotonic()
            verdict = try_specimen(name)
            right = expected(name, verdict)
            wrong += not right
            click.echo(
                f"{number:3} {name:20} expected {known.outcome:12} seen {verdict.outcome:12} "
                f"{'right' if right else 'WRONG'}  {monotonic() - start:4.1f} s"
            )
            if not right:
                click.echo(str(verdict))
    tried = rounds * len(EXPECTED)
    click.echo(f"{tried - wrong} of {tried} right")
    sys.exit(EXIT_INCONCLUSIVE if wrong else 0)


@main.command()
@_asking
@click.option("--seconds", type=float, default=60, show_default=True, help="up to a day")
def hold(*, seconds: float, readers: int | None, **values: Any) -> None:
    """Hold slow readers at URL for a while, without a verdict."""
    from .body import header_fields
    from .fleet_process import Asking, FleetProcess
    from .plan import make_plan

    if not 0 <= seconds <= 86_400:
        raise UsageError(f"--seconds {seconds:g} will not do", "give up to a day's 86400")
    plan = make_plan(**values, readers=READERS if readers is None else readers)
    readers = plan.readers
    header_fields(plan.headers)
    asking = Asking(
        plan.url,
        plan.headers,
        plan.mix,
        plan.seed,
        plan.receive_buffer,
        insecure=plan.insecure,
    )
    with FleetProcess(asking) as fleet:
        counts = fleet.reach(readers)
        if not counts.standing:
            fault = next((each.fault for each in fleet.outcomes() if each.fault), "no answer")
            raise UsageError(f"no reader got through: {fault}")
        click.echo(f"{counts.standing} of {readers} readers hold on")
        sleep(seconds)
        counts = fleet.counts()
        click.echo(f"{counts.standing} of {readers} hold on still; {counts.received:,} bytes read")


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as fault:
        said = f"{path} cannot be written: {fault.strerror}"
        raise UsageError(said, "name a file in a folder that is there") from None


def _budgets(given: dict[str, Any]) -> dict[str, Any]:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    found = dict(given)
    for name in ("user_budget", "kernel_budget"):
        if given[name] is None:
            continue
        try:
            found[name] = int(TypeAdapter(ByteSize).validate_python(given[name]))
            if found[name] <= 0:
                raise ValueError
        except (ValidationError, ValueError):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} {given[name]!r} does not parse", "as in 64KiB") from None
    return found


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as fault:
        raise UsageError(f"--command {command!r}: {fault}") from None
    if not words:
        raise UsageError("--command is empty", "give the command that starts the server")
    return words


@contextmanager
def _writable(path: Path | None) -> Iterator[Any]:
    """The file of a record that was asked for; nobody's folder gets one that was not."""
    if path is None:
        yield None
        return
    try:
        file = path.open("x", encoding="utf-8")
    except OSError as fault:
        said = f"--record {path} cannot be written: {fault.strerror}"
        raise UsageError(said, "name a new file: no record is written over") from None
    try:
        with file:
            yield file
    finally:
        if not path.stat().st_size:
            path.unlink()  # nothing was tried


@contextmanager
def _progress() -> Iterator[Show]:
    """A line that moves on a terminal, plain lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        start = monotonic()
        yield lambda what, part: click.echo(f"[{monotonic() - start:3.0f} s] {what}", err=True)
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, part: progress.update(task, description=what, completed=part)


def cli() -> None:
    """The command, with every error as one line, and never with an exit code that is a verdict."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        said = error.format_message().replace("\n", " ")
        _end(f"{said}; see --help", EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        _end("interrupted; a record that was begun says so, too", EXIT_INTERRUPTED)
    except SimulatorError as error:
        _end(str(error), error.exit_code)
    except ModuleNotFoundError:
        raise  # `__main__.py` says what to install
    except Exception as error:  # ours to mend, and no verdict
        _end(f"a fault of weir-sim itself: {type(error).__name__}: {error}", EXIT_INCONCLUSIVE)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(message: str, exit_code: int) -> None:
    shown = "".join(each if each.isprintable() else " " for each in message)
    click.echo(f"weir-sim: {shown}", err=True)
    sys.exit(exit_code)
