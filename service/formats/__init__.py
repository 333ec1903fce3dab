"""The formats: what the wire says of each beside its lines, which the engines make."""

from collections.abc import Mapping
from typing import Protocol

from ..query import Format, Query
from .csv import Csv
from .ndjson import NdJson


class Wire(Protocol):
    """How a format goes over the wire.

    route: the last part of its path. extension: of its file's name. media_type: without parameters.
    """

    route: str
    extension: str
    media_type: str

    def content_type(self, *, header: bool) -> str:
        """The Content-Type header. header: whether a line of names comes first."""

    def head(self, query: Query, *, header: bool) -> bytes:
        """What comes before the first row."""


WIRES: Mapping[Format, Wire] = {Format.CSV: Csv(), Format.NDJSON: NdJson()}
