"""What the service counts, as Prometheus metrics."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from service.memory import Memory

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """One registry for one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.rows = Counter("weir_rows", "Rows sent.", ["route"], registry=registry)
        self.bytes = Counter("weir_bytes", "Body bytes sent.", ["route"], registry=registry)
        self.ended = Counter(
            "weir_streams_ended", "Streams ended.", ["route", "outcome"], registry=registry
        )
        self.problems = Counter(
            "weir_problems", "Requests answered with a problem.", ["code"], registry=registry
        )
        self.waiting = Histogram(
            "weir_stream_waiting_seconds",
            "Seconds that a stream has spent waiting for its client.",
            buckets=(0.01, 0.1, 1, 10, 60, 600, 3600),
            registry=registry,
        )
        self._memory = Gauge(
            "weir_process_memory_bytes", "Memory of this process.", ["kind"], registry=registry
        )

    def watch(self, name: str, description: str, ask: Callable[[], float]) -> None:
        """A gauge that asks for its value whenever the page is read."""
        Gauge(name, description, registry=self._registry).set_function(ask)

    def publish(self, name: str, description: str, parts: Mapping[str, float]) -> None:
        """A gauge with a fixed value for each part."""
        gauge = Gauge(name, description, ["part"], registry=self._registry)
        for part, value in parts.items():
            gauge.labels(part).set(value)

    def text(self, memory: Memory) -> bytes:
        """The page, in Prometheus' text format."""
        self._memory.labels("rss").set(memory.rss)
        self._memory.labels("uss").set(memory.uss)
        return generate_latest(self._registry)
