"""From a folder to a warm `ModelInstance`: precision, hashes, signature, self-test."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from service.contract import (
    Certificate,
    Contract,
    SelfTestTolerance,
    read_certificate,
    read_certified,
)
from service.errors import InferenceFailed, InvalidEntry
from service.events import Events, ModelBuild, ModelIdentity
from service.model_instance import ModelInstance
from service.precision import AUTO, FP32, PrecisionChoice, choose_precision
from service.protocol import Accuracy, MetadataTensor
from service.self_test import GoldenInput, compare, read_golden
from service.session import Session, expected_provider

_log = structlog.get_logger()


@dataclass(frozen=True)
class LoadOptions:
    """The operator's choices about models."""

    execution_providers: str
    intra_op_num_threads: int
    max_queue_size: int | None
    precision: str = AUTO


class OnProvider(Protocol):
    """What runs on an execution provider."""

    active_provider: str


Opened = TypeVar("Opened", bound=OnProvider)


def load_instance(
    folder: Path, contract: Contract, options: LoadOptions, events: Events
) -> ModelInstance:
    """Load the newest version, blocking, and test it; raises `InvalidEntry` with the reason."""
    certificate = read_certificate(folder, contract, contract.newest_version)
    choice, session = open_chosen(
        expected_provider(options.execution_providers),
        partial(choose_precision, options.precision, certificate, contract.task),
        partial(_open_graph, folder, certificate, options),
    )
    _log_choice(contract.name, options.precision, choice)
    check_signature(contract, session)
    instance = ModelInstance(
        identity=ModelIdentity(contract.name, certificate.version, contract.task),
        contract=contract,
        build=_build(certificate, choice.precision, session),
        session=session,
        max_queue_size=options.max_queue_size or contract.dynamic_batching.max_queue_size,
        events=events,
    )
    golden = read_golden(folder, contract, certificate, choice.precision)
    tolerance = certificate.precision(choice.precision).self_test
    try:
        _warm_up(instance)
        _self_test(instance, golden, tolerance, events)
    except InvalidEntry as error:
        if options.precision != AUTO or choice.precision == FP32:
            raise
        raise InvalidEntry(f"{error}; VT_PRECISION=fp32 can be tried") from error
    return instance


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


def _open_graph(
    folder: Path, certificate: Certificate, options: LoadOptions, precision: str
) -> Session:
    record = certificate.precision(precision)
    return Session(
        read_certified(folder, certificate, record.file),
        options.execution_providers,
        options.intra_op_num_threads,
        {file: read_certified(folder, certificate, file) for file in record.external_data},
    )


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


def _warm_up(instance: ModelInstance) -> None:
    try:
        instance.warm_up()
    except InferenceFailed as error:
        raise InvalidEntry("the graph cannot be run") from error


def _self_test(
    instance: ModelInstance,
    golden: list[GoldenInput],
    tolerance: SelfTestTolerance,
    events: Events,
) -> None:
    """Run the golden inputs; a graph that is off is not served."""
    try:
        actual = instance.replay([each.image for each in golden])
    except InferenceFailed as error:
        raise InvalidEntry("the self-test failed: the graph does not run") from error
    result = compare(instance.contract.task, golden, actual)
    failure = result.failure(tolerance)
    events.self_tested(
        instance.identity, result.max_absolute_error, result.agreement, ok=failure is None
    )
    if failure is not None:
        raise InvalidEntry(failure)
