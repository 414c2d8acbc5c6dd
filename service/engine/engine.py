"""Predictions without a transport: models, batching, admission, telemetry and their lifespan."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import structlog

from service.engine.admission import Admission
from service.engine.base import AnyEngine
from service.engine.inference import ImageInference
from service.engine.parts import create_repository, create_shadow, observe
from service.engine.shadow import Shadow
from service.images.decode import ImageLimits
from service.repository.loading import LoadInstance, load_instance
from service.repository.repository import ModelRepository
from service.repository.version import ModelVersion
from service.repository.watch import RepositoryWatch
from service.runtime.container_limits import usable_cores
from service.runtime.device import Devices
from service.runtime.image_threads import ImageThreads
from service.schema.open_inference import ModelStatistics
from service.settings import Settings
from service.telemetry.loop_lag import watch_loop_lag
from service.telemetry.metrics import PrometheusMetrics

CLOSE_SECONDS = 2.0
"""Time to wait at shutdown for threads that are still opening or running a model."""

_log = structlog.get_logger()


class Engine(AnyEngine):
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
        super().__init__(
            admission=admission,
            inference=inference,
            metrics=metrics,
            shadow=shadow,
            max_images=max_images,
        )
        self.repository: ModelRepository = repository
        self.devices = devices
        self.watch = watch
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

    async def statistics(self, version: ModelVersion | None = None) -> list[ModelStatistics]:
        """See `AnyEngine.statistics`."""
        found = self.repository.instances() if version is None else [version.ready_instance()]
        return [each.telemetry.model_statistics() for each in found]

    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """See `AnyEngine.render_metrics`."""
        return self.metrics.render(accept)

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


def _log_failure(task: "asyncio.Task[None]") -> None:
    """Log the failure of a background task at once, since nothing awaits the task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("background_task_failed", exc_info=error)
