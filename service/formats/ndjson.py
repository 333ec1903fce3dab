"""NDJSON: an object a line."""

from ..query import Query


class NdJson:
    """What the wire says of NDJSON."""

    route = "stream.ndjson"
    extension = "ndjson"
    media_type = "application/x-ndjson"

    def content_type(self, *, header: bool) -> str:
        return self.media_type

    def head(self, query: Query, *, header: bool) -> bytes:
        return b""
