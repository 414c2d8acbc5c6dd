"""A registry that lists its collectors."""

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector


class Registry(CollectorRegistry):
    """Prometheus' registry, whose own collectors are private."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        """Add a collector."""
        super().register(collector)
        self.collectors.append(collector)

    def unregister(self, collector: Collector) -> None:
        """Remove a collector."""
        super().unregister(collector)
        self.collectors.remove(collector)
