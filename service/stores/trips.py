"""How pages are cut: ranges of ids, sized so that each fits. No I/O, no SQL: stores read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..settings import Settings
from ..table import Cursor, Page, Query
from . import row_too_large

SPAN_HIGHEST = 20_000
"""Most ids in a page, so that it takes milliseconds however few of them pass the filter."""
PAGE_FILL = 0.9
"""How full the next page aims to be: row sizes vary, and a page too large is read twice."""

Found = Sequence[tuple[int, bytes | memoryview | None]]
"""Rows and lines of each page of a trip in turn; no lines where they are over its limit."""


@dataclass(frozen=True, slots=True)
class Trip:
    """What a store reads at a time: `count` pages of `span` ids each, behind the id `after`.

    left: rows that may still be delivered; None is all. most: bytes that a page of it may have.
    """

    query: Query
    after: int
    left: int | None
    span: int
    count: int
    page_bytes: int
    most: int

    @classmethod
    def of(cls, query: Query, cursor: Cursor, count: int, settings: Settings) -> "Trip":
        """The trip for at most `count` pages, and none behind the query's last id."""
        after, left, span = cursor
        count = max(1, min(count, -(-(query.until - after) // span)))
        page_bytes = int(settings.page_bytes)
        return cls(query, after, left, span, count, page_bytes, page_bytes)

    @classmethod
    def of_row(cls, query: Query, cursor: Cursor, settings: Settings) -> "Trip":
        """The trip for the next row alone, which may be longer than a page."""
        page_bytes, row_bytes = int(settings.page_bytes), int(settings.row_bytes)
        return cls(query, cursor.after, cursor.left, 1, 1, page_bytes, max(page_bytes, row_bytes))

    def smaller(self) -> "Trip | None":
        """What to try when not even the first page was found to fit; None when it was one row."""
        if self.count > 1:
            return replace(self, count=1)
        if self.span > 1:
            return replace(self, span=self.span // 2)
        return None

    def page(self, found: Found) -> Page:
        """The page of a trip for one row; RowTooLargeError when it does not fit either."""
        pages = self.pages(found)
        if not pages:
            raise row_too_large(self.after + 1, self.most)
        return pages[0]

    def pages(self, found: Found) -> list[Page]:
        """The pages up to the first one that does not fit; none if that is the first.

        The last cursor's span is such that a page should be just filled.
        """
        pages: list[Page] = []
        left, size = self.left, 0
        for number, (rows, data) in enumerate(found, 1):
            if data is None or len(data) > self.most or (left is not None and rows > left):
                break
            left = None if left is None else left - rows
            size += len(data)
            end = self.after + number * self.span
            done = end >= self.query.until or left == 0
            pages.append(Page(data, rows, None if done else Cursor(end, left, self.span)))
        if pages and (last := pages[-1].next_cursor) is not None:
            span = self.span * 4
            if size:
                span = min(span, int(self.span * len(pages) * PAGE_FILL * self.page_bytes / size))
            following = last._replace(span=max(1, min(span, SPAN_HIGHEST)))
            pages[-1] = pages[-1]._replace(next_cursor=following)
        return pages


def gap_from(pages: list[Page]) -> int | None:
    """The id behind which to look for the next row, when these pages have found none."""
    last = pages[-1].next_cursor
    return None if last is None or any(page.rows for page in pages) else last.after


def behind_gap(pages: list[Page], after: int) -> list[Page]:
    """The same pages, followed by what comes behind the id `after`, however far away."""
    last = pages[-1].next_cursor
    assert last is not None
    return [*pages[:-1], pages[-1]._replace(next_cursor=last._replace(after=after))]
