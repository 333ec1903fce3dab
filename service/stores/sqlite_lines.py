"""The SQL that turns rows into lines inside SQLite, so that no Python runs for a row."""

from functools import cache

from service.table import Format, Query

QUOTED = "title GLOB '*[,\"' || char(10, 13) || ']*'"
"""Whether RFC 4180 wants a title quoted. It is a stored column of the schema: asked for
each row while a page is made, this one test costs more than all the rest of the line."""

_RUNS_AS_FORMULA = "title GLOB '[=+@＝＋－＠' || char(9, 10, 13) || '-]*'"  # noqa: RUF001
_CSV_TITLE = "iif(quoted, '\"' || replace(title, '\"', '\"\"') || '\"', title)"
_EXCEL_TITLE = (
    f"iif({_RUNS_AS_FORMULA}, "
    "iif(quoted, '\"''' || replace(title, '\"', '\"\"') || '\"', '''' || title), "
    f"{_CSV_TITLE})"
)

_TITLE = {
    Format.CSV: _CSV_TITLE,
    Format.EXCEL: _EXCEL_TITLE,
    Format.NDJSON: "json_quote(title)",
}
_CELL = {"id": "%d", "title": "%s", "priority": "%d", "status": "%s"}
_MEMBER = {"id": '"id":"%d"', "title": '"title":%s', "priority": '"priority":%d'} | {
    "status": '"status":"%s"'
}


def _line(form: Format, columns: tuple[str, ...]) -> str:
    """The SQL expression of one row's line, its line end included."""
    if form is Format.NDJSON:
        template = "{" + ",".join(_MEMBER[column] for column in columns) + "}\n"
    else:
        template = ",".join(_CELL[column] for column in columns)
        template += "\r\n" if form is Format.EXCEL else "\n"
    values = (_TITLE[form] if column == "title" else column for column in columns)
    return f"format('{template}', {', '.join(values)})"


def _conditions(query: Query) -> str:
    conditions = ["id > :after", "id <= :upto"]
    if query.status is not None:
        conditions.append("status = :status")
    if query.min_priority is not None:
        conditions.append("priority >= :min_priority")
    if query.max_priority is not None:
        conditions.append("priority <= :max_priority")
    return " AND ".join(conditions)


@cache
def _page(form: Format, columns: tuple[str, ...], conditions: str) -> str:
    # Aggregating an ordered, limited subquery keeps its order; the limit keeps SQLite
    # from folding it into the outer query.
    return (
        f"SELECT count(*), max(id), CAST(group_concat({_line(form, columns)}, '') AS BLOB)"
        f" FROM (SELECT * FROM task WHERE {conditions} ORDER BY id LIMIT :rows)"
    )


def page_statement(query: Query) -> str:
    """One statement, one row: rows taken, highest id among them, their lines as a blob.

    Bindings: after, upto, rows, status, min_priority, max_priority (those that are used).
    """
    return _page(query.format, query.columns, _conditions(query))


def first_id_statement(query: Query) -> str:
    """The id of the row that a page starts with. Bindings as for `page_statement`."""
    return f"SELECT id FROM task WHERE {_conditions(query)} ORDER BY id LIMIT 1"
