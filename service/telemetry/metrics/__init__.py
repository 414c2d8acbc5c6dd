"""The service's metrics: one collector per subject turns that subject's events into numbers."""

from prometheus_client import ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from service.telemetry.metrics.batches import BatchMetrics
from service.telemetry.metrics.inference import InferenceMetrics
from service.telemetry.metrics.models import ModelMetrics
from service.telemetry.metrics.registry import Registry
from service.telemetry.metrics.server import ServerMetrics
from service.telemetry.metrics.shadow import ShadowMetrics
from service.telemetry.metrics.tokens import TokenMetrics
from service.telemetry.metrics.versions import VersionGauges

# No `_created` series beside each counter and histogram: none is ever reset.
disable_created_metrics()  # type: ignore[no-untyped-call]


class PrometheusMetrics:
    """The collectors of one application and their registry; see `docs/metrics.md`."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.process = ProcessCollector(registry=self.registry)
        versions = VersionGauges(self.registry)
        self.server = ServerMetrics(self.registry)
        self.inference = InferenceMetrics(self.registry)
        self.batches = BatchMetrics(self.registry, versions)
        self.tokens = TokenMetrics(self.registry)
        self.models = ModelMetrics(
            self.registry, versions, self.inference, self.batches, self.tokens
        )
        self.shadow = ShadowMetrics(self.registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the text format that a scraper accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
