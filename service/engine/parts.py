"""Builds the parts of an engine from the settings."""

from functools import partial

from service.batching.interface import Instance
from service.engine.admission import Admission
from service.engine.inference import ImageInference
from service.engine.shadow import Shadow
from service.repository.calibration import CalibrationCache
from service.repository.load_options import LoadOptions
from service.repository.loading import LoadInstance
from service.repository.repository import ModelRepository
from service.runtime.container_limits import memory_limit_bytes
from service.runtime.device import Devices
from service.runtime.execution_providers import GpuOptions
from service.settings import Settings
from service.telemetry.gpu import find_gpus
from service.telemetry.gpu_metrics import add_gpu_metrics
from service.telemetry.metrics import PrometheusMetrics
from service.telemetry.triton_names import add_triton_names


def observe(
    metrics: PrometheusMetrics,
    admission: Admission,
    repository: ModelRepository,
    *,
    triton_names: bool,
) -> None:
    """Evaluate gauges of the server, its GPUs and Triton's names, if enabled, on each scrape."""
    metrics.server.observe(
        ready=lambda: not (admission.stopping or repository.not_ready()),
        in_flight=lambda: admission.in_flight,
        receiving=lambda: admission.receiving,
        memory_bytes=memory_limit_bytes(),
    )
    add_gpu_metrics(metrics.registry, find_gpus(), triton_names=triton_names)
    if triton_names:
        add_triton_names(metrics.registry, repository.instances, metrics.inference.unavailable)


def create_repository(
    settings: Settings, devices: Devices, metrics: PrometheusMetrics, load_instance: LoadInstance
) -> ModelRepository:
    """Return the repository; `load_instance` loads its versions."""
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
        token_sample_seconds=settings.token_sample_seconds,
    )


def create_shadow(
    settings: Settings,
    repository: ModelRepository,
    inference: ImageInference,
    metrics: PrometheusMetrics,
) -> Shadow | None:
    """Return the shadow, if one is configured."""
    if settings.shadow is None:
        return None

    def find(model: str, version: str) -> Instance:
        return repository.get(model, version).ready_instance()

    return Shadow(settings.shadow, find, inference, metrics.shadow)
