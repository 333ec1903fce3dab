"""Measurements of memory: over the length of an export, and over readers that have stopped."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import linear_regression, median
from time import perf_counter, sleep
from typing import Any

from bench_frame import KIB, LOOK_SECONDS, MIB, Bench, Found, Goal, stall, steady
from bench_servers import CSV, Server, download
from rich.table import Table

from simulator.probe import memory


def scale(bench: Bench) -> Found:
    """4. Rate and memory of ever longer exports: the last rows of one table, by `after=`.

    One service, which has sent the whole table before: what a first download fills (page
    caches, threads) would look like a slope, as a short one cannot fill them.
    """
    total, found = bench.sizes.long_rows, list[dict[str, Any]]()
    with bench.companion(), bench.weir(total) as server:
        fresh = memory(server.pid).uss
        busy(server, CSV, bench.sizes.busy)
        for rows in bench.sizes.scale:
            bench.say(f"{rows:,} rows")
            with highest_uss(server) as uss:
                transfers = busy(server, f"{CSV}?after={total - rows}", bench.sizes.busy)
            size, seconds = transfers[0][0], median(taken for _, taken in transfers)
            found.append({"rows": rows, "bytes": size, "seconds": seconds, "uss": max(uss)})
    slope = linear_regression([each["rows"] for each in found], [each["uss"] for each in found])[0]
    title = "CSV by curl's clock, and the service's highest memory while it sends"
    table = Table("rows", "seconds", "rows/s", "MB/s", "USS MiB", "target", "", title=title)
    table.add_row("0 (fresh)", "", "", "", f"{fresh / MIB:.1f}")
    for each in found:
        length, taken = each["rows"], each["seconds"]
        rate = f"{length / taken:,.0f}", f"{each['bytes'] / taken / 1e6:.0f}"
        table.add_row(f"{length:,}", f"{taken:.4f}", *rate, f"{each['uss'] / MIB:.1f}")
    # A row is 47 bytes: less than 1 % of it is what memory moves by itself in 10 million rows.
    mark = bench.judge(Goal("memory over rows (0 +- 0.5)", abs(slope), 0.5, "bytes a row"))
    table.add_row("slope", "", "", "", f"{slope:+.3f} B/row", "0 +- 0.5", mark)
    return table, {"fresh": fresh, "lengths": found, "slope_bytes_per_row": slope}


def busy(server: Server, path: str, seconds: float) -> list[tuple[int, float]]:
    """Bytes and seconds of downloads one after the other, for so long at least."""
    start, done = perf_counter(), list[tuple[int, float]]()
    while not done or perf_counter() - start < seconds:
        done.append(download(server, path))
    return done


@contextmanager
def highest_uss(server: Server) -> Iterator[list[int]]:
    """Looks at the memory ten times a second for as long as the context lasts."""
    seen, over = [memory(server.pid).uss], threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            seen.append(memory(server.pid).uss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def stalled(bench: Bench) -> Found:
    """5. Bytes for each reader that has stopped: the process's and its send queues'."""
    found = []
    title = (
        f"KiB for each stalled reader; later: both, {bench.sizes.settle:.0f} s on; "
        "after: memory above the base once all are gone"
    )
    columns = ("readers", "SO_RCVBUF", "read first", "process", "kernel", "both")
    table = Table(*columns, "target", "", "later", "after", title=title)
    with bench.companion():
        for readers, receive_buffer, first in bench.sizes.stalled:
            bench.say(
                f"{readers:,} readers, SO_RCVBUF {receive_buffer or 'default'}, {first:,} first"
            )
            case = one_stalled(bench, readers, receive_buffer, first)
            found.append(case)
            both, kernel = case["kib_each"], case["kernel_kib_each"]
            name = f"{readers:,} readers, {'from the first byte' if not first else 'fast first'}"
            name += "" if receive_buffer else ", default SO_RCVBUF"
            target = 40 if readers >= 10_000 else 64
            mark = bench.judge(Goal(f"KiB each of {name}", both, target, "KiB"))
            cells = [f"{case['standing']:,}", str(receive_buffer or "default"), f"{first:,}"]
            cells += [f"{case['process_kib_each']:.1f}", f"{kernel:.1f}", f"{both:.1f}"]
            after = f"{(case['after'] - case['base']) / MIB:+.1f} MiB"
            table.add_row(*cells, f"<= {target}", mark, f"{case['later_kib_each']:.1f}", after)
            if case["standing"] < readers:
                bench.console.print(f"[bold red]only {case['standing']} of {readers} stand")
    return table, found


def one_stalled(
    bench: Bench, readers: int, receive_buffer: int, first: int, *flags: str
) -> dict[str, Any]:
    """What readers that stop cost a Weir with these flags."""
    # Readers that read for minutes first must all be there still when the last one stops.
    with bench.weir(bench.sizes.rows, "--stall-timeout", "600", *flags) as server:
        for _ in range(3):
            download(server, CSV)
        with stall(server, bench.sizes.warm_up, receive_buffer, first):
            sleep(LOOK_SECONDS)
        base = bench.settled(server)
        start = perf_counter()
        with stall(server, readers, receive_buffer, first) as others:
            until_stalled = perf_counter() - start
            uss, kernel = steady(server)
            counts = others.counts()
            sleep(bench.sizes.settle)
            later = sum(steady(server))
        after = bench.settled(server)
    each = max(1, counts.standing) * KIB
    return {
        **counts._asdict(),
        "receive_buffer": receive_buffer,
        "first": first,
        "seconds_until_stalled": until_stalled,
        "base": base,
        "uss": uss,
        "tx_queue": kernel,
        "after": after,
        "process_kib_each": (uss - base) / each,
        "kernel_kib_each": kernel / each,
        "kib_each": (uss - base + kernel) / each,
        "later_kib_each": (later - base) / each,
    }
