"""Which relations a request may know of: those that are served and that its token may read."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ..engines import Engine
from ..errors import Code, InvalidError, NotFoundError
from ..formats import WIRES
from ..relation import Relation
from .authentication import Token

NEAR_TABLES = 100
"""Tables among which one with a name that is nearly the same is looked for: it takes a while."""


class Relations:
    """The catalogue, as each token sees it."""

    def __init__(self, engine: Engine, served: Sequence[str], paths: Sequence[str] = ()) -> None:
        """served: patterns of addresses; all are served if there is none. paths: of other routes,
        one of which may have been meant."""
        self._engine = engine
        self._served = served or ("*",)
        self._paths = paths

    async def of(self, token: Token) -> list[Relation]:
        """Those that the token may read, in the order of their addresses."""
        found = await self._engine.relations()
        return [found[address] for address in sorted(found) if self._may(token, address)]

    async def find(self, token: Token, address: str) -> Relation:
        """The relation of this address; NotFoundError when there is none, or not for this token.

        What a token may not read looks like what is not there: names tell much.
        """
        relation = (await self._engine.relations()).get(address)
        if relation is None or not self._may(token, address):
            near = get_close_matches(f"/{address}", await self._known(token), 1)
            raise NotFoundError(
                f"there is no table {address[:100]!r}",
                hint="".join(f"did you mean {path}? " for path in near)
                + "GET /tables lists those that there are, /openapi.json describes all routes",
                code=Code.TABLE_NOT_FOUND,
            )
        return relation

    async def _known(self, token: Token) -> list[str]:
        """Paths that may have been meant by one that leads nowhere."""
        found = [f"/{relation.address}" for relation in (await self.of(token))[:NEAR_TABLES]]
        streams = [f"{path}/{wire.route}" for path in found for wire in WIRES.values()]
        return [*self._paths, *found, *streams]

    def _may(self, token: Token, address: str) -> bool:
        return matches(address, self._served) and matches(address, token.tables)


def matches(address: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns is for this address."""
    return any(fnmatchcase(address, pattern) for pattern in patterns)


def with_key(relation: Relation) -> Relation:
    """The relation; InvalidError when no key orders its rows, so that it cannot be streamed."""
    if relation.key is None:
        raise InvalidError(
            f"{relation.address} has no key, so no order in which its rows could be streamed",
            code=Code.NO_KEY,
            hint=relation.no_key,
        )
    return relation
