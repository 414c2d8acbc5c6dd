"""Loads a version of a model, from its folder to a tested and warm `ModelInstance`."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from service.batching.instance import ModelInstance
from service.batching.plan import ExecutionPlan
from service.batching.token_sampler import TokenSampler
from service.errors import InferenceFailed, InvalidEntry
from service.repository.calibration import CalibrationCache, calibrate
from service.repository.candidate import Candidate, open_candidate
from service.repository.load_options import LoadOptions
from service.repository.opening import OpenSession
from service.repository.precision import AUTO, FP32
from service.repository.warm_up import Calibrate, plan_execution, self_test, warm_up
from service.runtime.device import Devices
from service.runtime.session import Session, expected_provider
from service.schema.contract import Contract
from service.telemetry.metrics import PrometheusMetrics

LoadInstance = Callable[..., Awaitable[ModelInstance]]
"""Load an instance; the arguments are those of `load_instance`."""


async def load_instance(
    folder: Path,
    contract: Contract,
    version: str,
    *,
    options: LoadOptions,
    devices: Devices,
    calibrations: CalibrationCache,
    metrics: PrometheusMetrics,
    calibrate: Calibrate = calibrate,
    open_session: OpenSession = Session,
    expected_provider: Callable[[str], str] = expected_provider,
) -> ModelInstance:
    """Open a version, test it and warm it up; raises `InvalidEntry` with the reason."""
    opening = partial(
        open_candidate,
        folder,
        contract,
        version,
        options=options,
        devices=devices,
        open_session=open_session,
        expected_provider=expected_provider,
    )
    candidate = await devices.opener.run(opening)
    try:
        await self_test(candidate, metrics.models)
        plan = await plan_execution(candidate, options, calibrations, calibrate)
        await warm_up(candidate, plan)
    except InvalidEntry as error:
        if options.precision != AUTO or candidate.choice.precision == FP32:
            raise
        raise InvalidEntry(f"{error}; try VT_PRECISION=fp32") from error
    except InferenceFailed as error:
        raise InvalidEntry("the graph cannot be run") from error
    return _instance(candidate, plan, options, metrics)


def _instance(
    candidate: Candidate, plan: ExecutionPlan, options: LoadOptions, metrics: PrometheusMetrics
) -> ModelInstance:
    contract, graph = candidate.contract, candidate.graph
    return ModelInstance(
        identity=candidate.identity,
        contract=contract,
        certificate=candidate.certificate,
        build=candidate.build(),
        sessions=graph.sessions,
        plan=plan,
        device=graph.device,
        max_batch_size=options.batch_limit(contract),
        max_queue_size=options.queue_limit(contract),
        events=metrics.batches,
        telemetry=metrics.inference.of(candidate.identity),
        head=candidate.head,
        tokens=_token_sampler(candidate, options, metrics),
    )


def _token_sampler(
    candidate: Candidate, options: LoadOptions, metrics: PrometheusMetrics
) -> TokenSampler:
    """Return the sampler of a version; its reference was measured on the same precision."""
    precision = candidate.certificate.precision(candidate.choice.precision)
    accuracies = precision.accuracies(candidate.graph.active_provider)
    reference = next((each.token_statistics for each in accuracies if each.token_statistics), {})
    return TokenSampler(
        candidate.contract,
        candidate.graph.device.workers,
        metrics.tokens.of(candidate.identity, reference),
        options.token_sample_seconds,
    )
