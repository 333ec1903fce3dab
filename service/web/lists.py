"""A JSON page of a table's rows, with the `after` of the next one; bounded like a page."""

import json
from dataclasses import dataclass, replace
from itertools import repeat
from urllib.parse import quote

from aiohttp import web

from ..engines import Reader
from ..query import Cursor, Format, KeyValues, Page, Query, Range
from ..settings import Settings
from ..stream.large_rows import LargeRows
from .authentication import Token
from .connections import Connection, sent
from .relations import Relations, with_key
from .selecting import select

JSON_TYPE = "application/json"
ROWS_A_LOOK = 20_000
"""Most rows that one request looks at when its filters let few pass: `next` goes on from there."""


@dataclass(frozen=True)
class Lists:
    """The route of lists, and what it needs."""

    reader: Reader
    relations: Relations
    large_rows: LargeRows
    settings: Settings

    async def page(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`GET /{table}`: one page of lines, joined into an array."""
        relation = with_key(await self.relations.find(token, request.match_info["table"]))
        query, _header = select(relation, Format.NDJSON, request, token.role, list_=True)
        start = await self.reader.start(query, latest=True)
        query = replace(query, until=start.until, since=start.since)
        cursor = Cursor(start.after, query.limit, query.limit or 1)
        looked = 0
        while start.until is not None and looked < ROWS_A_LOOK:
            ranges = await self.reader.cut(query, cursor.after, cursor.rows, 1)
            if not ranges:
                break
            (page,) = await self.reader.read(query, ranges, cursor.left)
            if page is None and cursor.rows == 1:
                return await self._long(request, query, ranges[0])
            if page is None:
                cursor = cursor._replace(rows=max(1, cursor.rows // 2))
                continue
            looked += cursor.rows
            cursor = cursor._replace(after=ranges[0].until)
            if page.rows:
                return self._answer(query, page, cursor.after)
        return self._answer(query, Page(0, b""), cursor.after)

    async def _long(self, request: web.Request, query: Query, range_: Range) -> web.StreamResponse:
        """A list of one row longer than a page, whose memory is paid for until it is sent."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        share = await self.large_rows.take(connection.flow)
        try:
            async with self.large_rows.reading:
                page = await self.reader.read_row(query, range_)
            answer = self._answer(query, page, range_.until)
            return await sent(request, answer, self.settings.body_timeout)
        finally:
            share.end()

    def _answer(self, query: Query, page: Page, after: KeyValues | None) -> web.Response:
        """The lines as one JSON document: no line has a line end inside."""
        following = None
        if after is not None and query.until is not None and after != query.until:
            texts = self.reader.shown(query.relation, after)
            # Of several columns each is encoded, so that the commas between them can be told.
            following = texts[0] if len(texts) == 1 else ",".join(map(quote, texts, repeat("")))
        # A table called as the other member would be hidden by it.
        address = query.relation.address
        member = json.dumps("rows" if address == "next" else address).encode()
        rows = b",".join(bytes(page.data).splitlines())
        body = b'{%b:[%b],"next":%b}' % (member, rows, json.dumps(following).encode())
        return web.Response(body=body, content_type=JSON_TYPE)
