"""The SQL that turns rows into lines inside SQLite, so that no Python runs for a row."""

from collections.abc import Iterator
from functools import cache

from ..table import Format, Query
from .lines import IN_CSV, IN_JSON, Shape

SPECIAL = (
    f"(title GLOB '*[,\"' || char(10, 13) || ']*') * {IN_CSV}"
    f" + (title GLOB '*[\"\\' || char(1) || '-' || char(31) || ']*') * {IN_JSON}"
)
"""The two bits of a title, a stored column: asked for each row while a page is made, they would
cost as much as all the rest of the line. Most titles need neither, and 0 takes no space.
"""

SEQ = "(SELECT coalesce(max(seq), -1) FROM clock)"
"""How far the file has come; an empty clock has not come as far as any stream's start."""

_RUNS_AS_FORMULA = "title GLOB '[=+@＝＋－＠' || char(9, 10, 13) || '-]*'"  # noqa: RUF001
_DEFUSED = f"iif({_RUNS_AS_FORMULA}, '''', '') || title"


# SQLite's %w doubles each quote.
_CELLS = {"id": "%d", "priority": "%d", "status": "%s"}
_MEMBERS = {"id": '"id":"%d"', "priority": '"priority":%d', "status": '"status":"%s"'}
_SHAPES = {
    Format.CSV: Shape("", "\n", _CELLS, IN_CSV, ("%s", "title"), ('"%w"', "title")),
    Format.EXCEL: Shape("", "\r\n", _CELLS, IN_CSV, ("%s", _DEFUSED), ('"%w"', _DEFUSED)),
    Format.NDJSON: Shape(
        "{",
        "}\n",
        _MEMBERS,
        IN_JSON,
        ('"title":"%s"', "title"),
        ('"title":%s', "json_quote(title)"),
    ),
}


def _line(form: Format, columns: tuple[str, ...]) -> str:
    """The SQL expression of one row's line, its line end included."""
    shape = _SHAPES[form]

    def line(title: tuple[str, str]) -> str:
        template, values = shape.row(columns, title)
        return f"format('{shape.start}{template}{shape.end}', {', '.join(values)})"

    # To choose between two whole lines is faster than to choose between two titles.
    return f"iif(special & {shape.bit}, {line(shape.special)}, {line(shape.plain)})"


def _filters(query: Query) -> str:
    conditions = ""
    if query.status is not None:
        conditions += " AND status = :status"
    if query.min_priority is not None:
        conditions += " AND priority >= :min_priority"
    if query.max_priority is not None:
        conditions += " AND priority <= :max_priority"
    return conditions


@cache
def _pages(form: Format, columns: tuple[str, ...], filters: str, limited: bool) -> str:
    span = "id > :after + number * :span AND id <= min(:after + (number + 1) * :span, :until)"
    rows = f"task NOT INDEXED WHERE {span}{filters}"
    if limited:
        rows = f"(SELECT * FROM {rows} ORDER BY id LIMIT :left)"
    # NOT INDEXED leaves one way to find a range of ids: in their order. Asking for that order
    # in group_concat would sort what is sorted already, and halve the speed.
    page = f"SELECT count(*) || char(0) || coalesce(group_concat({_line(form, columns)}, ''), '')"
    return (
        "WITH RECURSIVE part(number) AS"
        " (SELECT 0 UNION ALL SELECT number + 1 FROM part LIMIT :count)"
        f" SELECT {SEQ}, CAST(group_concat(({page} FROM {rows}), char(0)) AS BLOB) FROM part"
    )


def pages_statement(query: Query, limited: bool) -> str:
    """One statement: the `seq` that the file has come to, and pages, as of the same instant.

    They are `count` pages of `span` ids each, from the id behind `after`, in one blob: the number
    of rows and the lines of each page in turn, with a NUL between any two; titles have none. It is
    one value because each value costs a hand-over of Python's lock, which at a page apiece takes
    half as long as making the page.

    Bindings: after, span, count, until, and if used: left (most rows of a page), status,
    min_priority, max_priority.
    """
    return _pages(query.format, query.columns, _filters(query), limited)


def parts(blob: bytes) -> Iterator[tuple[int, memoryview]]:
    """Rows and lines of each page in a trip's blob, the lines as views: nothing is copied."""
    view, start = memoryview(blob), 0
    while start < len(blob):
        lines = blob.index(b"\0", start) + 1
        end = blob.find(b"\0", lines)
        if end < 0:
            end = len(blob)
        yield int(blob[start : lines - 1]), view[lines:end]
        start = end + 1
