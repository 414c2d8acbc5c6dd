"""Metrics of a shadow version."""

from prometheus_client import CollectorRegistry, Counter

from service.telemetry.events import ShadowDrop
from service.telemetry.metrics.buckets import VERSION
from service.telemetry.metrics.histogram import Histogram

AGREEMENTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)


class ShadowMetrics:
    """Implements `ShadowEvents`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._agreement = Histogram(
            "vt_shadow_agreement_ratio",
            "Agreement of a shadow version with the version that serves, per image: "
            "1 or 0 for a class, the fraction of equal pixels for a segmentation.",
            VERSION,
            buckets=AGREEMENTS,
            registry=registry,
        )
        self._dropped = Counter(
            "vt_shadow_dropped_total",
            "Total number of images copied to a shadow version but not compared, by reason.",
            (*VERSION, "reason"),
            registry=registry,
        )

    def shadow_compared(self, model: str, version: str, agreement: float) -> None:
        """Observe the agreement for one image."""
        self._agreement.labels(model, version).observe(agreement)

    def shadow_dropped(self, model: str, version: str, images: int, reason: ShadowDrop) -> None:
        """Count images that were not compared."""
        self._dropped.labels(model, version, reason).inc(images)
