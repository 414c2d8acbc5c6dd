"""Every Prometheus collector, declared once; the logic reports events to this module."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TypeVar

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from service.errors import Outcome
from service.events import (
    ConnectionDropReason,
    DispatchReason,
    DropReason,
    KeyOutcome,
    ModelBuild,
    ModelIdentity,
    ModelLoad,
    ShadowDrop,
)
from service.protocol import ModelState
from service.stage_timer import Stage

_log = structlog.get_logger()

# No `_created` twin of every counter and histogram: nothing here is ever reset.
disable_created_metrics()  # type: ignore[no-untyped-call]

# OpenTelemetry's edges for HTTP, and finer ones below 50 ms for fast models.
SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.075),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
AGREEMENTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
LOAD_GAUGES = (
    ("pending", "vt_queue_depth", "Images admitted and not yet predicted."),
    ("executing", "vt_inflight_batches", "Batches that run."),
    ("oldest_wait_seconds", "vt_queue_oldest_seconds", "Wait of the oldest image in the queue."),
    ("predicted_wait_seconds", "vt_predicted_wait_seconds", "Wait of one more image."),
)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


M = TypeVar("M", Counter, Histogram)


def _children_of(metric: M) -> Callable[..., M]:
    """The metric's samples by their labels' values; each is looked up once."""
    return cache(metric.labels)


class PrometheusMetrics:
    """The service's numbers, in a registry of their own; see `docs/metrics.md`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        http = ("method", "route", "status")
        self._http_requests = _children_of(
            Counter("http_requests_total", "Answers sent.", http, registry=registry)
        )
        self._http_seconds = _children_of(
            Histogram(
                "http_request_duration_seconds",
                "From a request's first byte to its answer's last.",
                http,
                buckets=SECONDS,
                registry=registry,
            )
        )
        self._inference_requests = _children_of(
            Counter(
                "vt_inference_requests_total",
                "Prediction requests for a model, by how they ended.",
                ("model", "version", "task", "outcome"),
                registry=registry,
            )
        )
        self._inference_images = _children_of(
            Counter(
                "vt_inference_images_total",
                "Images predicted.",
                ("model", "version"),
                registry=registry,
            )
        )
        self._stage_seconds = _children_of(
            Histogram(
                "vt_stage_duration_seconds",
                "Where a prediction request's time goes.",
                ("model", "stage"),
                buckets=SECONDS,
                registry=registry,
            )
        )
        self._declare_clients(registry)
        self._declare_batching(registry)
        self._declare_models(registry)
        self._declare_shadow(registry)

    def _declare_clients(self, registry: CollectorRegistry) -> None:
        self._api_key_requests = _children_of(
            Counter(
                "vt_api_key_requests_total",
                "Requests that needed an API key, by the key's name and what became of them.",
                ("key", "outcome"),
                registry=registry,
            )
        )
        self._connections_dropped = Counter(
            "vt_connections_dropped_total",
            "Connections ended because of what their clients did.",
            ("reason",),
            registry=registry,
        )

    def _declare_batching(self, registry: CollectorRegistry) -> None:
        version = ("model", "version")
        self._batch_size = _children_of(
            Histogram(
                "vt_batch_size",
                "Images in a batch.",
                version,
                buckets=BATCH_SIZES,
                registry=registry,
            )
        )
        self._batch_dispatches = _children_of(
            Counter(
                "vt_batch_dispatch_total",
                "Batches by why they left the queue.",
                (*version, "reason"),
                registry=registry,
            )
        )
        self._images_dropped = Counter(
            "vt_images_dropped_total",
            "Images that were admitted and never run, by why.",
            (*version, "reason"),
            registry=registry,
        )
        self._out_of_memory = Counter(
            "vt_oom_total", "Batches for which there was no memory.", version, registry=registry
        )
        self._session_rebuilds = Counter(
            "vt_session_rebuilds_total", "Sessions made anew.", version, registry=registry
        )
        self._hung = Gauge(
            "vt_hung", "1 while a batch does not end, else 0.", version, registry=registry
        )
        self._load_gauges = {
            read: Gauge(name, text, version, registry=registry) for read, name, text in LOAD_GAUGES
        }

    def _declare_shadow(self, registry: CollectorRegistry) -> None:
        version = ("model", "version")
        self._shadow_agreement = Histogram(
            "vt_shadow_agreement_ratio",
            "Agreement of a shadow version, by image: 1 or 0, or the share of equal pixels.",
            version,
            buckets=AGREEMENTS,
            registry=registry,
        )
        self._shadow_dropped = Counter(
            "vt_shadow_dropped_total",
            "Images that were copied to a shadow version and not compared, by why.",
            (*version, "reason"),
            registry=registry,
        )

    def _declare_models(self, registry: CollectorRegistry) -> None:
        self._model_info = Gauge(
            "vt_model_info",
            "1 for every loaded model version, with what it is made of.",
            ("model", "version", "task", "precision", "requested", "active", "sha256"),
            registry=registry,
        )
        self._model_state = Gauge(
            "vt_model_state",
            "1 for the state that a model version is in, 0 for the others.",
            ("model", "version", "state"),
            registry=registry,
        )
        self._model_loads = Counter(
            "vt_model_loads_total",
            "Attempts to load a model.",
            ("model", "result"),
            registry=registry,
        )
        version = ("model", "version")
        self._nodes_on_cpu = Gauge(
            "vt_nodes_on_cpu",
            "Nodes that the active execution provider does not run, where it is not the CPU's.",
            version,
            registry=registry,
        )
        self._self_test_error = Gauge(
            "vt_selftest_max_abs_error",
            "Largest difference to the golden outputs.",
            version,
            registry=registry,
        )
        self._self_test_agreement = Gauge(
            "vt_selftest_agreement_ratio",
            "Share of answers equal to the golden ones.",
            version,
            registry=registry,
        )
        self._self_test_ok = Gauge(
            "vt_selftest_ok",
            "1 where the golden outputs were within the tolerance, else 0.",
            version,
            registry=registry,
        )
        self._version_gauges = (
            *self._load_gauges.values(),
            *(self._hung, self._model_info, self._model_state, self._nodes_on_cpu),
            *(self._self_test_ok, self._self_test_error, self._self_test_agreement),
        )
        self._model_load_seconds = Histogram(
            "vt_model_load_seconds",
            "Reading, checking and warming up a model.",
            ("model",),
            buckets=LOAD_SECONDS,
            registry=registry,
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return every number in the text format that a scraper accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def http_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        labels = (method, route, str(status))
        self._http_requests(*labels).inc()
        self._http_seconds(*labels).observe(seconds)

    def api_key_used(self, key: str, outcome: KeyOutcome) -> None:
        """Count a request that needed a key."""
        self._api_key_requests(key, outcome).inc()

    def connection_dropped(self, reason: ConnectionDropReason) -> None:
        """Count a connection that was ended."""
        self._connections_dropped.labels(reason).inc()

    def inference_finished(
        self, model: ModelIdentity, outcome: Outcome, images: int, stages: Mapping[Stage, float]
    ) -> None:
        """Count a prediction request and time its stages."""
        self._inference_requests(model.name, model.version, model.task, outcome).inc()
        self._inference_images(model.name, model.version).inc(images)
        for stage, seconds in stages.items():
            self._stage_seconds(model.name, stage).observe(seconds)

    def batch_dispatched(
        self, model: ModelIdentity, batch_size: int, reason: DispatchReason
    ) -> None:
        """Count a batch."""
        self._batch_size(model.name, model.version).observe(batch_size)
        self._batch_dispatches(model.name, model.version, reason).inc()

    def images_dropped(self, model: ModelIdentity, images: int, reason: DropReason) -> None:
        """Count images that were never run."""
        self._images_dropped.labels(model.name, model.version, reason).inc(images)

    def ran_out_of_memory(self, model: ModelIdentity, max_batch_size: int) -> None:
        """Count a failed allocation, and log what follows from it."""
        self._out_of_memory.labels(model.name, model.version).inc()
        _log.warning(
            "out_of_memory", model=model.name, version=model.version, max_batch_size=max_batch_size
        )

    def session_rebuilt(self, model: ModelIdentity) -> None:
        """Count a session made anew."""
        self._session_rebuilds.labels(model.name, model.version).inc()

    def execution_hung(self, model: ModelIdentity, seconds: float) -> None:
        """Tell that a batch does not end."""
        self._hung.labels(model.name, model.version).set(1)
        self.model_state_changed(model.name, model.version, ModelState.UNAVAILABLE)
        _log.error(
            "execution_hung", model=model.name, version=model.version, seconds=round(seconds, 1)
        )

    def execution_recovered(self, model: ModelIdentity) -> None:
        """Tell that it ended after all."""
        self._hung.labels(model.name, model.version).set(0)
        self.model_state_changed(model.name, model.version, ModelState.READY)
        _log.warning("execution_recovered", model=model.name, version=model.version)

    def shadow_compared(self, model: str, version: str, agreement: float) -> None:
        """Observe how far a shadow version agrees."""
        self._shadow_agreement.labels(model, version).observe(agreement)

    def shadow_dropped(self, model: str, version: str, images: int, reason: ShadowDrop) -> None:
        """Count images that were not compared."""
        self._shadow_dropped.labels(model, version, reason).inc(images)

    def model_loaded(
        self, model: ModelIdentity, build: ModelBuild, seconds: float, load: ModelLoad
    ) -> None:
        """Count a load, describe what was loaded, and read its load at every scrape."""
        for attribute, gauge in self._load_gauges.items():
            gauge.labels(model.name, model.version).set_function(partial(getattr, load, attribute))
        self._hung.labels(model.name, model.version).set(0)
        self._model_loads.labels(model.name, "success").inc()
        self._model_load_seconds.labels(model.name).observe(seconds)
        self._model_info.remove_by_labels({"model": model.name, "version": model.version})
        self._model_info.labels(
            model.name,
            model.version,
            model.task,
            build.precision,
            build.requested_provider,
            build.active_provider,
            build.graph_sha256,
        ).set(1)
        self._nodes_on_cpu.labels(model.name, model.version).set(build.nodes_on_cpu)

    def model_released(self, name: str, version: str) -> None:
        """Show no more how a version is; what it did stays counted."""
        for gauge in self._version_gauges:
            gauge.remove_by_labels({"model": name, "version": version})

    def self_tested(
        self, model: ModelIdentity, max_absolute_error: float, agreement: float, *, ok: bool
    ) -> None:
        """Set the outcome of a self-test."""
        labels = (model.name, model.version)
        self._self_test_error.labels(*labels).set(max_absolute_error)
        self._self_test_agreement.labels(*labels).set(agreement)
        self._self_test_ok.labels(*labels).set(ok)

    def model_refused(self, name: str) -> None:
        """Count a load that failed."""
        self._model_loads.labels(name, "failure").inc()

    def model_state_changed(self, name: str, version: str, state: ModelState) -> None:
        """Set a model's state."""
        for each in ModelState:
            self._model_state.labels(name, version, each).set(each is state)
