"""What the service counts, as Prometheus metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .memory import Memory
from .team import Team

CONTENT_TYPE = CONTENT_TYPE_LATEST

Parts = Mapping[tuple[str, ...], float]
"""The values of a gauge, each under the values of its labels."""


class Metrics:
    """The metrics of one service, whichever of its workers is asked for them."""

    def __init__(self, team: Team) -> None:
        self._registry = CollectorRegistry()
        registry: CollectorRegistry | None = self._registry
        if team.folder is not None:
            # Each worker counts in a file of its own there, and these outlive it.
            MultiProcessCollector(self._registry, str(team.folder))  # type: ignore[no-untyped-call]
            registry = None
        self.rows = Counter("weir_rows", "Rows sent.", ["route"], registry=registry)
        self.bytes = Counter("weir_bytes", "Body bytes sent.", ["route"], registry=registry)
        self.ended = Counter(
            "weir_streams_ended", "Streams ended.", ["route", "outcome"], registry=registry
        )
        self.problems = Counter(
            "weir_problems", "Requests answered with a problem.", ["code"], registry=registry
        )
        self.memory = Memory(0, 0)
        """Of all workers, as last measured: that takes too long to be done on the event loop."""
        self.watch(
            "weir_process_memory_bytes",
            "Memory of all processes of the service.",
            lambda: {(kind,): value for kind, value in self.memory._asdict().items()},
            ["kind"],
        )
        self.waiting = Histogram(
            "weir_stream_waiting_seconds",
            "Seconds that a stream has spent waiting for its client.",
            buckets=(0.01, 0.1, 1, 10, 60, 600, 3600),
            registry=registry,
        )

    def watch(
        self, name: str, description: str, ask: Callable[[], Parts], labels: Sequence[str] = ()
    ) -> None:
        """A gauge that asks for its values whenever the page is read."""
        self._registry.register(_Watched(name, description, ask, labels))

    def text(self) -> bytes:
        """The page, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Watched(Collector):
    def __init__(
        self, name: str, description: str, ask: Callable[[], Parts], labels: Sequence[str]
    ) -> None:
        self._of = (name, description)
        self._ask = ask
        self._labels = labels

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The name alone, so that registering asks for no value."""
        return [GaugeMetricFamily(*self._of, labels=self._labels)]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(*self._of, labels=self._labels)
        for values, value in self._ask().items():
            family.add_metric(values, value)
        yield family
