"""The engine as transports use it, whether it runs in their process or in another one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from service.engine.admission import Admission
from service.engine.call import Call, CallParts
from service.engine.classify import classify
from service.engine.embed import Embeddings, embed
from service.engine.explain import ExplainOptions, explain
from service.engine.inference import ImageInference
from service.engine.segment import segment
from service.engine.segment_options import (
    DEFAULT_TOLERANCE,
    Confidence,
    Coordinates,
    Edges,
    MaskFormat,
    SegmentOptions,
)
from service.engine.shadow import Shadow
from service.repository.catalog import Catalog
from service.repository.version import ModelVersion
from service.schema.open_inference import ModelStatistics
from service.schema.predictions import ClassifyResponse, ExplainResponse, SegmentResponse
from service.schema.vocabulary import Task
from service.telemetry.metrics import PrometheusMetrics


class AnyEngine(ABC):
    """Finds models, admits and makes predictions; raises the errors of `service.errors`."""

    repository: Catalog[Any]

    def __init__(
        self,
        *,
        admission: Admission,
        inference: ImageInference,
        metrics: PrometheusMetrics,
        shadow: Shadow | None = None,
        max_images: int,
    ) -> None:
        self.admission = admission
        self.metrics = metrics
        self.image_threads = inference.pool
        self.max_images = max_images
        self.shadow = shadow
        self._calls = CallParts(admission, inference, metrics.inference, shadow, max_images)

    @abstractmethod
    def start(self) -> None:
        """Start the work in the background; the models load meanwhile."""

    @abstractmethod
    async def close(self) -> None:
        """Reject new calls, let the last batches end, and free the memory."""

    def not_ready(self) -> list[str]:
        """Return why the server is not ready; nothing if it is."""
        return [version.describe() for version in self.repository.not_ready()]

    @abstractmethod
    async def statistics(self, version: ModelVersion | None = None) -> list[ModelStatistics]:
        """Return the statistics of a loaded version, by default of all, since it was loaded."""

    @abstractmethod
    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the text format that a scraper accepts, and its content type."""

    def call(
        self,
        version: ModelVersion,
        timeout_seconds: float | None = None,
        *,
        came_before_drain: bool = False,
    ) -> Call:
        """Return a call to a version of the repository, to be entered with `async with`."""
        return Call(self._calls, version, timeout_seconds, came_before_drain=came_before_drain)

    async def classify(
        self,
        images: Sequence[bytes],
        *,
        model: str | None = None,
        version: str | None = None,
        top_k: int = 5,
        timeout_seconds: float | None = None,
    ) -> ClassifyResponse:
        """Return the most likely classes of each image file, most likely first.

        `model` may be omitted if only one model performs the task; without `version`, the newest
        ready version is used. Raises a `ServiceError` whose message says what happened and what to
        do.
        """
        found = self.repository.find(Task.CLASSIFICATION, model, version)
        async with self.call(found, timeout_seconds) as call:
            _take(call, images)
            return await classify(call, images, top_k)

    async def segment(
        self,
        images: Sequence[bytes],
        *,
        model: str | None = None,
        version: str | None = None,
        mask: MaskFormat = "png",
        edges: Edges | None = None,
        classes: Sequence[str] | None = None,
        confidence: Confidence = "none",
        tolerance: float = DEFAULT_TOLERANCE,
        coordinates: Coordinates = "pixels",
        timeout_seconds: float | None = None,
    ) -> SegmentResponse:
        """Return the class areas and the mask of each image file; otherwise like `classify`.

        `SegmentOptions` explains the options.
        """
        options = SegmentOptions(mask, edges, classes, confidence, tolerance, coordinates)
        found = self.repository.find(Task.SEGMENTATION, model, version)
        async with self.call(found, timeout_seconds) as call:
            _take(call, images)
            return await segment(call, self.image_threads, images, options)

    async def explain(
        self,
        images: Sequence[bytes],
        *,
        model: str | None = None,
        version: str | None = None,
        top_k: int = 5,
        class_name: str | None = None,
        timeout_seconds: float | None = None,
    ) -> ExplainResponse:
        """Return where the visual tokens look in each image file; otherwise like `classify`.

        `class_name` is the label or index of the class whose contributions are given, by default
        the most likely. `model` may be omitted if there is only one.
        """
        found = self.repository.find(None, model, version)
        async with self.call(found, timeout_seconds) as call:
            _take(call, images)
            options = ExplainOptions(top_k, class_name)
            return await explain(call, self.image_threads, images, options)

    async def embed(
        self,
        images: Sequence[bytes],
        *,
        model: str | None = None,
        version: str | None = None,
        normalize: bool = False,
        tokens: bool = False,
        timeout_seconds: float | None = None,
    ) -> Embeddings:
        """Return a vector for each image file, FP32 [photos, channels]; otherwise like `explain`.

        With `tokens`, return those of all final tokens: [photos, tokens, channels].
        """
        found = self.repository.find(None, model, version)
        async with self.call(found, timeout_seconds) as call:
            _take(call, images)
            return await embed(call, images, normalize=normalize, tokens=tokens)


def _take(call: Call, images: Sequence[bytes]) -> None:
    """Reserve the images' bytes and a place, as a transport does for a body."""
    call.take_bytes(sum(map(len, images)))
    call.take_place()
