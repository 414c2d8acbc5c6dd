"""Every number that events become, declared once; the logic reports events to this module."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TypeVar, get_args

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

from service import __version__
from service.errors import Outcome
from service.schema.vocabulary import ModelState, Task
from service.telemetry.events import (
    ConnectionDropReason,
    DispatchReason,
    DropReason,
    KeyOutcome,
    ModelBuild,
    ModelIdentity,
    ModelLoad,
    Prediction,
    ShadowDrop,
    WatchedFile,
)
from service.telemetry.stage_timer import Stage

_log = structlog.get_logger()

# No `_created` twin of every counter and histogram: nothing here is ever reset.
disable_created_metrics()  # type: ignore[no-untyped-call]

# OpenTelemetry's edges for HTTP, and finer ones below 50 ms for fast models.
SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.075),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
AGREEMENTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BYTES = (1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6)
PIXELS = (1e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2.5e7, 5e7)
LOAD_GAUGES = (
    ("pending", "vt_queue_depth", "Images admitted and not yet predicted."),
    ("executing", "vt_inflight_batches", "Batches that run."),
    ("oldest_wait_seconds", "vt_queue_oldest_seconds", "Wait of the oldest image in the queue."),
    ("predicted_wait_seconds", "vt_predicted_wait_seconds", "Wait of one more image."),
)
VERSION = ("model", "version")

M = TypeVar("M", Counter, Histogram)


def _children_of(metric: M) -> Callable[..., M]:
    """The metric's samples by their labels' values; each is looked up once."""
    return cache(metric.labels)


class PrometheusMetrics:
    """The service's numbers, in a registry of their own; see `docs/metrics.md`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._declare_process()
        self._declare_requests()
        self._declare_clients()
        self._declare_files()
        self._declare_batching()
        self._declare_shadow()
        self._declare_data()
        self._declare_models()
        self._version_gauges = (
            *self._load_gauges.values(),
            *(self._hung, self._nodes_on_cpu),
            *(self._self_test_ok, self._self_test_error, self._self_test_agreement),
        )
        self._build_gauges = (self._model_info, self._provider_is_as_requested)

    def _counter(self, name: str, text: str, labels: Sequence[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _declare_process(self) -> None:
        info = self._gauge("vt_build_info", "1, with the version of vt-serve.", ("version",))
        info.labels(__version__).set(1)
        self._ready = self._gauge("vt_ready", "1 while the server is ready, else 0.")
        self._in_flight = self._gauge("vt_requests_in_flight", "Requests in flight.")
        self._receiving = self._gauge("vt_requests_receiving", "Requests whose bodies arrive.")
        self._memory_limit = self._gauge("vt_memory_limit_bytes", "Memory it may use.")
        self._loop_lag = self._histogram(
            "vt_event_loop_lag_seconds", "How late the event loop comes to a timer.", LAG_SECONDS
        )

    def _declare_requests(self) -> None:
        self._unavailable: dict[tuple[str, str], int] = defaultdict(int)
        http = ("method", "route", "status")
        self._http_requests = _children_of(
            self._counter("http_requests_total", "Answers sent.", http)
        )
        self._http_seconds = _children_of(
            self._histogram(
                "http_request_duration_seconds",
                "From a request's first byte to its answer's last.",
                SECONDS,
                http,
            )
        )
        self._inference_requests = _children_of(
            self._counter(
                "vt_inference_requests_total",
                "Prediction requests for a model, by how they ended.",
                (*VERSION, "task", "outcome"),
            )
        )
        self._inference_images = _children_of(
            self._counter("vt_inference_images_total", "Images predicted.", VERSION)
        )
        self._stage_seconds = _children_of(
            self._histogram(
                "vt_stage_duration_seconds",
                "Where a prediction request's time goes.",
                SECONDS,
                ("model", "stage"),
            )
        )

    def _declare_clients(self) -> None:
        self._api_key_requests = _children_of(
            self._counter(
                "vt_api_key_requests_total",
                "Requests that needed an API key, by the key's name and what became of them.",
                ("key", "outcome"),
            )
        )
        self._connections_dropped = self._counter(
            "vt_connections_dropped_total",
            "Connections ended because of what their clients did.",
            ("reason",),
        )

    def _declare_files(self) -> None:
        self._last_reload = self._gauge(
            "vt_last_reload_successful",
            "1 where what a file holds counts, 0 where it could not be read and what it held does.",
            ("file",),
        )
        self._certificate_expiry = self._gauge(
            "vt_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that serves ends, in seconds since 1970.",
            ("file",),
        )

    def _declare_batching(self) -> None:
        self._batch_size = _children_of(
            self._histogram("vt_batch_size", "Images in a batch.", BATCH_SIZES, VERSION)
        )
        self._batch_fill = _children_of(
            self._histogram(
                "vt_batch_fill_ratio",
                "Images in a batch, of those it had room for.",
                RATIOS,
                VERSION,
            )
        )
        self._batch_dispatches = _children_of(
            self._counter(
                "vt_batch_dispatch_total",
                "Batches by why they left the queue.",
                (*VERSION, "reason"),
            )
        )
        self._images_dropped = self._counter(
            "vt_images_dropped_total",
            "Images that were admitted and never run, by why.",
            (*VERSION, "reason"),
        )
        self._out_of_memory = self._counter(
            "vt_oom_total", "Batches for which there was no memory.", VERSION
        )
        self._session_rebuilds = self._counter(
            "vt_session_rebuilds_total", "Sessions made anew.", VERSION
        )
        self._hung = self._gauge("vt_hung", "1 while a batch does not end, else 0.", VERSION)
        self._load_gauges = {
            read: self._gauge(name, text, VERSION) for read, name, text in LOAD_GAUGES
        }

    def _declare_shadow(self) -> None:
        self._shadow_agreement = self._histogram(
            "vt_shadow_agreement_ratio",
            "Agreement of a shadow version, by image: 1 or 0, or the share of equal pixels.",
            AGREEMENTS,
            VERSION,
        )
        self._shadow_dropped = self._counter(
            "vt_shadow_dropped_total",
            "Images that were copied to a shadow version and not compared, by why.",
            (*VERSION, "reason"),
        )

    def _declare_data(self) -> None:
        self._request_bytes = _children_of(
            self._histogram("vt_request_bytes", "Bodies of requests.", BYTES, ("model",))
        )
        self._response_bytes = _children_of(
            self._histogram("vt_response_bytes", "Bodies of answers.", BYTES, ("model",))
        )
        self._image_pixels = _children_of(
            self._histogram("vt_image_pixels", "Pixels of an image as sent.", PIXELS, ("model",))
        )
        self._confidence = _children_of(
            self._histogram(
                "vt_prediction_confidence",
                "Probability of an image's likeliest class.",
                CONFIDENCES,
                VERSION,
            )
        )
        self._predicted_classes = _children_of(
            self._counter(
                "vt_predicted_classes_total",
                "Images by predicted class; one that shows several counts to each by its share.",
                (*VERSION, "label"),
            )
        )

    def _declare_models(self) -> None:
        self._model_info = self._gauge(
            "vt_model_info",
            "1 for every loaded model version, with what it is made of.",
            (*VERSION, "task", "precision", "requested", "active", "sha256"),
        )
        self._provider_is_as_requested = self._gauge(
            "vt_provider_requested_active",
            "1 where a version runs on the execution provider asked for, else 0.",
            (*VERSION, "requested", "active"),
        )
        self._model_state = self._gauge(
            "vt_model_state",
            "1 for the state that a model version is in, 0 for the others.",
            (*VERSION, "state"),
        )
        self._model_loads = self._counter(
            "vt_model_loads_total", "Attempts to load a model.", ("model", "result")
        )
        self._nodes_on_cpu = self._gauge(
            "vt_nodes_on_cpu",
            "Nodes on the CPU of a graph on another execution provider, but for shape arithmetic.",
            VERSION,
        )
        self._self_test_error = self._gauge(
            "vt_selftest_max_abs_error", "Largest difference to the golden outputs.", VERSION
        )
        self._self_test_agreement = self._gauge(
            "vt_selftest_agreement_ratio", "Share of answers equal to the golden ones.", VERSION
        )
        self._self_test_ok = self._gauge(
            "vt_selftest_ok",
            "1 where the golden outputs were within the tolerance, else 0.",
            VERSION,
        )
        self._model_load_seconds = self._histogram(
            "vt_model_load_seconds",
            "Reading, checking and warming up a model.",
            LOAD_SECONDS,
            ("model",),
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return every number in the text format that a scraper accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def observe_server(
        self,
        *,
        ready: Callable[[], bool],
        in_flight: Callable[[], int],
        receiving: Callable[[], int],
        memory_bytes: int,
    ) -> None:
        """Read how the server is at every scrape."""
        self._ready.set_function(ready)
        self._in_flight.set_function(in_flight)
        self._receiving.set_function(receiving)
        self._memory_limit.set(memory_bytes)

    def loop_lagged(self, seconds: float) -> None:
        """Count how late the event loop was."""
        self._loop_lag.observe(seconds)

    def http_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        labels = (method, route, str(status))
        self._http_requests(*labels).inc()
        self._http_seconds(*labels).observe(seconds)

    def api_key_used(self, key: str, outcome: KeyOutcome) -> None:
        """Count a request that needed a key."""
        self._api_key_requests(key, outcome).inc()

    def file_reloaded(self, file: WatchedFile, *, ok: bool) -> None:
        """Set whether what a file holds counts."""
        self._last_reload.labels(file).set(ok)

    def certificate_loaded(self, ends_at: float) -> None:
        """Set when the certificate ends."""
        self._certificate_expiry.labels("certificate").set(ends_at)

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

    def inference_unavailable(self, name: str, version: str, task: Task | None) -> None:
        """Count a prediction request that nothing could answer."""
        outcome: Outcome = "unavailable"
        self._inference_requests(name, version, task or "", outcome).inc()
        self._unavailable[name, version] += 1

    def unavailable(self) -> Mapping[tuple[str, str], int]:
        """Return, by model and version, how many requests nothing could answer."""
        return self._unavailable

    def bodies_exchanged(
        self, model: ModelIdentity, request_bytes: int, response_bytes: int
    ) -> None:
        """Count the bytes of a request that was answered well."""
        self._request_bytes(model.name).observe(request_bytes)
        self._response_bytes(model.name).observe(response_bytes)

    def images_predicted(self, model: ModelIdentity, predictions: Sequence[Prediction]) -> None:
        """Count what images were like and what the model made of them."""
        name, version = model.name, model.version
        for pixels, shares, confidence in predictions:
            self._image_pixels(name).observe(pixels)
            for label, share in shares.items():
                self._predicted_classes(name, version, label).inc(share)
            if confidence is not None:
                self._confidence(name, version).observe(confidence)

    def batch_dispatched(
        self, model: ModelIdentity, batch_size: int, reason: DispatchReason, room: int
    ) -> None:
        """Count a batch."""
        self._batch_size(model.name, model.version).observe(batch_size)
        self._batch_fill(model.name, model.version).observe(batch_size / room)
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

    def session_rebuilt(self, model: ModelIdentity, build: ModelBuild) -> None:
        """Count a session made anew, which may run elsewhere than the one before."""
        self._session_rebuilds.labels(model.name, model.version).inc()
        self._describe(model, build)

    def session_lost(self, model: ModelIdentity) -> None:
        """Tell that the model does not serve."""
        self.model_state_changed(model.name, model.version, ModelState.UNAVAILABLE)

    def session_recovered(self, model: ModelIdentity) -> None:
        """Tell that it does again."""
        self.model_state_changed(model.name, model.version, ModelState.READY)
        _log.warning("session_recovered", model=model.name, version=model.version)

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
        self._describe(model, build)
        self._begin_at_zero(model)

    def _describe(self, model: ModelIdentity, build: ModelBuild) -> None:
        version = {"model": model.name, "version": model.version}
        providers = (build.requested_provider, build.active_provider)
        for gauge in self._build_gauges:
            gauge.remove_by_labels(version)
        self._model_info.labels(
            *(model.name, model.version, model.task, build.precision),
            *(*providers, build.graph_sha256),
        ).set(1)
        self._nodes_on_cpu.labels(model.name, model.version).set(build.nodes_on_cpu)
        self._provider_is_as_requested.labels(model.name, model.version, *providers).set(
            providers[0] == providers[1]
        )

    def _begin_at_zero(self, model: ModelIdentity) -> None:
        """Show counters before they count: a rate misses what a series begins with."""
        labels = (model.name, model.version)
        for outcome in get_args(Outcome):
            self._inference_requests(*labels, model.task, outcome)
        for reason in get_args(DropReason):
            self._images_dropped.labels(*labels, reason)
        for counter in (self._out_of_memory, self._session_rebuilds):
            counter.labels(*labels)
        self._model_loads.labels(model.name, "failure")

    def model_released(self, name: str, version: str) -> None:
        """Show no more how a version is; what it did stays counted."""
        for gauge in self._version_gauges:
            gauge.remove(name, version)
        for state in ModelState:
            self._model_state.remove(name, version, state)
        for gauge in self._build_gauges:  # looks at every version, but only at what is loaded
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
