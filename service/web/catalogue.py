"""`GET /tables`: the tables that a token may read, how each column is written, what each can do."""

import json
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web

from ..formats import WIRES
from ..relation import Relation
from .authentication import Token
from .connections import Connection
from .lists import JSON_TYPE
from .relations import Relations


@dataclass(frozen=True)
class Catalogue:
    """The route of the catalogue, and what it needs."""

    relations: Relations

    async def tables(self, request: web.Request, token: Token) -> web.StreamResponse:
        """`GET /tables`, a table at a time: there may be thousands, of a thousand columns each."""
        found = await self.relations.of(token)
        if request.method == hdrs.METH_HEAD:
            return web.Response(content_type=JSON_TYPE)
        connection = request.protocol
        assert isinstance(connection, Connection)
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: JSON_TYPE})
        await response.prepare(request)
        await response.write(b'{"tables":[')
        for number, relation in enumerate(found):
            await connection.flow.room()
            await response.write(b"," * (number > 0) + json.dumps(described(relation)).encode())
        await response.write(b"]}")
        await response.write_eof()
        return response


def described(relation: Relation) -> dict[str, Any]:
    """A relation as the catalogue shows it."""
    return {
        "name": relation.address,
        "schema": relation.schema,
        "kind": relation.kind,
        "rows": relation.rows,
        "columns": [
            {
                "name": column.name,
                "type": column.type,
                "written_as": column.kind.value,
                "nullable": column.nullable,
            }
            for column in relation.columns
        ],
        "key": list(relation.key.columns) if relation.key else None,
        "key_source": relation.key.source if relation.key else relation.no_key,
        "can": [wire.route for wire in WIRES.values()] if relation.key else [],
    }
