"""From a folder to a warm `ModelInstance`: precision, hashes, signature, self-test, calibration."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import structlog

from service.calibration import Bench, CalibrationCache, calibrate, thread_counts
from service.contract import (
    Certificate,
    Contract,
    SelfTestTolerance,
    read_certificate,
    read_certified,
)
from service.device import CPU_PROVIDER, Device, Devices, describe_device
from service.errors import InferenceFailed, InvalidEntry
from service.events import Events, ModelBuild, ModelIdentity
from service.execution_plan import (
    ENOUGH_THROUGHPUT,
    ENOUGH_THROUGHPUT_ON_CPU,
    ExecutionPlan,
    choose_widths,
)
from service.graph_sessions import GraphSessions
from service.model_instance import ModelInstance
from service.precision import AUTO, FP32, PrecisionChoice, choose_precision
from service.protocol import Accuracy, MetadataTensor
from service.self_test import GoldenInput, SelfTest, compare, read_golden
from service.session import Session, expected_provider

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
    calibration_folder: Path | None = None


class OnProvider(Protocol):
    """What runs on an execution provider."""

    active_provider: str


Opened = TypeVar("Opened", bound=OnProvider)


def load_instance(
    folder: Path, contract: Contract, options: LoadOptions, devices: Devices, events: Events
) -> ModelInstance:
    """Load the newest version, blocking, and test it; raises `InvalidEntry` with the reason."""
    certificate = read_certificate(folder, contract, contract.newest_version)
    choice, opened = open_chosen(
        expected_provider(options.execution_providers),
        partial(choose_precision, options.precision, certificate, contract.task),
        partial(_Graph, folder, certificate, options),
    )
    _log_choice(contract.name, options.precision, choice)
    check_signature(contract, opened.session)
    identity = ModelIdentity(contract.name, certificate.version, contract.task)
    golden = read_golden(folder, contract, certificate, choice.precision)
    tolerance = certificate.precision(choice.precision).self_test
    device = devices.of(opened.active_provider)
    try:
        sessions = opened.sessions(device.slots)
        _judge(identity, _self_test(contract, sessions, golden), tolerance, events)
        plan = _calibrated(contract, opened, sessions, options, device)
    except InvalidEntry as error:
        if options.precision != AUTO or choice.precision == FP32:
            raise
        raise InvalidEntry(f"{error}; VT_PRECISION=fp32 can be tried") from error
    except InferenceFailed as error:
        raise InvalidEntry("the graph cannot be run") from error
    return ModelInstance(
        identity=identity,
        contract=contract,
        build=_build(certificate, choice.precision, opened.session),
        sessions=sessions,
        plan=plan,
        device=device,
        max_queue_size=options.max_queue_size or contract.dynamic_batching.max_queue_size,
        events=events,
    )


class _Graph:
    """A precision's graph, and the first session on it."""

    def __init__(
        self, folder: Path, certificate: Certificate, options: LoadOptions, precision: str
    ) -> None:
        self._folder = folder
        self._certificate = certificate
        self._options = options
        self._record = certificate.precision(precision)
        self.sha256 = certificate.sha256(self._record.file)
        self.session = self._open(options.intra_op_num_threads or 1)
        self.active_provider = self.session.active_provider

    def sessions(self, slots: int) -> GraphSessions:
        """Open a session for every number of threads that is worth a try."""
        own = self._options.intra_op_num_threads
        counts = [min(own, slots)] if own else thread_counts(slots)
        first = {counts[0]: self.session}
        return GraphSessions({**first, **{n: self._open(n) for n in counts[1:]}}, self._open)

    def _open(self, threads: int) -> Session:
        """Read and check the files anew: they are not kept in memory beside the session."""
        read = partial(read_certified, self._folder, self._certificate)
        return Session(
            read(self._record.file),
            self._options.execution_providers,
            threads,
            {file: read(file) for file in self._record.external_data},
        )


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


def _build(certificate: Certificate, precision: str, session: Session) -> ModelBuild:
    record = certificate.precision(precision)
    measured = record.accuracies(session.active_provider)
    return ModelBuild(
        precision,
        session.requested_provider,
        session.active_provider,
        certificate.sha256(record.file),
        Accuracy.model_validate(measured[0], from_attributes=True) if measured else None,
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


def _self_test(contract: Contract, sessions: GraphSessions, golden: list[GoldenInput]) -> SelfTest:
    """Run the golden inputs, by all sessions in turns, and each session once at least."""
    prediction = contract.prediction
    turns = itertools.cycle(sessions.threads)
    try:
        actual = [
            sessions.run([each.image], [prediction], threads)[0][prediction]
            for each, threads in zip(golden, turns, strict=False)
        ]
        for threads in sessions.threads[len(golden) :]:
            sessions.run([golden[0].image], [prediction], threads)
    except InferenceFailed as error:
        raise InvalidEntry("the self-test failed: the graph does not run") from error
    return compare(contract.task, golden, actual)


def _judge(
    identity: ModelIdentity, result: SelfTest, tolerance: SelfTestTolerance, events: Events
) -> None:
    """Report the self-test; a graph that is off is not served."""
    failure = result.failure(tolerance)
    events.self_tested(identity, result.max_absolute_error, result.agreement, ok=failure is None)
    if failure is not None:
        raise InvalidEntry(failure)


def _calibrated(
    contract: Contract,
    graph: _Graph,
    sessions: GraphSessions,
    options: LoadOptions,
    device: Device,
) -> ExecutionPlan:
    """Measure, or remember what was measured; then close the sessions that are of no use."""
    width, height = contract.preprocessing.common_size
    limit = min(options.max_batch_size or contract.max_batch_size, contract.max_batch_size)
    bench = Bench(
        sessions,
        np.zeros((height, width, 3), np.uint8),
        [contract.prediction],
        device.slots,
    )
    cache = CalibrationCache(options.calibration_folder)
    key = {"graph": graph.sha256, "size": [height, width], "max_batch_size": limit}
    key |= {
        "threads": sessions.threads,
        "slots": device.slots,
        "device": describe_device(graph.active_provider),
    }
    measurements = cache.read(key)
    if measurements is None:
        measurements = calibrate(bench.seconds, sessions.threads, limit)
        cache.write(key, measurements)
    on_cpu = graph.active_provider == CPU_PROVIDER
    widths = choose_widths(
        measurements,
        max_batch_size=limit,
        max_seconds=options.max_batch_seconds,
        enough=ENOUGH_THROUGHPUT_ON_CPU if on_cpu else ENOUGH_THROUGHPUT,
    )
    sessions.keep([each.threads for each in widths])
    delay = options.max_queue_delay_microseconds
    if delay is None:
        delay = contract.dynamic_batching.max_queue_delay_microseconds
    return ExecutionPlan(widths, tuple(measurements), height * width, delay / 1e6)
