"""Metrics of the process, its connections and its HTTP requests."""

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge

from service import __version__
from service.telemetry.events import ConnectionDropReason, KeyOutcome, WatchedFile
from service.telemetry.metrics.buckets import SECONDS
from service.telemetry.metrics.histogram import Histogram, HistogramChild

LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class ServerMetrics:
    """Implements `ServerEvents`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.files: dict[str, bool] = {}
        """Whether the last reload of each file succeeded."""
        self.certificate_ends_at: float | None = None
        """When the certificate in use expires, if there is one."""
        self._declare_process(registry)
        self._declare_http(registry)
        self._declare_files(registry)

    def _declare_process(self, registry: CollectorRegistry) -> None:
        build = Gauge(
            "vt_build_info",
            "Always 1. The label is the version of vt-serve.",
            ("version",),
            registry=registry,
        )
        build.labels(__version__).set(1)
        self._ready = Gauge(
            "vt_ready", "1 while the server is ready, otherwise 0.", registry=registry
        )
        self._in_flight = Gauge(
            "vt_requests_in_flight",
            "Number of prediction requests that were received completely and are not yet answered.",
            registry=registry,
        )
        self._receiving = Gauge(
            "vt_requests_receiving",
            "Number of admitted prediction requests whose bodies are still arriving.",
            registry=registry,
        )
        self._memory_limit = Gauge(
            "vt_memory_limit_bytes", "Memory limit of the process.", registry=registry
        )
        self._loop_lag = Histogram(
            "vt_event_loop_lag_seconds",
            "Delay of a timer on the event loop.",
            buckets=LAG_SECONDS,
            registry=registry,
        )

    def observe(
        self,
        *,
        ready: Callable[[], bool],
        in_flight: Callable[[], int],
        receiving: Callable[[], int],
        memory_bytes: int,
    ) -> None:
        """Evaluate these gauges on each scrape."""
        self._ready.set_function(ready)
        self._in_flight.set_function(in_flight)
        self._receiving.set_function(receiving)
        self._memory_limit.set(memory_bytes)

    def loop_lagged(self, seconds: float) -> None:
        """Observe the delay of a timer."""
        self._loop_lag.observe(seconds)

    def _declare_http(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route", "status")
        self._requests = Counter(
            "http_requests_total", "Total number of HTTP responses.", labels, registry=registry
        )
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "Time from the first byte of a request to the last byte of its response.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self._answers = cache(self._resolve)
        self._key_requests = Counter(
            "vt_api_key_requests_total",
            "Total number of requests that required an API key, by name of the key and outcome.",
            ("key", "outcome"),
            registry=registry,
        )
        self._key_outcomes = cache(self._key_requests.labels)
        self._connections_dropped = Counter(
            "vt_connections_dropped_total",
            "Total number of connections closed because of the client's behaviour, by reason.",
            ("reason",),
            registry=registry,
        )
        self._log_lines_dropped = Counter(
            "vt_log_lines_dropped_total",
            "Total number of log lines dropped because they could not be written.",
            registry=registry,
        )

    def _resolve(self, method: str, route: str, status: int) -> tuple[Counter, HistogramChild]:
        labels = (method, route, str(status))
        return self._requests.labels(*labels), self._seconds.labels(*labels)

    def http_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        requests, durations = self._answers(method, route, status)
        requests.inc()
        durations.observe(seconds)

    def api_key_used(self, key: str, outcome: KeyOutcome) -> None:
        """Count a request that required an API key."""
        self._key_outcomes(key, outcome).inc()

    def connection_dropped(self, reason: ConnectionDropReason) -> None:
        """Count a closed connection."""
        self._connections_dropped.labels(reason).inc()

    def log_line_dropped(self) -> None:
        """Count a line of the log that could not be written."""
        self._log_lines_dropped.inc()

    def _declare_files(self, registry: CollectorRegistry) -> None:
        self._last_reload = Gauge(
            "vt_last_reload_successful",
            "1 if the last reload succeeded; "
            "0 if it failed and the previous contents are still in use.",
            ("file",),
            registry=registry,
        )
        self._certificate_expiry = Gauge(
            "vt_tls_certificate_expiry_timestamp_seconds",
            "Unix time at which the certificate in use, or the first of its chain, expires.",
            ("file",),
            registry=registry,
        )

    def file_reloaded(self, file: WatchedFile, *, ok: bool) -> None:
        """Set whether the last reload of a file succeeded."""
        self.files[file] = ok
        self._last_reload.labels(file).set(ok)

    def certificate_loaded(self, ends_at: float) -> None:
        """Set when the certificate expires."""
        self.certificate_ends_at = ends_at
        self._certificate_expiry.labels("certificate").set(ends_at)
