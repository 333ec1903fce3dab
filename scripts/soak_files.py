"""Whether a downloaded export is whole: each of its rows, against what is known of the table."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

CSV, NDJSON = "/tasks/export.csv", "/tasks/stream.ndjson"
COLUMNS = ["id", "title", "priority", "status"]
STATUSES = ("pending", "in-progress", "completed")
FAULTS_TOLD = 5
"""Faults named of one file: a cut one has as many as rows."""
IDS_TOLD = 3

Row = tuple[int, str, int, str]


@dataclass(frozen=True)
class Expected:
    """What a file has to hold.

    generated: ids 1 to this, each exactly once. digest: of those rows, by `digest_of`; not looked
    at when empty. stored: other ids that must be there, each with the oldest version that its
    title may tell. gone: ids that must not. exact: nobody writes, so no others may be there.
    """

    generated: int
    digest: bytes = b""
    stored: Mapping[int, int] = field(default_factory=dict)
    gone: Set[int] = frozenset()
    exact: bool = False


class Checked(NamedTuple):
    """What was in a file, and what was wrong with it; no faults: it is whole."""

    rows: int
    faults: tuple[str, ...]


class _BrokenError(Exception):
    """A file cannot be read on from here."""


def versioned(version: int, text: str) -> str:
    """A title that tells how often its task was written."""
    return f"version {version} of {text}"


def digest_of(rows: Iterable[Row]) -> bytes:
    """The same for the same rows, whatever format they came in."""
    digest = blake2b()
    for row in rows:
        digest.update(_line(row))
    return digest.digest()


def check(path: Path, route: str, expected: Expected) -> Checked:
    """Read a whole file, line by line; `route` says whether it is CSV or NDJSON."""
    faults: list[str] = []
    digest, seen = blake2b(), set[int]()
    count = last = 0
    try:
        for row in _csv_rows(path) if route == CSV else _ndjson_rows(path):
            key = row[0]
            count += 1
            if key <= last:
                faults.append(f"id {key} comes after id {last}")
                continue
            if key > last + 1 and last < expected.generated:
                faults.append(f"missing: ids {last + 1} to {min(key - 1, expected.generated)}")
            last = key
            if key <= expected.generated:
                digest.update(_line(row))
                continue
            seen.add(key)
            if key in expected.stored and _version(row[1]) < expected.stored[key]:
                version = expected.stored[key]
                faults.append(f"id {key} is older than version {version}: {row[1][:20]!r}")
    except _BrokenError as fault:
        faults.append(f"behind row {count}: {fault}")
    if last < expected.generated:
        faults.append(f"missing: ids {last + 1} to {expected.generated}")
    if not faults and expected.digest and digest.digest() != expected.digest:
        faults.append("a generated row is not as it was generated")
    _compare("stored, but missing", expected.stored.keys() - seen, faults)
    _compare("deleted, but there", expected.gone & seen, faults)
    if expected.exact:
        _compare("never stored, but there", seen - expected.stored.keys(), faults)
    return Checked(count, tuple(faults[:FAULTS_TOLD]))


def _compare(what: str, keys: Set[int], faults: list[str]) -> None:
    if keys:
        some = ", ".join(map(str, sorted(keys)[:IDS_TOLD]))
        faults.append(f"{what}: {len(keys)} ids such as {some}")


def _csv_rows(path: Path) -> Iterator[Row]:
    _ends_with_newline(path)
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            if next(lines, None) != COLUMNS:
                raise _BrokenError("the first line does not name the columns")
            for cells in lines:
                if len(cells) != len(COLUMNS):
                    raise _BrokenError(f"a row has {len(cells)} cells")
                yield _row(cells[0], cells[1], cells[2], cells[3])
        except (csv.Error, UnicodeDecodeError) as fault:
            raise _BrokenError(str(fault)) from None


def _ndjson_rows(path: Path) -> Iterator[Row]:
    _ends_with_newline(path)
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            for line in file:
                task = json.loads(line)
                if not isinstance(task, dict) or list(task) != COLUMNS:
                    raise _BrokenError(f"no task: {line[:40]!r}")
                if not isinstance(task["id"], str) or not isinstance(task["priority"], int):
                    raise _BrokenError(f"a member has another type: {line[:40]!r}")
                yield _row(task["id"], task["title"], task["priority"], task["status"])
        except ValueError as fault:  # of JSON and of UTF-8
            raise _BrokenError(str(fault)) from None


def _row(key: str, title: str, priority: str | int, status: str) -> Row:
    try:
        row = int(key), title, int(priority), status
    except ValueError as fault:
        raise _BrokenError(str(fault)) from None
    if not title or status not in STATUSES:
        raise _BrokenError(f"id {key} has the title {title[:20]!r} and the status {status!r}")
    return row


def _ends_with_newline(path: Path) -> None:
    """The last line is whole: what is cut within its last word would parse."""
    with path.open("rb") as file:
        if size := path.stat().st_size:
            file.seek(size - 1)
            if file.read() != b"\n":
                raise _BrokenError("the last line has no end")


def _line(row: Row) -> bytes:
    return "\x1f{}\x1f{}\x1f{}\x1f{}\x1e".format(*row).encode()


def _version(title: str) -> int:
    words = title.split(maxsplit=2)
    return int(words[1]) if len(words) == 3 and words[1].isdigit() else 0
