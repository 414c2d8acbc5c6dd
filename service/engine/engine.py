"""Predictions without a transport: models, batching, admission, telemetry and their lifespan."""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog

from service.batching.instance import ModelInstance
from service.engine.admission import Admission
from service.engine.call import Call, CallParts
from service.engine.classify import classify
from service.engine.inference import ImageInference
from service.engine.segment import MaskFormat, segment
from service.engine.shadow import Shadow
from service.images.decode import ImageLimits
from service.repository.calibration import CalibrationCache
from service.repository.load_options import LoadOptions
from service.repository.loading import LoadInstance, load_instance
from service.repository.repository import ModelRepository
from service.repository.version import ModelVersion
from service.repository.watch import RepositoryWatch
from service.runtime.container_limits import memory_limit_bytes, usable_cores
from service.runtime.device import Devices
from service.runtime.execution_providers import GpuOptions
from service.runtime.image_threads import ImageThreads
from service.schema.predictions import ClassifyResponse, SegmentResponse
from service.schema.vocabulary import Task
from service.settings import Settings
from service.telemetry.gpu import find_gpus
from service.telemetry.gpu_metrics import add_gpu_metrics
from service.telemetry.loop_lag import watch_loop_lag
from service.telemetry.metrics import PrometheusMetrics
from service.telemetry.triton_names import add_triton_names

CLOSE_SECONDS = 2.0
"""Time to wait at shutdown for threads that are still opening or running a model."""

_log = structlog.get_logger()


class Engine:
    """Owns the model repository and everything that runs its models.

    HTTP attaches to it, and so can anything else that runs on an event loop:

        async with Engine.from_settings(Settings()) as engine:
            result = await engine.classify([photo_bytes], top_k=3)

    It raises the errors of the tree in `service.errors`.
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

        `cores` defaults to the number of cores that the process may use.
        """
        cores = cores or usable_cores()
        metrics = PrometheusMetrics()
        devices = Devices(cores, len(settings.gpu_devices))
        repository = _repository(settings, devices, metrics, load_instance)
        pool = ImageThreads(settings.image_threads or cores)
        limits = ImageLimits(settings.max_image_pixels)
        inference = ImageInference(pool, limits)
        admission = Admission(
            settings.max_concurrent_requests,
            settings.default_timeout_seconds,
            settings.max_body_bytes,
        )
        _observe(metrics, admission, repository, triton_names=settings.metrics_triton_names)
        poll_seconds = settings.repository_poll_seconds
        return cls(
            repository=repository,
            devices=devices,
            admission=admission,
            inference=inference,
            metrics=metrics,
            shadow=_shadow(settings, repository, inference, metrics),
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
        """Start loading the models, in the background."""
        self._run(self._load_and_watch())
        self._run(watch_loop_lag(self.metrics.server.loop_lagged))

    async def loaded(self) -> None:
        """Wait until every model has been loaded or has failed to load."""
        await self._loaded.wait()

    async def close(self) -> None:
        """Reject new calls, let the last batches end, and free the memory."""
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
        timeout_seconds: float | None = None,
    ) -> SegmentResponse:
        """Return the class areas and the mask of each image file; otherwise like `classify`."""
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
    """Reserve the images' bytes and a place, as a transport does for a body."""
    call.take_bytes(sum(map(len, images)))
    call.take_place()


def _log_failure(task: "asyncio.Task[None]") -> None:
    """Log the failure of a background task at once, since nothing awaits the task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("background_task_failed", exc_info=error)


def _observe(
    metrics: PrometheusMetrics,
    admission: Admission,
    repository: ModelRepository,
    *,
    triton_names: bool,
) -> None:
    """Read the state of the server, its GPUs and, if enabled, Triton's metrics on each scrape."""
    metrics.server.observe(
        ready=lambda: not (admission.stopping or repository.not_ready()),
        in_flight=lambda: admission.in_flight,
        receiving=lambda: admission.receiving,
        memory_bytes=memory_limit_bytes(),
    )
    add_gpu_metrics(metrics.registry, find_gpus(), triton_names=triton_names)
    if triton_names:
        add_triton_names(metrics.registry, repository.instances, metrics.inference.unavailable)


def _repository(
    settings: Settings, devices: Devices, metrics: PrometheusMetrics, load_instance: LoadInstance
) -> ModelRepository:
    load_version = partial(
        load_instance,
        options=_load_options(settings),
        devices=devices,
        calibrations=CalibrationCache(settings.calibration_folder),
        metrics=metrics,
    )
    return ModelRepository(
        settings.model_repository,
        load_version,
        metrics.models,
        policy=settings.version_policy,
        shadow=settings.shadow,
        drain_seconds=settings.default_timeout_seconds,
    )


def _load_options(settings: Settings) -> LoadOptions:
    return LoadOptions(
        execution_providers=settings.execution_providers,
        require_provider=settings.require_provider,
        gpu_devices=settings.gpu_devices,
        gpu=GpuOptions(
            memory_limit_bytes=settings.gpu_memory_limit_bytes,
            tensorrt_cache=settings.tensorrt_cache_folder,
        ),
        precision=settings.precision,
        intra_op_num_threads=settings.intra_op_num_threads,
        max_batch_size=settings.max_batch_size,
        max_queue_size=settings.max_queue_size,
        max_queue_delay_microseconds=settings.max_queue_delay_microseconds,
        max_batch_seconds=settings.max_batch_seconds,
    )


def _shadow(
    settings: Settings,
    repository: ModelRepository,
    inference: ImageInference,
    metrics: PrometheusMetrics,
) -> Shadow | None:
    if settings.shadow is None:
        return None

    def find(model: str, version: str) -> ModelInstance:
        return repository.get(model, version).ready_instance()

    return Shadow(settings.shadow, find, inference, metrics.shadow)
