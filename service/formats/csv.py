"""CSV (RFC 4180): a line of column names, then a line a row, quoted only where it is needed."""

import re

from ..query import Query

BYTE_ORDER_MARK = "\ufeff"
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001
_NEEDS_QUOTES = re.compile(r'[,"\r\n]|^$')


class Csv:
    """What the wire says of CSV; the dialect `excel` has a byte order mark and CRLF."""

    route = "export.csv"
    extension = "csv"
    media_type = "text/csv"

    def content_type(self, *, header: bool) -> str:
        return f"text/csv; charset=utf-8; header={'present' if header else 'absent'}"

    def head(self, query: Query, *, header: bool) -> bytes:
        if not header:
            return b""
        names = query.columns
        if query.excel:  # a column may be called as a formula
            names = tuple("'" + name if _FORMULA.match(name) else name for name in names)
        line = ",".join(map(_cell, names))
        return (f"{BYTE_ORDER_MARK}{line}\r\n" if query.excel else f"{line}\n").encode()


def _cell(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if _NEEDS_QUOTES.search(name) else name
