"""From a folder to a warm `ModelInstance`: precision, hashes, signature, self-test, calibration."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import structlog

from service.batching.instance import ModelInstance
from service.batching.plan import (
    ENOUGH_THROUGHPUT,
    ENOUGH_THROUGHPUT_ON_CPU,
    ExecutionPlan,
    choose_widths,
)
from service.errors import InferenceFailed, InvalidEntry
from service.repository.calibration import (
    Bench,
    CalibrationCache,
    calibrate,
    run_on_each,
    thread_counts,
)
from service.repository.golden_check import GoldenInput, compare, read_golden
from service.repository.precision import AUTO, FP32, PrecisionChoice, choose_precision
from service.runtime.device import Devices, describe_device
from service.runtime.execution_providers import (
    CPU,
    PROVIDERS,
    GpuOptions,
    ProviderName,
    ShapeProfile,
)
from service.runtime.graph_sessions import GraphSessions, Runnable, SessionGroup, run_batch
from service.runtime.io_binding import padded
from service.runtime.session import Array, Session, expected_provider
from service.schema.certificate import Certificate, PrecisionRecord
from service.schema.contract import Contract
from service.schema.files import read_certificate, read_certified
from service.schema.model_status import Accuracy, Measurement
from service.schema.vocabulary import MetadataTensor
from service.telemetry.events import Events, ModelBuild, ModelIdentity

_log = structlog.get_logger()


@dataclass(frozen=True)
class LoadOptions:
    """The operator's choices about models."""

    execution_providers: str
    precision: str = AUTO
    intra_op_num_threads: int | None = None
    max_batch_size: int | None = None
    max_queue_size: int | None = None
    max_queue_delay_microseconds: int | None = None
    max_batch_seconds: float = 0.2
    """How long a batch of more than one image may take, by the calibration."""
    require_provider: ProviderName | None = None
    """The execution provider without which nothing is served."""
    gpu_devices: tuple[int, ...] = (0,)
    gpu: GpuOptions = field(default_factory=GpuOptions)


class OnProvider(Protocol):
    """What runs on an execution provider."""

    active_provider: str


Opened = TypeVar("Opened", bound=OnProvider)


@dataclass(frozen=True)
class _Candidate:
    """A version whose sessions are open, before they were tested."""

    contract: Contract
    certificate: Certificate
    choice: PrecisionChoice
    graph: "_Graph"
    golden: list[GoldenInput]

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(self.contract.name, self.certificate.version, self.contract.task)

    @property
    def sessions(self) -> list[Runnable]:
        """Every session, those on several GPUs one by one; the narrowest comes first."""
        return [session for _, session in self.graph.sessions.each()]


async def load_instance(
    folder: Path,
    contract: Contract,
    version: str,
    *,
    options: LoadOptions,
    devices: Devices,
    calibrations: CalibrationCache,
    events: Events,
) -> ModelInstance:
    """Load a version and test it; raises `InvalidEntry` with the reason.

    Whatever is run takes turns on the device with the models that serve.
    """
    opening = partial(_open, folder, contract, version, options, devices)
    candidate = await devices.opener.run(opening)
    choice = candidate.choice
    try:
        await _self_test(candidate, events)
        plan = await _calibrated(candidate, options, calibrations)
        await _warm_up(candidate, plan)
    except InvalidEntry as error:
        if options.precision != AUTO or choice.precision == FP32:
            raise
        raise InvalidEntry(f"{error}; VT_PRECISION=fp32 can be tried") from error
    except InferenceFailed as error:
        raise InvalidEntry("the graph cannot be run") from error
    return ModelInstance(
        identity=candidate.identity,
        contract=contract,
        certificate=candidate.certificate,
        build=_build(candidate),
        sessions=candidate.graph.sessions,
        plan=plan,
        device=candidate.graph.device,
        max_batch_size=_max_batch_size(options, contract),
        max_queue_size=options.max_queue_size or contract.dynamic_batching.max_queue_size,
        events=events,
    )


def _open(
    folder: Path, contract: Contract, version: str, options: LoadOptions, devices: Devices
) -> _Candidate:
    certificate = read_certificate(folder, contract, version)
    choice, graph = open_chosen(
        expected_provider(options.execution_providers),
        partial(choose_precision, options.precision, certificate, contract.task),
        partial(_Graph, folder, certificate, _with_profile(options, contract), devices),
    )
    _log_choice(contract.name, options.precision, choice)
    check_signature(contract, graph.session)
    golden = read_golden(folder, contract, certificate, choice.precision)
    return _Candidate(contract, certificate, choice, graph, golden)


def _max_batch_size(options: LoadOptions, contract: Contract) -> int:
    """The operator may allow fewer images in a batch than the contract, not more."""
    return min(options.max_batch_size or contract.max_batch_size, contract.max_batch_size)


def _with_profile(options: LoadOptions, contract: Contract) -> LoadOptions:
    """Tell TensorRT the shapes of the graph's input."""
    widths, heights = zip(*contract.preprocessing.input_sizes, strict=True)
    width, height = contract.preprocessing.common_size
    limit = _max_batch_size(options, contract)
    profile = ShapeProfile(
        contract.inputs[0].name,
        (1, min(heights), min(widths), 3),
        (limit, height, width, 3),
        (limit, max(heights), max(widths), 3),
    )
    return replace(options, gpu=replace(options.gpu, profile=profile))


@dataclass(frozen=True)
class _Files:
    """A graph as bytes, and the whole of every file that it takes initializers from."""

    graph: bytes
    external_data: dict[str, bytes]


@dataclass(frozen=True)
class _SessionFactory:
    """Opens sessions on a precision's graph."""

    folder: Path
    certificate: Certificate
    precision: PrecisionRecord
    options: LoadOptions
    gpus: Sequence[GpuOptions]

    def read(self) -> _Files:
        """Read and check the files."""
        read = partial(read_certified, self.folder, self.certificate)
        external_data = {file: read(file) for file in self.precision.external_data}
        return _Files(read(self.precision.file), external_data)

    def open(self, files: _Files, threads: int, gpu: GpuOptions) -> Session:
        """Open a session where it must be; it does not need the bytes any more."""
        providers = self.options.execution_providers
        session = Session(files.graph, providers, threads, files.external_data, gpu)
        check_provider(session, self.options.require_provider)
        return session

    def open_on_all(self, files: _Files, threads: int, first: Session) -> Runnable:
        """Join a session on the first GPU with one on each other; on a CPU it stays alone."""
        if first.active_provider == CPU or len(self.gpus) == 1:
            return first
        others = [self.open(files, threads, gpu) for gpu in self.gpus[1:]]
        return SessionGroup([first, *others])

    def reopen(self, threads: int) -> Runnable:
        """Read and check the files anew: they are not kept in memory beside the sessions."""
        files = self.read()
        return self.open_on_all(files, threads, self.open(files, threads, self.gpus[0]))


class _Graph:
    """A precision's graph, with a session for every number of threads that is worth a try."""

    def __init__(
        self,
        folder: Path,
        certificate: Certificate,
        options: LoadOptions,
        devices: Devices,
        precision: str,
    ) -> None:
        record, own = certificate.precision(precision), options.intra_op_num_threads
        gpus = [
            replace(options.gpu, device_id=device, precision=precision)
            for device in options.gpu_devices
        ]
        factory = _SessionFactory(folder, certificate, record, options, gpus)
        files = factory.read()
        self.session = factory.open(files, own or 1, gpus[0])
        self.active_provider = self.session.active_provider
        self.sha256 = certificate.sha256(record.file)
        self.device = devices.of(self.active_provider)
        first, *others = self._threads(own)
        sessions = {first: factory.open_on_all(files, first, self.session)}
        sessions |= {count: factory.open(files, count, gpus[0]) for count in others}
        self.sessions = GraphSessions(sessions, factory.reopen)

    def _threads(self, own: int | None) -> list[int]:
        """The numbers of threads that are worth a try; a GPU's executions take one slot each."""
        if self.active_provider != CPU:
            return [1]
        slots = self.device.slots
        return [min(own, slots)] if own else thread_counts(slots)


def open_chosen(
    provider: str,
    choose: Callable[[str], PrecisionChoice],
    open_graph: Callable[[str], Opened],
) -> tuple[PrecisionChoice, Opened]:
    """Open the graph chosen for a provider; where it got another, choose again for that one."""
    choice = choose(provider)
    opened = open_graph(choice.precision)
    if opened.active_provider == provider:
        return choice, opened
    again = choose(opened.active_provider)
    if again.precision != choice.precision:
        opened = open_graph(again.precision)
    return again, opened


def _log_choice(model: str, setting: str, choice: PrecisionChoice) -> None:
    """Tell why the preferred precision does not serve, or why the one asked for should not."""
    if choice.objection is not None:
        log = _log.info if setting == AUTO else _log.warning
        log("precision_chosen", model=model, precision=choice.precision, reason=choice.objection)


def _build(candidate: _Candidate) -> ModelBuild:
    """Describe what was loaded; of the sessions on several GPUs the worst counts."""
    precision, placement = candidate.choice.precision, candidate.graph.sessions.placement
    measured = candidate.certificate.precision(precision).accuracies(placement.active)
    return ModelBuild(
        precision,
        placement.requested,
        placement.active,
        candidate.graph.sha256,
        Accuracy.model_validate(measured[0], from_attributes=True) if measured else None,
        placement.nodes_on_cpu,
    )


def check_provider(session: Session, required: ProviderName | None) -> None:
    """Refuse a session that runs elsewhere than the operator requires."""
    if required is not None and session.active_provider != PROVIDERS[required]:
        raise InvalidEntry(
            f"it would run on {session.active_provider}, and VT_REQUIRE_PROVIDER is {required}"
        )


def check_signature(contract: Contract, session: Session) -> None:
    """Refuse a graph whose tensors are not the contract's."""
    _check_tensors("input", contract.inputs, session.inputs)
    _check_tensors("output", contract.outputs, session.outputs)


def _check_tensors(kind: str, stated: list[MetadataTensor], found: list[MetadataTensor]) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    if sorted(by_name) != sorted(tensor.name for tensor in stated):
        raise InvalidEntry(f"the graph's {kind}s are {', '.join(sorted(by_name))}")
    for tensor in stated:
        if not _agree(tensor, by_name[tensor.name]):
            actual = by_name[tensor.name]
            raise InvalidEntry(
                f"the graph's {kind} {tensor.name} is {actual.datatype} {actual.shape}, "
                f"config.json says {tensor.datatype} {tensor.shape}"
            )


def _agree(stated: MetadataTensor, found: MetadataTensor) -> bool:
    """A dimension that the graph leaves open agrees with any."""
    return (
        stated.datatype == found.datatype
        and len(stated.shape) == len(found.shape)
        and all(
            theirs in (-1, ours) for ours, theirs in zip(stated.shape, found.shape, strict=True)
        )
    )


async def _self_test(candidate: _Candidate, events: Events) -> None:
    """Run the golden inputs and report how they came out; a graph that is off is not served."""
    name, version = candidate.identity.name, candidate.identity.version
    _log.debug("self_test", model=name, version=version)
    precision = candidate.certificate.precision(candidate.choice.precision)
    golden, outputs = await _run_golden(candidate)
    result = compare(candidate.contract.task, golden, outputs)
    failure = result.failure(precision.self_test)
    events.self_tested(
        candidate.identity, result.max_absolute_error, result.agreement, ok=failure is None
    )
    if failure is not None:
        raise InvalidEntry(failure)


async def _run_golden(candidate: _Candidate) -> tuple[list[GoldenInput], list[Array]]:
    """Run the golden inputs: one on each further session or GPU, the others on the first.

    Returns what was run, some of it more than once where the sessions are many, and the outputs.
    Those that serve meanwhile wait least for an execution on one core.
    """
    first, *others = candidate.sessions
    rounds = max(len(candidate.golden), 1 + len(others))
    sessions = [*others, *[first] * (rounds - len(others))]
    golden = list(itertools.islice(itertools.cycle(candidate.golden), rounds))
    pairs = zip(golden, sessions, strict=True)
    try:
        return golden, [await _run(candidate, each, session) for each, session in pairs]
    except InferenceFailed as error:
        raise InvalidEntry("the self-test failed: the graph does not run") from error


async def _run(candidate: _Candidate, golden: GoldenInput, session: Runnable) -> Array:
    """Run a golden input in the place of one execution, on however many threads it is."""
    prediction, device = candidate.contract.prediction, candidate.graph.device
    run = partial(run_batch, session, [golden.image], [prediction])
    async with device.turn(1):
        outputs = await device.workers.run(run)
    return outputs[0][prediction]


async def _calibrated(
    candidate: _Candidate, options: LoadOptions, calibrations: CalibrationCache
) -> ExecutionPlan:
    """Measure, or remember what was measured; then close the sessions that are of no use."""
    contract = candidate.contract
    limit = _max_batch_size(options, contract)
    measurements = await _measurements(candidate, limit, calibrations)
    on_cpu = candidate.graph.active_provider == CPU
    widths = choose_widths(
        measurements,
        max_batch_size=limit,
        max_seconds=options.max_batch_seconds,
        enough=ENOUGH_THROUGHPUT_ON_CPU if on_cpu else ENOUGH_THROUGHPUT,
    )
    candidate.graph.sessions.keep([each.threads for each in widths])
    delay = options.max_queue_delay_microseconds
    if delay is None:
        delay = contract.dynamic_batching.max_queue_delay_microseconds
    width, height = contract.preprocessing.common_size
    return ExecutionPlan(widths, tuple(measurements), height * width, delay / 1e6)


async def _measurements(
    candidate: _Candidate, limit: int, calibrations: CalibrationCache
) -> list[Measurement]:
    width, height = candidate.contract.preprocessing.common_size
    graph, device = candidate.graph, candidate.graph.device
    threads, sessions = graph.sessions.threads, candidate.sessions
    key = {"graph": graph.sha256, "size": [height, width], "max_batch_size": limit}
    key |= {
        "precision": candidate.choice.precision,
        "execution_providers": [session.placement.active for session in sessions],
        "threads": threads,
        "slots": device.slots,
        "device": describe_device(graph.active_provider),
    }
    measurements = await asyncio.to_thread(calibrations.read, key)
    if measurements is None:
        image = np.zeros((height, width, 3), np.uint8)
        if graph.active_provider != CPU:  # the golden inputs may be of another size
            await run_on_each(device, sessions, [image], [candidate.contract.prediction])
        bench = Bench(graph.sessions, image, [candidate.contract.prediction], device)
        measurements = await calibrate(bench.seconds, threads, limit)
        await asyncio.to_thread(calibrations.write, key, measurements)
    return measurements


async def _warm_up(candidate: _Candidate, plan: ExecutionPlan) -> None:
    """Run every shape that will be served on each GPU: its first run takes long."""
    graph, prediction = candidate.graph, candidate.contract.prediction
    if graph.active_provider == CPU:
        return
    sizes = candidate.contract.preprocessing.input_sizes
    batches = sorted({padded(count + 1) for count in range(plan.widths[0].max_batch_size)})
    for (width, height), batch_size in itertools.product(sizes, batches):
        batch = [np.zeros((height, width, 3), np.uint8)] * batch_size
        await run_on_each(graph.device, candidate.sessions, batch, [prediction])
