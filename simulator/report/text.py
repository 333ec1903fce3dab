"""The report for a terminal: what was asked, what was seen, and why it means what it means."""

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..estimate import Figure
from ..verdict import Outcome, Status, size
from .judged import Judged

WIDTH = 100
COLORS = {
    Status.PASSED: "green",
    Status.FAILED: "bold red",
    Status.UNCLEAR: "yellow",
    Status.NOT_RUN: "dim",
    Outcome.BOUNDED: "bold green",
    Outcome.OVER_BUDGET: "bold red",
    Outcome.UNBOUNDED: "bold red",
    Outcome.SHED: "bold yellow",
    Outcome.INCONCLUSIVE: "bold yellow",
}


def render(judged: Sequence[Judged], *, color: bool = False) -> str:
    """One report a record; several records side by side first."""
    reports = [_one(each) for each in judged]
    if len(judged) > 1:
        reports.insert(0, Group(_side_by_side(judged)))
    return _print(Group(*reports), color=color)


def compare(judged: Sequence[Judged], *, color: bool = False) -> str:
    """Only what stands side by side."""
    return _print(_side_by_side(judged), color=color)


def _print(what: RenderableType, *, color: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, force_terminal=color, no_color=not color)
    console.print(what)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _one(judged: Judged) -> Group:
    verdict = judged.verdict
    facts = Table.grid(padding=(0, 2))
    for name, value in judged.facts().items():
        facts.add_row(Text(name, style="dim"), Text(value))
    checks = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    checks.add_column("check", no_wrap=True)
    checks.add_column("", no_wrap=True)
    checks.add_column("seen")
    for check in verdict.checks:
        status = Text(check.status, style=COLORS[check.status])
        checks.add_row(check.name, status, Text(check.reason))
    headline = Text.assemble(
        (verdict.outcome.upper(), COLORS[verdict.outcome]), f"  {verdict.sentence}"
    )
    return Group(Text(judged.name, style="bold"), facts, checks, headline, Text())


def _side_by_side(judged: Sequence[Judged]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for each in judged:
        table.add_column(Text(each.name), justify="right")
    table.add_row("readers", *(str(each.record.plan.readers) for each in judged))
    for part in ("process", "kernel"):
        table.add_row(
            f"{part}, a reader",
            *(_cost(getattr(each.verdict, f"{part}_cost")) for each in judged),
        )
    for part in ("process", "kernel"):
        peaks = [each.peak(part) for each in judged]
        shown = ["unknown" if peak is None else f"{peak:.1f} MiB" for peak in peaks]
        table.add_row(f"{part}, highest above rest", *shown)
    table.add_row(
        "verdict",
        *(Text(each.verdict.outcome.upper(), COLORS[each.verdict.outcome]) for each in judged),
    )
    return table


def _cost(figure: Figure | None) -> str:
    return size(figure.value) if figure else "unknown"
