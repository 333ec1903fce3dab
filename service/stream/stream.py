"""One stream under way: who asked for what, and how far it has come."""

import secrets
from dataclasses import dataclass, field
from time import monotonic

from ..metrics import Metrics
from .flow import Flow


@dataclass(slots=True, eq=False)
class Stream:
    """One stream under way: what `/streams` and the log say of it."""

    token: str
    route: str
    flow: Flow
    rows: int = 0
    bytes: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=monotonic)
    _reported_rows: int = 0
    _reported_bytes: int = 0

    @property
    def seconds(self) -> float:
        return monotonic() - self.started

    def count(self, rows: int, size: int) -> None:
        """Some rows of `size` bytes in all have been written."""
        self.rows += rows
        self.bytes += size

    def report(self, metrics: Metrics) -> None:
        """Add to the metrics what has come since the last report."""
        metrics.rows.labels(self.route).inc(self.rows - self._reported_rows)
        metrics.bytes.labels(self.route).inc(self.bytes - self._reported_bytes)
        self._reported_rows, self._reported_bytes = self.rows, self.bytes
