"""The application: the only place where the parts are joined."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute

from service import __version__
from service.api_keys import ApiKeys
from service.batching.instance import ModelInstance
from service.engine.admission import Admission
from service.engine.inference import Classifier, PhotoInference, Segmenter
from service.engine.shadow import Shadow
from service.errors import InvalidConfiguration
from service.file_watch import FileWatch
from service.http.middleware.authorization import AccessRules, Authorization, is_loopback
from service.http.middleware.boundary import Boundary
from service.http.middleware.cors import Cors
from service.http.middleware.fast_path import DirectRoutes
from service.http.middleware.head import HeadRequests
from service.http.middleware.local_key import LocalKey
from service.http.routes.description import DescribedApp
from service.http.routes.errors import add_error_handlers
from service.http.routes.infer import InferRoutes
from service.http.routes.metrics import MetricsPort, MetricsRoutes
from service.http.routes.open_inference import OpenInferenceRoutes
from service.http.routes.operations import OperationsRoutes
from service.http.routes.predict import PredictRoutes
from service.http.routes.repository import RepositoryRoutes
from service.http.routes.request_body import BodyLimits
from service.http.routes.serving import Serving
from service.images.decode import ImageLimits
from service.repository.calibration import CalibrationCache
from service.repository.loading import LoadOptions, load_instance
from service.repository.repository import ModelRepository
from service.repository.watch import RepositoryWatch
from service.runtime.container_limits import memory_limit_bytes, usable_cores
from service.runtime.device import Devices
from service.runtime.execution_providers import GpuOptions
from service.runtime.image_threads import ImageThreads
from service.settings import Settings
from service.telemetry.gpu import find_gpus
from service.telemetry.gpu_metrics import add_gpu_metrics
from service.telemetry.loop_lag import watch_loop_lag
from service.telemetry.metrics import PrometheusMetrics
from service.telemetry.triton_names import add_triton_names

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

_log = structlog.get_logger()


@dataclass(frozen=True)
class Parts:
    """What lives as long as the application does."""

    devices: Devices
    repository: ModelRepository
    watch: RepositoryWatch | None
    keys: ApiKeys | None
    local_key: LocalKey | None
    pool: ImageThreads
    admission: Admission
    inference: PhotoInference
    shadow: Shadow | None
    metrics: PrometheusMetrics
    tracing: "Tracing | None"


def create_app(settings: Settings) -> FastAPI:
    """Join the parts; raises `InvalidConfiguration` where there is nothing to serve."""
    parts = _create_parts(settings)
    rules = AccessRules(
        keys=parts.keys,
        local_key=parts.local_key,
        metadata_needs_key=settings.require_key_for_metadata,
    )
    app = DescribedApp(
        rules,
        title="vt-serve",
        version=__version__,
        summary="Visual Transformer models behind HTTP.",
        lifespan=partial(_lifespan, parts),
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.parts = parts
    predict, infer = _prediction_routes(parts, settings)
    predict_router = predict.router()
    metrics_router = MetricsRoutes(parts.metrics.render).router()
    has_metrics = settings.metrics_port is None
    routers = [
        predict_router,
        OpenInferenceRoutes(parts.repository, parts.admission).router(),
        infer.router(),
        RepositoryRoutes(parts.repository, settings.body_timeout_seconds).router(),
        OperationsRoutes(parts.repository, has_metrics=has_metrics).router(),
        *([metrics_router] if has_metrics else []),
    ]
    routes = _include(app, routers)
    add_error_handlers(app)
    app.add_middleware(DirectRoutes, routes=predict.direct(predict_router))
    if settings.metrics_port is not None:
        metrics = _metrics_app(metrics_router)
        app.add_middleware(MetricsPort, metrics=metrics, port=settings.metrics_port)
        routes += metrics_router.routes
    app.add_middleware(Authorization, rules=rules, events=parts.metrics, routes=routes)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(HeadRequests)
    app.add_middleware(
        Boundary,
        events=parts.metrics,
        max_body_bytes=settings.max_body_bytes,
        tracer=parts.tracing,
    )
    return app


def _include(app: FastAPI, routers: Sequence[APIRouter]) -> list[BaseRoute]:
    """Add routers to an application; return all its routes, those of the description too."""
    routes = [*app.routes, *(route for router in routers for route in router.routes)]
    for router in routers:
        app.include_router(router)
    return routes


def _metrics_app(router: APIRouter) -> FastAPI:
    """Make what answers on the metrics' own port."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.include_router(router)
    add_error_handlers(app)
    return app


def _create_parts(settings: Settings) -> Parts:
    cores = usable_cores()
    metrics = PrometheusMetrics()
    devices = Devices(cores, len(settings.gpu_devices))
    repository = _create_repository(settings, devices, metrics)
    poll_seconds = settings.repository_poll_seconds
    pool = ImageThreads(settings.image_threads or cores)
    admission = Admission(
        settings.max_concurrent_requests, settings.default_timeout_seconds, settings.max_body_bytes
    )
    inference = PhotoInference(pool, ImageLimits(settings.max_image_pixels), metrics)
    metrics.observe_server(
        ready=lambda: not (admission.stopping or repository.not_ready()),
        in_flight=lambda: admission.in_flight,
        receiving=lambda: admission.receiving,
        memory_bytes=memory_limit_bytes(),
    )
    add_gpu_metrics(metrics.registry, find_gpus(), triton_names=settings.metrics_triton_names)
    if settings.metrics_triton_names:
        add_triton_names(metrics.registry, repository.instances, metrics.unavailable)
    return Parts(
        devices=devices,
        repository=repository,
        watch=RepositoryWatch(repository, poll_seconds) if poll_seconds else None,
        keys=ApiKeys(settings.api_keys_file, metrics) if settings.api_keys_file else None,
        local_key=_create_local_key(settings),
        pool=pool,
        admission=admission,
        inference=inference,
        shadow=_create_shadow(settings, repository, inference, metrics),
        metrics=metrics,
        tracing=_create_tracing(settings),
    )


def _create_local_key(settings: Settings) -> LocalKey | None:
    """Without API keys, the user who runs the server may change models, unless others reach it."""
    if settings.api_keys_file is not None or not is_loopback(settings.host):
        return None
    return LocalKey(settings.local_key_file, settings.port)


def _create_shadow(
    settings: Settings,
    repository: ModelRepository,
    inference: PhotoInference,
    metrics: PrometheusMetrics,
) -> Shadow | None:
    if settings.shadow is None:
        return None

    def find(model: str, version: str) -> ModelInstance:
        return repository.get(model, version).ready_instance()

    return Shadow(settings.shadow, find, inference, metrics)


def _create_tracing(settings: Settings) -> "Tracing | None":
    """OpenTelemetry's SDK is imported only if it is wanted."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from service.telemetry.tracing import Tracing  # noqa: PLC0415
    except ImportError as error:
        raise InvalidConfiguration(
            "VT_OTLP_ENDPOINT needs OpenTelemetry: pip install 'vt-serve[tracing]'."
        ) from error
    return Tracing(str(settings.otlp_endpoint), settings.trace_sample_ratio)


def _create_repository(
    settings: Settings, devices: Devices, metrics: PrometheusMetrics
) -> ModelRepository:
    load_version = partial(
        load_instance,
        options=_load_options(settings),
        devices=devices,
        calibrations=CalibrationCache(settings.calibration_folder),
        events=metrics,
    )
    return ModelRepository(
        settings.model_repository,
        load_version,
        metrics,
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


def _prediction_routes(parts: Parts, settings: Settings) -> tuple[PredictRoutes, InferRoutes]:
    inference = parts.inference
    body = BodyLimits(settings.max_body_bytes, settings.body_timeout_seconds)
    serving = Serving(parts.admission, body, parts.metrics, parts.pool, parts.shadow)
    predict = PredictRoutes(
        repository=parts.repository,
        classifier=Classifier(inference),
        segmenter=Segmenter(inference),
        pool=parts.pool,
        serving=serving,
        max_images=settings.max_images_per_request,
    )
    infer = InferRoutes(
        repository=parts.repository,
        inference=inference,
        pool=parts.pool,
        serving=serving,
        max_images=settings.max_images_per_request,
    )
    return predict, infer


@asynccontextmanager
async def _lifespan(parts: Parts, _app: FastAPI) -> AsyncIterator[None]:
    """Load the models while the server listens; close everything when it stops."""
    with parts.local_key.written() if parts.local_key else nullcontext():
        async with _serving(parts):
            yield


@asynccontextmanager
async def _serving(parts: Parts) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(_load_and_watch(parts)),
        asyncio.create_task(watch_loop_lag(parts.metrics.loop_lagged)),
    ]
    if parts.keys is not None:
        tasks.append(asyncio.create_task(FileWatch([parts.keys.path], parts.keys.reload).run()))
    for task in tasks:
        task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if parts.shadow is not None:
            await parts.shadow.close()
        await asyncio.to_thread(parts.pool.close)
        await parts.repository.close()
        if parts.tracing is not None:
            await asyncio.to_thread(parts.tracing.close)


def _tell_failure(task: "asyncio.Task[None]") -> None:
    """Log at once what ended a task of the background: nobody waits for it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("background_task_failed", exc_info=error)


async def _load_and_watch(parts: Parts) -> None:
    await parts.repository.load_all()
    if parts.watch is not None:
        await parts.watch.run()
