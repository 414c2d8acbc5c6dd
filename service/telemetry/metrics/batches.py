"""Metrics of the queue of a model version, its batches and the sessions that run them."""

from functools import cache, partial
from typing import get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from service.schema.vocabulary import ModelState
from service.telemetry.events import (
    DispatchReason,
    DropReason,
    ModelBuild,
    ModelIdentity,
    ModelLoad,
)
from service.telemetry.metrics.buckets import VERSION
from service.telemetry.metrics.histogram import Histogram, HistogramChild
from service.telemetry.metrics.versions import VersionGauges

_log = structlog.get_logger()

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class BatchMetrics:
    """Implements `BatchEvents`."""

    def __init__(self, registry: CollectorRegistry, versions: VersionGauges) -> None:
        self._versions = versions
        self._declare_load(registry)
        self._declare_batches(registry)
        self._declare_sessions(registry)

    def model_loaded(self, model: ModelIdentity, load: ModelLoad) -> None:
        """Evaluate a version's load on each scrape; initialise its counters to zero."""
        labels = (model.name, model.version)
        for attribute, gauge in self._load.items():
            gauge.labels(*labels).set_function(partial(getattr, load, attribute))
        self._hung.labels(*labels).set(0)
        for reason in get_args(DropReason):
            self._images_dropped.labels(*labels, reason)
        self._out_of_memory.labels(*labels)
        self._session_rebuilds.labels(*labels)

    def model_released(self, name: str, version: str) -> None:
        """Remove a version's gauges; its counters stay."""
        for gauge in (*self._load.values(), self._hung):
            gauge.remove(name, version)

    def _declare_load(self, registry: CollectorRegistry) -> None:
        self._load = {
            "pending": Gauge(
                "vt_queue_depth",
                "Number of images admitted and not yet predicted.",
                VERSION,
                registry=registry,
            ),
            "executing": Gauge(
                "vt_inflight_batches",
                "Number of batches currently running.",
                VERSION,
                registry=registry,
            ),
            "oldest_wait_seconds": Gauge(
                "vt_queue_oldest_seconds",
                "Time the oldest image in the queue has been waiting.",
                VERSION,
                registry=registry,
            ),
            "predicted_wait_seconds": Gauge(
                "vt_predicted_wait_seconds",
                "Predicted wait of one more image.",
                VERSION,
                registry=registry,
            ),
        }
        """Gauges by the attribute of `ModelLoad` that they show."""

    def _declare_batches(self, registry: CollectorRegistry) -> None:
        self._size = Histogram(
            "vt_batch_size",
            "Number of images in a batch.",
            VERSION,
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self._fill = Histogram(
            "vt_batch_fill_ratio",
            "Images in a batch, as a fraction of its capacity.",
            VERSION,
            buckets=RATIOS,
            registry=registry,
        )
        self._dispatches = Counter(
            "vt_batch_dispatch_total",
            "Total number of batches dispatched, by reason.",
            (*VERSION, "reason"),
            registry=registry,
        )
        self._batches = cache(self._resolve)
        self._images_dropped = Counter(
            "vt_images_dropped_total",
            "Total number of images admitted but never run, by reason.",
            (*VERSION, "reason"),
            registry=registry,
        )

    def _resolve(
        self, name: str, version: str, reason: DispatchReason
    ) -> tuple[HistogramChild, HistogramChild, Counter]:
        return (
            self._size.labels(name, version),
            self._fill.labels(name, version),
            self._dispatches.labels(name, version, reason),
        )

    def batch_dispatched(
        self, model: ModelIdentity, batch_size: int, reason: DispatchReason, room: int
    ) -> None:
        """Count a batch."""
        sizes, fills, dispatches = self._batches(model.name, model.version, reason)
        sizes.observe(batch_size)
        fills.observe(batch_size / room)
        dispatches.inc()

    def images_dropped(self, model: ModelIdentity, images: int, reason: DropReason) -> None:
        """Count images that were never run."""
        self._images_dropped.labels(model.name, model.version, reason).inc(images)

    def _declare_sessions(self, registry: CollectorRegistry) -> None:
        self._out_of_memory = Counter(
            "vt_oom_total",
            "Total number of batches that did not fit in memory.",
            VERSION,
            registry=registry,
        )
        self._session_rebuilds = Counter(
            "vt_session_rebuilds_total",
            "Total number of sessions reopened after running out of memory.",
            VERSION,
            registry=registry,
        )
        self._hung = Gauge(
            "vt_hung", "1 while a batch hangs, otherwise 0.", VERSION, registry=registry
        )

    def ran_out_of_memory(self, model: ModelIdentity, max_batch_size: int) -> None:
        """Count and log a batch that did not fit in memory."""
        self._out_of_memory.labels(model.name, model.version).inc()
        _log.warning(
            "out_of_memory", model=model.name, version=model.version, max_batch_size=max_batch_size
        )

    def session_rebuilt(self, model: ModelIdentity, build: ModelBuild) -> None:
        """Count a reopened session, and show its execution provider."""
        self._session_rebuilds.labels(model.name, model.version).inc()
        self._versions.describe(model, build)

    def session_lost(self, model: ModelIdentity) -> None:
        """Show the model as unavailable."""
        self._versions.set_state(model.name, model.version, ModelState.UNAVAILABLE)

    def session_recovered(self, model: ModelIdentity) -> None:
        """Show the model as ready, and log it."""
        self._versions.set_state(model.name, model.version, ModelState.READY)
        _log.warning("session_recovered", model=model.name, version=model.version)

    def execution_hung(self, model: ModelIdentity, seconds: float) -> None:
        """Show the model as hung and unavailable, and log it."""
        self._hung.labels(model.name, model.version).set(1)
        self._versions.set_state(model.name, model.version, ModelState.UNAVAILABLE)
        _log.error(
            "execution_hung", model=model.name, version=model.version, seconds=round(seconds, 1)
        )

    def execution_recovered(self, model: ModelIdentity) -> None:
        """Show the model as ready, and log it."""
        self._hung.labels(model.name, model.version).set(0)
        self._versions.set_state(model.name, model.version, ModelState.READY)
        _log.warning("execution_recovered", model=model.name, version=model.version)
