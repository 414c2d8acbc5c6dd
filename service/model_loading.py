"""From a folder to a warm `ModelInstance`: hashes, signature, self-test."""

from dataclasses import dataclass
from pathlib import Path

from service.contract import (
    Contract,
    SelfTestTolerance,
    read_certificate,
    read_certified,
)
from service.errors import InferenceFailed, InvalidEntry
from service.events import Events, ModelBuild, ModelIdentity
from service.model_instance import ModelInstance
from service.protocol import MetadataTensor
from service.self_test import GoldenInput, compare, read_golden
from service.session import Session

PRECISION = "fp32"


@dataclass(frozen=True)
class LoadOptions:
    """The operator's choices about models."""

    execution_providers: str
    intra_op_num_threads: int
    max_queue_size: int | None


def load_instance(
    folder: Path, contract: Contract, options: LoadOptions, events: Events
) -> ModelInstance:
    """Load the newest version, blocking, and test it; raises `InvalidEntry` with the reason."""
    version = contract.newest_version
    certificate = read_certificate(folder, contract, version)
    precision = certificate.precision(PRECISION)
    graph = read_certified(folder, certificate, precision.file)
    golden = read_golden(folder, contract, certificate)
    session = Session(graph, options.execution_providers, options.intra_op_num_threads)
    check_signature(contract, session)
    instance = ModelInstance(
        identity=ModelIdentity(contract.name, version, contract.task),
        contract=contract,
        build=ModelBuild(
            PRECISION,
            session.requested_provider,
            session.active_provider,
            certificate.sha256(precision.file),
        ),
        session=session,
        max_queue_size=options.max_queue_size or contract.dynamic_batching.max_queue_size,
        events=events,
    )
    _warm_up(instance)
    _self_test(instance, golden, precision.self_test, events)
    return instance


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
