"""Which relations a user may read, asked of the server in one statement for the whole database."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

from ...relation import Column, Key
from .copying import fetch_one
from .dialect import style
from .facts import FACTS
from .literals import identifier
from .server import Reads
from .tables import INTEGERS, PostgresRelation, Type

FRESH_SECONDS = 5.0
"""How long what was read is taken for what there is. To read 1,000 tables takes some 100 ms of the
server, and nothing is told us when they change."""
KEY_COLUMNS = 5
"""Most columns of a key."""
KINDS = {
    "r": "table",
    "p": "partitioned table",
    "f": "foreign table",
    "v": "view",
    "m": "materialised view",
}
"""What `pg_class.relkind` means, in words."""


class PostgresCatalogue:
    """The relations that the user may SELECT from, but for the system's own."""

    def __init__(self, servers: Reads, keys: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """keys: for an address, the columns that a person says identify its rows."""
        self._servers = servers
        self._keys = dict(keys or {})
        self._reading = asyncio.Lock()
        self._read_at = -FRESH_SECONDS
        self._facts = ""
        self._each: dict[str, tuple[Any, PostgresRelation]] = {}

    async def relations(self) -> Mapping[str, PostgresRelation]:
        """All of them by address, as they were at most `FRESH_SECONDS` ago.

        A relation that has not changed is the same object as before.
        """
        async with self._reading:
            if monotonic() - self._read_at >= FRESH_SECONDS:
                await self._read()
            return {address: relation for address, (_, relation) in self._each.items()}

    def forget(self) -> None:
        """Ask the server again when next asked: something was not as it should have been."""
        self._read_at = -FRESH_SECONDS

    async def _read(self) -> None:
        async def work(connection: Any) -> str:
            return str((await fetch_one(connection, FACTS))[0] or "[]")

        asked = monotonic()
        facts = await self._servers.read(work)
        if facts != self._facts:
            each = {}
            for address, fact in _addressed(json.loads(facts)):
                known = self._each.get(address)
                if known is None or known[0] != fact:
                    known = fact, _relation(address, fact, self._keys.get(address))
                each[address] = known
            self._each = dict(sorted(each.items()))
            self._facts = facts
        self._read_at = asked


def _addressed(facts: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Each relation and how it is called; whoever comes second to a name is called in quotes."""
    taken = set()
    for fact in sorted(facts, key=lambda fact: not fact["bare"]):
        name, full = fact["name"], f"{fact['schema']}.{fact['name']}"
        address = name if fact["bare"] else full
        if address in taken:
            address = identifier(fact["schema"], name)
        taken.add(address)
        yield address, fact


def _relation(address: str, fact: Any, said: tuple[str, ...] | None) -> PostgresRelation:
    types, columns = {}, []
    for name, written, nullable, oid, base, shape in fact["columns"]:
        schema, type_name = base
        own = type_name if schema == "pg_catalog" else ""
        types[name] = Type(oid, identifier(schema, type_name), own, shape)
        columns.append(Column(name, written, style(types[name]).kind, nullable))
    key, index, no_key = _key(address, fact, types, said)
    return PostgresRelation(
        address=address,
        schema=fact["schema"],
        name=fact["name"],
        kind=KINDS[fact["kind"]],
        columns=tuple(columns),
        key=key,
        no_key=no_key,
        rows=fact["rows"],
        oid=fact["oid"],
        types=types,
        collations=index["collations"] if index else {},
        index=index["numbers"] if index else "",
    )


def _key(
    address: str, fact: Any, types: Mapping[str, Type], said: tuple[str, ...] | None
) -> tuple[Key | None, Any, str]:
    """The key, the index that makes it, and, where there is none, what would make one."""
    if said:
        if missing := [name for name in said if name not in types]:
            return None, None, f"--key names {missing[0]!r}, which it has not"
        return Key(said, "--key"), None, ""
    fit = [index for index in fact["indexes"] if set(index["columns"]) <= types.keys()]
    fit = [index for index in fit if len(index["columns"]) <= KEY_COLUMNS]

    def worth(index: Any) -> tuple[Any, ...]:
        names = [types[name].name for name in index["columns"]]
        integers = all(name in INTEGERS for name in names)
        return not index["primary"], len(names), not integers, index["name"]

    if fit:
        best = min(fit, key=worth)
        source = "primary key" if best["primary"] else f"unique index {best['name']}"
        return Key(tuple(best["columns"]), source), best, ""
    return None, None, _no_key(address, fact)


def _no_key(address: str, fact: Any) -> str:
    """Why there is no key, and what would make one."""
    readable = {column[0] for column in fact["columns"]}
    if fact["kind"] in "vmf":
        why = f"a {KINDS[fact['kind']]} has no key of its own"
    elif fact["heirs"]:
        why = "tables inherit from it, and nothing keeps their rows from having a key of its rows"
    elif any(not set(index["columns"]) <= readable for index in fact["indexes"]):
        why = "this user may not SELECT its key; GRANT makes it readable"
    elif fact["indexes"]:
        why = f"its key has more than {KEY_COLUMNS} columns; a unique index on fewer makes one"
    else:
        why = "it has no primary key; a unique index on NOT NULL columns makes one"
    return f"{why}, or --key {address}=COLUMN names the columns that identify a row"
