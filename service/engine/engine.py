"""Predictions without a transport: models, batching, admission, telemetry and their lifespan."""

import asyncio
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

import structlog

from service.engine.admission import Admission
from service.engine.call import Call, CallParts
from service.engine.classify import classify
from service.engine.inference import ImageInference
from service.engine.parts import create_repository, create_shadow, observe
from service.engine.segment import MaskFormat, segment
from service.engine.shadow import Shadow
from service.images.decode import ImageLimits
from service.repository.loading import LoadInstance, load_instance
from service.repository.repository import ModelRepository
from service.repository.version import ModelVersion
from service.repository.watch import RepositoryWatch
from service.runtime.container_limits import usable_cores
from service.runtime.device import Devices
from service.runtime.image_threads import ImageThreads
from service.schema.predictions import ClassifyResponse, SegmentResponse
from service.schema.vocabulary import Task
from service.settings import Settings
from service.telemetry.loop_lag import watch_loop_lag
from service.telemetry.metrics import PrometheusMetrics

CLOSE_SECONDS = 2.0
"""How long to wait for threads that still open or run a model when everything else has ended."""

_log = structlog.get_logger()


class Engine:
    """Owns the model repository and whatever runs its models.

    HTTP attaches to it, and so can anything else that runs on an event loop:

        async with Engine.from_settings(Settings()) as engine:
            result = await engine.classify([photo_bytes], top_k=3)

    Errors are those of the tree in `service.errors`.
    """

    def __init__(
        self,
        *,
        repository: ModelRepository,
        devices: Devices,
        admission: Admission,
        inference: ImageInference,
        metrics: PrometheusMetrics,
        shadow: Shadow | None = None,
        watch: RepositoryWatch | None = None,
        max_images: int,
    ) -> None:
        self.repository = repository
        self.devices = devices
        self.admission = admission
        self.metrics = metrics
        self.image_threads = inference.pool
        self.max_images = max_images
        self.shadow = shadow
        self.watch = watch
        self._calls = CallParts(admission, inference, metrics.inference, shadow, max_images)
        self._tasks: list[asyncio.Task[None]] = []
        self._loaded = asyncio.Event()

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        cores: int | None = None,
        load_instance: LoadInstance = load_instance,
    ) -> Self:
        """Join the parts; raises `InvalidConfiguration` if there is nothing to serve.

        `cores` is by default the number that the process may use.
        """
        cores = cores or usable_cores()
        metrics = PrometheusMetrics()
        devices = Devices(cores, len(settings.gpu_devices))
        repository = create_repository(settings, devices, metrics, load_instance)
        pool = ImageThreads(settings.image_threads or cores)
        limits = ImageLimits(settings.max_image_pixels)
        inference = ImageInference(pool, limits)
        admission = Admission(
            settings.max_concurrent_requests,
            settings.default_timeout_seconds,
            settings.max_body_bytes,
        )
        observe(metrics, admission, repository, triton_names=settings.metrics_triton_names)
        poll_seconds = settings.repository_poll_seconds
        return cls(
            repository=repository,
            devices=devices,
            admission=admission,
            inference=inference,
            metrics=metrics,
            shadow=create_shadow(settings, repository, inference, metrics),
            watch=RepositoryWatch(repository, poll_seconds) if poll_seconds else None,
            max_images=settings.max_images_per_request,
        )

    async def __aenter__(self) -> Self:
        """Load the models; those that cannot be loaded are logged and `UNAVAILABLE`."""
        self.start()
        await self.loaded()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close everything."""
        await self.close()
        await asyncio.to_thread(self.devices.close, CLOSE_SECONDS)

    def start(self) -> None:
        """Begin to load the models, in the background."""
        self._run(self._load_and_watch())
        self._run(watch_loop_lag(self.metrics.server.loop_lagged))

    async def loaded(self) -> None:
        """Wait until every model was loaded, or could not be."""
        await self._loaded.wait()

    async def close(self) -> None:
        """Take no more calls, let the last batches end, and free the memory."""
        self.admission.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.shadow is not None:
            await self.shadow.close()
        await asyncio.to_thread(self.image_threads.close)
        await self.repository.close()

    def call(
        self,
        version: ModelVersion,
        timeout_seconds: float | None = None,
        *,
        came_before_drain: bool = False,
    ) -> Call:
        """Return a call to a version that the repository has found; enter it with `async with`."""
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
        """Return the likeliest classes of each image file, the likeliest first.

        The model may be left out if one does the task, the version means the newest that is ready.

        Raises `ServiceError`: which one says what happened, and what to do.
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
        timeout_seconds: float | None = None,
    ) -> SegmentResponse:
        """Return the areas of each image file's classes, and its mask; as `classify` otherwise."""
        found = self.repository.find(Task.SEGMENTATION, model, version)
        async with self.call(found, timeout_seconds) as call:
            _take(call, images)
            return await segment(call, self.image_threads, images, mask)

    async def _load_and_watch(self) -> None:
        try:
            await self.repository.load_all()
        finally:
            self._loaded.set()
        if self.watch is not None:
            await self.watch.run()

    def _run(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        task.add_done_callback(_log_failure)
        self._tasks.append(task)
        return task


def _take(call: Call, images: Sequence[bytes]) -> None:
    """Count the images' bytes and a place, as a transport does once a body has arrived."""
    call.take_bytes(sum(map(len, images)))
    call.take_place()


def _log_failure(task: "asyncio.Task[None]") -> None:
    """Log at once what ended a background task: nothing waits for it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("background_task_failed", exc_info=error)
