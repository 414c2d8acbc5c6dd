"""Metrics of prediction requests, and of the images in them."""

from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import get_args

from prometheus_client import CollectorRegistry, Counter

from service.errors import Outcome
from service.schema.open_inference import ModelStatistics
from service.schema.vocabulary import Task
from service.telemetry.events import ModelIdentity, Prediction
from service.telemetry.metrics.buckets import SECONDS, VERSION
from service.telemetry.metrics.histogram import Histogram
from service.telemetry.statistics import Statistics
from service.telemetry.timings import Timings

CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BYTES = (1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6)
PIXELS = (1e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2.5e7, 5e7)


class InferenceMetrics:
    """Implements `InferenceEvents`, and makes the `VersionTelemetry` of each loaded version."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._unavailable: Counts[tuple[str, str]] = Counts()
        self._declare_requests(registry)
        self._declare_images(registry)

    def _declare_requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "vt_inference_requests_total",
            "Total number of prediction requests for existing models, by outcome.",
            (*VERSION, "task", "outcome"),
            registry=registry,
        )
        self.images = Counter(
            "vt_inference_images_total",
            "Total number of images predicted.",
            VERSION,
            registry=registry,
        )
        self.stages = Histogram(
            "vt_stage_duration_seconds",
            "Time of a prediction request in each stage.",
            ("model", "stage"),
            buckets=SECONDS,
            registry=registry,
        )
        self.request_bytes = Histogram(
            "vt_request_bytes",
            "Size of the bodies of successful requests.",
            ("model",),
            buckets=BYTES,
            registry=registry,
        )
        self.response_bytes = Histogram(
            "vt_response_bytes",
            "Size of the bodies of successful requests' responses.",
            ("model",),
            buckets=BYTES,
            registry=registry,
        )

    def _declare_images(self, registry: CollectorRegistry) -> None:
        self.pixels = Histogram(
            "vt_image_pixels",
            "Number of pixels of an image as sent.",
            ("model",),
            buckets=PIXELS,
            registry=registry,
        )
        self.confidence = Histogram(
            "vt_prediction_confidence",
            "Probability (softmax) of the most likely class of an image.",
            VERSION,
            buckets=CONFIDENCES,
            registry=registry,
        )
        self.classes = Counter(
            "vt_predicted_classes_total",
            "Total number of images predicted, by class; "
            "an image with several classes counts towards each by its share.",
            (*VERSION, "label"),
            registry=registry,
        )

    def of(self, model: ModelIdentity) -> "VersionTelemetry":
        """Return the telemetry of a version; each loaded instance needs its own."""
        return VersionTelemetry(self, model)

    def model_loaded(self, model: ModelIdentity) -> None:
        """Initialise the counters of a version: a rate misses the first value of a new series."""
        for outcome in get_args(Outcome):
            self.requests.labels(model.name, model.version, model.task, outcome)

    def inference_unavailable(self, name: str, version: str, task: Task | None) -> None:
        """Count a request for a version that is not ready."""
        outcome: Outcome = "unavailable"
        self.requests.labels(name, version, task or "", outcome).inc()
        self._unavailable[name, version] += 1

    def take_unavailable(self) -> list[tuple[str, str, int]]:
        """Return those counts as a list, and begin again at zero."""
        counts = [(*key, count) for key, count in self._unavailable.items()]
        self._unavailable.clear()
        return counts

    def add_unavailable(self, name: str, version: str, count: int) -> None:
        """Add what another process has counted."""
        self._unavailable[name, version] += count

    def unavailable(self) -> Mapping[tuple[str, str], int]:
        """Return the number of requests for versions that were not ready, by model and version."""
        return self._unavailable


class VersionTelemetry:
    """Counts the requests of one loaded version, for Prometheus and for its `statistics`.

    The child of each metric is looked up by its labels once, on first use. Only the event loop
    may use it.
    """

    def __init__(self, metrics: InferenceMetrics, model: ModelIdentity) -> None:
        self.statistics = Statistics()
        self._identity = model
        name, version = model.name, model.version
        self.requests = cache(partial(metrics.requests.labels, name, version, model.task))
        self.images = cache(partial(metrics.images.labels, name, version))
        self.stages = cache(partial(metrics.stages.labels, name))
        self.request_bytes = cache(partial(metrics.request_bytes.labels, name))
        self.response_bytes = cache(partial(metrics.response_bytes.labels, name))
        self.pixels = cache(partial(metrics.pixels.labels, name))
        self.confidence = cache(partial(metrics.confidence.labels, name, version))
        self.classes = cache(partial(metrics.classes.labels, name, version))

    def model_statistics(self) -> ModelStatistics:
        """Return the statistics of the version since it was loaded."""
        return self.statistics.wire(self._identity.name, self._identity.version)

    def finished(
        self,
        outcome: Outcome,
        timings: Timings,
        images: int = 0,
        *,
        request_bytes: int = 0,
        response_bytes: int | None = None,
        predictions: Sequence[Prediction] = (),
    ) -> None:
        """Count a request, whatever its outcome; call it once per request.

        `images` is the number of images predicted. The sizes of the bodies, if there are any, and
        the predictions count only if the outcome is "ok".
        """
        stages = timings.stages()
        self.statistics.answered(outcome, images, stages)
        self.requests(outcome).inc()
        self.images().inc(images)
        for stage, seconds in stages.items():
            self.stages(stage).observe(seconds)
        if outcome == "ok":
            if response_bytes is not None:
                self.request_bytes().observe(request_bytes)
                self.response_bytes().observe(response_bytes)
            self.predicted(predictions)

    def predicted(self, predictions: Sequence[Prediction]) -> None:
        """Count images and their predictions; the images of a shadow do not belong to a request."""
        for pixels, shares, confidence in predictions:
            self.pixels().observe(pixels)
            for label, share in shares.items():
                self.classes(label).inc(share)
            if confidence is not None:
                self.confidence().observe(confidence)
