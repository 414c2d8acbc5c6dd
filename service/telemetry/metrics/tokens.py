"""Metrics of the visual tokens of sampled images."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge

from service.schema.certificate import Distribution
from service.telemetry.drift import DriftWindow
from service.telemetry.events import ModelIdentity
from service.telemetry.metrics.buckets import VERSION
from service.telemetry.metrics.histogram import Histogram

ENTROPIES = tuple(step / 20 for step in range(1, 21))
SIMILARITIES = tuple(step / 20 for step in range(21))  # a sum must not decrease: none below 0
ENTROPY = "attention_entropy_"
SIMILARITY = "token_similarity"


class TokenMetrics:
    """Declares the metrics, and makes the `TokenTelemetry` of each loaded version."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.entropy = Histogram(
            "vt_attention_entropy_ratio",
            "Entropy of a token's attention divided by the largest possible, "
            "mean over the tokens of a module; sampled.",
            (*VERSION, "module"),
            buckets=ENTROPIES,
            registry=registry,
        )
        self.similarity = Histogram(
            "vt_token_similarity",
            "Mean cosine similarity of two different final tokens of an image, "
            "0 if it is negative; sampled.",
            VERSION,
            buckets=SIMILARITIES,
            registry=registry,
        )
        self.drift = Gauge(
            "vt_token_drift_score",
            "Population stability index of a token statistic in the last hour against the "
            "certificate; NaN with fewer than 100 samples.",
            (*VERSION, "statistic"),
            registry=registry,
        )

    def of(self, model: ModelIdentity, reference: Mapping[str, Distribution]) -> "TokenTelemetry":
        """Return the telemetry of a version, which is compared with its certificate."""
        return TokenTelemetry(self, model, reference)

    def model_released(self, name: str, version: str) -> None:
        """Remove a version's gauges; its histograms stay."""
        self.drift.remove_by_labels({"model": name, "version": version})


class TokenTelemetry:
    """Observes the token statistics of one loaded version. Belongs to the event loop."""

    def __init__(
        self, metrics: TokenMetrics, model: ModelIdentity, reference: Mapping[str, Distribution]
    ) -> None:
        self._metrics = metrics
        self._labels = (model.name, model.version)
        self._windows = {
            name: DriftWindow(each.bounds, each.shares) for name, each in reference.items()
        }
        for name, window in self._windows.items():
            metrics.drift.labels(*self._labels, name).set_function(window.score)

    def observe(self, statistics: Mapping[str, float]) -> None:
        """Count the statistics of an image: `token_similarity`, `attention_entropy_<module>`."""
        for name, value in statistics.items():
            if name == SIMILARITY:
                self._metrics.similarity.labels(*self._labels).observe(max(0.0, value))
            else:
                module = name.removeprefix(ENTROPY)
                self._metrics.entropy.labels(*self._labels, module).observe(value)
            if name in self._windows:
                self._windows[name].add(value)
