"""How many rows a page should cover: learnt from the pages before. No I/O, no SQL."""

from collections.abc import Sequence

from ..query import Page

ROWS_HIGHEST = 20_000
"""Most rows that a page covers, so that it takes milliseconds however few pass the filters."""
GROWTH = 4
"""Times as many rows that the next pages cover at most: one short page tells little."""
PAGE_FILL = 0.9
"""How full the next page aims to be: row sizes vary, and a page too long is read twice."""


def rows_for(rows: int, pages: Sequence[Page], page_bytes: int) -> int:
    """How many rows the next page should cover, after `pages` that covered `rows` each."""
    wanted = rows * GROWTH
    if size := sum(len(page.data) for page in pages):
        wanted = min(wanted, int(rows * len(pages) * PAGE_FILL * page_bytes / size))
    return max(1, min(wanted, ROWS_HIGHEST))
