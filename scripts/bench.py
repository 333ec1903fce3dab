"""What Weir reaches, measured in one run beside what it is compared with.

    .venv/bin/python scripts/bench.py --folder DIRECTORY --json FILE

Wants curl; the sqlite3 shell is skipped when it is not there. Nothing here has a time limit to
pass: each figure stands beside its target, and a run that could be made exits with 0.
"""

import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import _checkout  # noqa: F401
import click
import psutil
from bench_frame import LOOK_SECONDS, QUICK, Bench, Found, Goal, Sizes, nobody_left, stall, verdict
from bench_memory import scale, stalled
from bench_postgres import postgresql, workers
from bench_servers import CSV, NDJSON, QUERY, download, fetch, run, time_to_body, to_nowhere
from bench_tables import tables
from rich.console import Console
from rich.table import Table

from service import __version__
from simulator.errors import SimulatorError


def rates(bench: Bench) -> Found:
    """1. Whole exports, the contestants in turn, round by round."""
    rows, database = bench.sizes.rows, str(bench.table(bench.sizes.rows))
    names = ["Weir", "sqlite3 shell", "FastAPI", "aiohttp"]
    shell = shutil.which("sqlite3")
    if shell is None:
        bench.console.print("[yellow]sqlite3 shell: skipped, there is none in PATH")
        names.remove("sqlite3 shell")
    found: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, dict[str, int]] = {}
    with bench.weir(rows) as weir, bench.other("fastapi") as fastapi, bench.other("aiohttp") as aio:
        servers = {"Weir": weir, "FastAPI": fastapi, "aiohttp": aio}
        for number in range(bench.sizes.rounds + 1):
            bench.say(f"round {number} of {bench.sizes.rounds}" if number else "warming up")
            for form, path, mode in (("CSV", CSV, "-csv"), ("NDJSON", NDJSON, "-json")):
                for name in names:
                    if name in servers:
                        seconds, printed = run(fetch(servers[name], path))
                        sizes.setdefault(form, {})[name] = int(printed.split()[0])
                    else:
                        seconds = to_nowhere([str(shell), "-header", mode, database, QUERY])
                    if number:
                        found.setdefault(form, {}).setdefault(name, []).append(seconds)
    for form, given in sizes.items():
        if len(set(given.values())) > 1:
            bench.console.print(f"[bold red]the {form} bodies differ in bytes: {given}")
    title = f"{rows:,} rows, median of {bench.sizes.rounds} rounds, HTTP by curl on loopback"
    table = Table("", "seconds", "rows/s", "MB/s", "Weir is", "target", "", title=title)
    targets = {("CSV", "sqlite3 shell"): 1.2, ("NDJSON", "sqlite3 shell"): 1.8}
    targets |= {("CSV", "FastAPI"): 5.0, ("NDJSON", "FastAPI"): 5.0}
    ratios: dict[str, dict[str, float]] = {form: {} for form in found}
    for form, each in found.items():
        ours = median(each["Weir"])
        for name in names:
            seconds = median(each[name])
            ratio = ratios[form][name] = seconds / ours
            size = sizes[form].get(name)
            line = [f"{ratio:.2f} x" if name != "Weir" else "", "", ""]
            if target := targets.get((form, name)):
                mark = bench.judge(Goal(f"{form} beside {name}", ratio, target, "x", at_least=True))
                line[1:] = [f">= {target} x", mark]
            rate = f"{size / seconds / 1e6:.0f}" if size else ""
            table.add_row(f"{name} {form}", f"{seconds:.3f}", f"{rows / seconds:,.0f}", rate, *line)
        table.add_section()
    return table, {"rows": rows, "bytes": sizes, "seconds": found, "weir_is_faster_by": ratios}


def first_byte(bench: Bench) -> Found:
    """2. From before the connection to the first byte of the body, on an idle service."""
    rows, milliseconds = bench.sizes.long_rows, []
    with bench.weir(rows) as server:
        for _ in range(bench.sizes.first_bytes):
            milliseconds.append(time_to_body(server) * 1000)
            sleep(0.2)
    half, worst = median(milliseconds), max(milliseconds)
    mark = bench.judge(Goal("first byte", half, 10.0, "ms"))
    table = Table("", "median", "worst", "target", "", title=f"first byte of {rows:,} rows, ms")
    table.add_row("Weir CSV", f"{half:.2f}", f"{worst:.2f}", "<= 10", mark)
    return table, {"rows": rows, "milliseconds": milliseconds, "median": half}


def beside(bench: Bench) -> Found:
    """3. A fast client alone, beside stalled readers, and alone again."""
    rows, readers = bench.sizes.rows, bench.sizes.beside

    def several() -> list[float]:
        pairs = [download(server, CSV) for _ in range(bench.sizes.rounds)]
        return [size / seconds / 1e6 for size, seconds in pairs]

    with bench.weir(rows, "--stall-timeout", "600") as server:
        several()
        alone = several()
        with stall(server, readers) as others:
            sleep(LOOK_SECONDS)
            with_them = several()
            standing = others.counts().standing
        nobody_left(server)
        again = several()
    ratio = median(with_them) / median(alone + again)
    mark = bench.judge(
        Goal(f"rate beside {readers:,} stalled readers", ratio, 0.9, "x", at_least=True)
    )
    title = f"a fast client's CSV of {rows:,} rows, MB/s, median of {bench.sizes.rounds}"
    table = Table("", "MB/s", "of alone", "target", "", title=title)
    table.add_row("alone, before", f"{median(alone):.0f}")
    cells = [f"{median(with_them):.0f}", f"{ratio:.2f} x", ">= 0.9 x", mark]
    table.add_row(f"beside {standing:,} stalled", *cells)
    table.add_row("alone, after", f"{median(again):.0f}")
    megabytes = {"alone": alone, "beside": with_them, "alone_again": again}
    return table, {
        "rows": rows,
        "stalled": standing,
        "megabytes_per_second": megabytes,
        "ratio": ratio,
    }


MEASUREMENTS: dict[str, Callable[[Bench], Found]] = {
    "rates": rates,
    "first-byte": first_byte,
    "beside": beside,
    "scale": scale,
    "stalled": stalled,
    "postgresql": postgresql,
    "workers": workers,
    "tables": tables,
}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    shell = shutil.which("sqlite3")
    return {
        "weir": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_at_start": psutil.getloadavg()[0],
        "sqlite3_shell": run([shell, "--version"])[1].split()[0] if shell else None,
        "curl": run(["curl", "--version"])[1].split()[1],
    }


@click.command(context_settings={"max_content_width": 100})
@click.option("--rows", type=click.IntRange(min=1), help="of rates, beside, stalled [3,000,000]")
@click.option("--rounds", type=click.IntRange(min=1), help="of rates and beside [5]")
@click.option("--only", type=click.Choice(list(MEASUREMENTS)), multiple=True, help="repeatable")
@click.option("--quick", is_flag=True, help="small sizes: shows that it runs, not what it reaches")
@click.option("--folder", type=click.Path(path_type=Path), help="keeps the tables for next time")
@click.option("--json", "report", type=click.Path(path_type=Path), help="write all figures here")
def main(
    *,
    rows: int | None,
    rounds: int | None,
    only: tuple[str, ...],
    quick: bool,
    folder: Path | None,
    report: Path | None,
) -> None:
    """Measure Weir beside what it is compared with; about 15 minutes and 1 GB of disk."""
    if shutil.which("curl") is None:
        raise click.UsageError("curl is not in PATH")
    sizes = QUICK if quick else Sizes()
    sizes = sizes._replace(rows=rows or sizes.rows, rounds=rounds or sizes.rounds)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        for log in folder.glob("server-*.log"):
            log.unlink()
        bench = Bench(sizes, folder.resolve(), console)
        outcome: dict[str, Any] = {"machine": machine(), "sizes": sizes._asdict()}
        faults = []
        for name in only or MEASUREMENTS:
            console.rule(name)
            start = perf_counter()
            try:
                table, outcome[name] = MEASUREMENTS[name](bench)
            except (click.ClickException, SimulatorError, psutil.Error, RuntimeError) as fault:
                faults.append(name)
                console.print(f"[bold red]{name} could not be run:[/] {fault}", highlight=False)
                continue
            console.print(table)
            bench.say(f"{perf_counter() - start:.0f} s")
    title = "targets (small sizes: the figures say nothing)" if quick else "targets"
    summary = Table("figure", "seen", "target", "", title=title)
    for goal in bench.goals:
        sign = ">=" if goal.at_least else "<="
        seen = f"{goal.value:.2f} {goal.unit}"
        summary.add_row(goal.figure, seen, f"{sign} {goal.target:g} {goal.unit}", verdict(goal))
    console.print(summary)
    outcome["goals"] = [{**goal._asdict(), "reached": goal.reached} for goal in bench.goals]
    outcome["could_not_be_run"] = faults
    if report is not None:
        report.write_text(json.dumps(outcome, indent=2) + "\n", "utf-8")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
