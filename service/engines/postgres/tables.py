"""What the engine knows of a relation beyond what everybody may know."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import StoreError
from ...relation import Relation
from .literals import identifier

INTEGERS = ("int2", "int4", "int8", "oid")
"""The integer types, as PostgreSQL calls them itself."""


class RelationError(StoreError):
    """The server is well, but this relation cannot be read: every server would say the same."""


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a column, below all domains.

    oid: of the type as declared, domain or not. sql: its full name, safe in a statement, without a
    length, so that a value is never cut to it. name: for types of PostgreSQL itself; "" for others.
    shape: "array", "composite" or "".
    """

    oid: int
    sql: str
    name: str
    shape: str = ""


@dataclass(frozen=True, eq=False)
class PostgresRelation(Relation):
    """A relation with what its statements are made of.

    Two are equal only when they are the same object: the catalogue makes a new one for a relation
    that has changed, so that what is derived from one can be kept beside it.

    oid: it changes when the relation is made anew. types: of each column. collations: the full
    names of the key's collations where they differ from the columns' own. index: numbers of the
    columns of the index that makes the key, as `pg_index.indkey` shows them; "" where a person
    said what the key is, and nothing makes sure of it.
    """

    oid: int = 0
    types: Mapping[str, Type] = field(default_factory=dict)
    collations: Mapping[str, str] = field(default_factory=dict)
    index: str = ""

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def sql(self) -> str:
        """Its full name, as a statement has it."""
        return identifier(self.schema, self.name)

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names of the key's columns; none where there is no key."""
        return self.key.columns if self.key else ()

    def key_parts(self, alias: str) -> list[str]:
        """The key's columns as expressions that the index can order. alias: the table's."""
        parts = []
        for column in self.key_names:
            collation = self.collations.get(column)
            name = f"{alias}.{identifier(column)}"
            parts.append(f"{name} COLLATE {collation}" if collation else name)
        return parts
