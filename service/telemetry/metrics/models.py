"""Metrics of loading and testing model versions."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.schema.vocabulary import ModelState
from service.telemetry.events import ModelBuild, ModelIdentity, ModelLoad
from service.telemetry.metrics.batches import BatchMetrics
from service.telemetry.metrics.buckets import VERSION
from service.telemetry.metrics.histogram import Histogram
from service.telemetry.metrics.inference import InferenceMetrics
from service.telemetry.metrics.tokens import TokenMetrics
from service.telemetry.metrics.versions import VersionGauges

LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class ModelMetrics:
    """Implements `ModelEvents`, and notifies other collectors of loads and releases."""

    def __init__(
        self,
        registry: CollectorRegistry,
        versions: VersionGauges,
        inference: InferenceMetrics,
        batches: BatchMetrics,
        tokens: TokenMetrics,
    ) -> None:
        self._versions = versions
        self._inference = inference
        self._batches = batches
        self._tokens = tokens
        self._declare_loads(registry)
        self._declare_self_tests(registry)

    def _declare_loads(self, registry: CollectorRegistry) -> None:
        self._loads = Counter(
            "vt_model_loads_total",
            "Total number of load attempts, by result.",
            ("model", "result"),
            registry=registry,
        )
        self._load_seconds = Histogram(
            "vt_model_load_seconds",
            "Time to read, check and warm up a model.",
            ("model",),
            buckets=LOAD_SECONDS,
            registry=registry,
        )

    def model_loaded(
        self, model: ModelIdentity, build: ModelBuild, seconds: float, load: ModelLoad
    ) -> None:
        """Count a load, and show the version."""
        self._loads.labels(model.name, "success").inc()
        self._loads.labels(
            model.name, "failure"
        )  # initialised to zero: a rate misses the first value
        self._load_seconds.labels(model.name).observe(seconds)
        self._versions.describe(model, build)
        self._batches.model_loaded(model, load)
        self._inference.model_loaded(model)

    def model_refused(self, name: str) -> None:
        """Count a load that failed."""
        self._loads.labels(name, "failure").inc()

    def model_released(self, name: str, version: str) -> None:
        """Remove a version's gauges; its counters and histograms stay."""
        for gauge in self._self_tests:
            gauge.remove(name, version)
        self._versions.remove(name, version)
        self._batches.model_released(name, version)
        self._tokens.model_released(name, version)

    def model_state_changed(self, name: str, version: str, state: ModelState) -> None:
        """Show the new state of a version."""
        self._versions.set_state(name, version, state)

    def _declare_self_tests(self, registry: CollectorRegistry) -> None:
        self._self_test_ok = Gauge(
            "vt_selftest_ok",
            "1 if the golden outputs were reproduced within the tolerance at loading, otherwise 0.",
            VERSION,
            registry=registry,
        )
        self._self_test_error = Gauge(
            "vt_selftest_max_abs_error",
            "Largest absolute difference of a logit from the golden outputs; 0 for segmentation.",
            VERSION,
            registry=registry,
        )
        self._self_test_agreement = Gauge(
            "vt_selftest_agreement_ratio",
            "Fraction of classes, or pixels, equal to the golden outputs.",
            VERSION,
            registry=registry,
        )
        self._self_tests = (self._self_test_ok, self._self_test_error, self._self_test_agreement)

    def self_tested(
        self, model: ModelIdentity, max_absolute_error: float, agreement: float, *, ok: bool
    ) -> None:
        """Show the result of a self-test."""
        labels = (model.name, model.version)
        self._self_test_error.labels(*labels).set(max_absolute_error)
        self._self_test_agreement.labels(*labels).set(agreement)
        self._self_test_ok.labels(*labels).set(ok)
