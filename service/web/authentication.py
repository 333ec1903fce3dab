"""Who may come in: bearer tokens (RFC 6750), each with a name and scopes."""

import ipaddress
import tomllib
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import Code, ConfigurationError, DeniedError, InvalidError

DEVELOPMENT_SECRET = "secret-user-123"
"""Works without a token file, on a loopback address only."""
TOKENS_AT_MOST = 2_000
"""Tokens in a file: the workers' table of counts has columns for twice as many (team.py)."""


class Scope(StrEnum):
    """What a token may do: read tasks, change them, or watch the service."""

    READ = "read"
    WRITE = "write"
    OPS = "ops"


class Token(BaseModel):
    """One `[[token]]` of the token file; kept as a digest, never as the secret.

    tables: patterns of the tables that it may read. role: in PostgreSQL, the role that its pages
    are read under; "" for that of the service.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, Field(min_length=1, max_length=100)]
    secret: Annotated[str, Field(min_length=8, pattern=r"^[A-Za-z0-9._~+/-]+=*$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    scopes: frozenset[Scope]
    tables: tuple[str, ...] = ("*",)
    role: Annotated[str, Field(max_length=63)] = ""

    @model_validator(mode="after")
    def _one_of_two(self) -> "Token":
        if (self.secret is None) == (self.sha256 is None):
            raise ValueError("give either `secret` or `sha256`")
        return self

    @property
    def digest(self) -> str:
        return _digest(self.secret) if self.secret is not None else str(self.sha256).lower()

    def reads_as(self, other: "Token") -> bool:
        """Whether a stream that the other one began may go on under this one."""
        mine, theirs = ((each.name, each.tables, each.role) for each in (self, other))
        return mine == theirs

    def without_secret(self) -> dict[str, object]:
        """The same token as members of JSON, told by its digest."""
        return {
            "name": self.name,
            "sha256": self.digest,
            "scopes": sorted(self.scopes),
            "tables": self.tables,
            "role": self.role,
        }


class _TokenFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    token: Annotated[list[Token], Field(min_length=1, max_length=TOKENS_AT_MOST)]


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Tokens:
    """The tokens that are let in."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        # A look-up by digest takes no longer for a guess that is nearly right.
        self._by_digest = {token.digest: token for token in tokens}

    @property
    def known(self) -> list[Token]:
        return list(self._by_digest.values())

    def replace(self, tokens: Sequence[Token]) -> frozenset[str]:
        """Let in these from now on; the names of those that may read now as they could before.

        A name with another secret is another token.
        """
        before = self._by_digest
        self._by_digest = {token.digest: token for token in tokens}
        return frozenset(
            token.name
            for digest, token in self._by_digest.items()
            if Scope.READ in token.scopes and digest in before and token.reads_as(before[digest])
        )

    @classmethod
    def load(cls, path: Path | None, host: str, *, roles: bool = True) -> "Tokens":
        """The tokens of a file, or the development token when there is none.

        roles: whether the database knows roles; where it does not, none may be relied on.

        Raises ConfigurationError for a file that is missing or wrong, and for none on an
        address that others can reach.
        """
        if path is None:
            if not _is_loopback(host):
                raise ConfigurationError(
                    f"listening on {host} needs a token file",
                    hint="name one with --tokens, or listen on 127.0.0.1",
                )
            return cls(
                [Token(name="development", secret=DEVELOPMENT_SECRET, scopes=frozenset(Scope))]
            )
        try:
            tokens = _TokenFile.model_validate(tomllib.loads(path.read_text("utf-8"))).token
        except OSError as fault:
            raise ConfigurationError(
                f"token file {path}: {fault.strerror}", hint="--tokens names a readable TOML file"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as fault:
            raise ConfigurationError(
                f"token file {path} is not TOML: {fault}", hint=_EXAMPLE
            ) from None
        except ValidationError as fault:
            first = fault.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(
                f"token file {path}: {place}: {first['msg']}", hint=_EXAMPLE
            ) from None
        if not roles and (relying := [token.name for token in tokens if token.role]):
            raise ConfigurationError(
                f"token file {path}: token {relying[0]!r} has a role, and SQLite knows none",
                hint="leave it out; `tables` says which tables a token may read",
            )
        for kind, values in (
            ("name", [token.name for token in tokens]),
            ("secret", [token.digest for token in tokens]),
        ):
            if len(set(values)) < len(values):
                raise ConfigurationError(
                    f"token file {path}: two tokens have the same {kind}",
                    hint=f"give each token a {kind} of its own",
                )
        return cls(tokens)

    def guest(self, authorization: Sequence[str]) -> Token | None:
        """As whom somebody reads what needs no token: with one, more is told.

        Where there is the development token alone, everybody may have it.
        """
        secret = "".join(authorization).partition(" ")[2].strip()
        known = self._by_digest.get(_digest(secret))
        development = self._by_digest.get(_digest(DEVELOPMENT_SECRET))
        guest = known or (development if len(self._by_digest) == 1 else None)
        return guest if guest is not None and Scope.READ in guest.scopes else None

    def authenticate(self, authorization: Sequence[str], scope: Scope) -> Token:
        """The token of the Authorization header, which has this scope, or DeniedError.

        Raises InvalidError for two headers: another program on the way may look at the other one.
        """
        if len(authorization) > 1:
            raise InvalidError(
                f"the Authorization header is given {len(authorization)} times",
                code=Code.AUTHORIZATION_REPEATED,
                hint="send it once",
            )
        scheme, _, secret = "".join(authorization).partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise DeniedError(
                "this route wants a token",
                code=Code.TOKEN_MISSING,
                hint="send the header 'Authorization: Bearer TOKEN'",
            )
        token = self._by_digest.get(_digest(secret.strip()))
        if token is None:
            raise DeniedError(
                "this token is not known here",
                code=Code.TOKEN_INVALID,
                hint="check it against the token file of the service",
            )
        if scope not in token.scopes:
            raise DeniedError(
                f"token {token.name!r} lacks the scope {scope.value!r}",
                code=Code.SCOPE_MISSING,
                hint="use another token, or give this one the scope in the token file",
                scope=scope.value,
            )
        return token


_EXAMPLE = 'write [[token]], then name = "me", secret = "a-long-secret", scopes = ["read"]'


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
