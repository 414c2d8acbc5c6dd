"""A version whose sessions are open, before its self-test."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from service.repository.golden_check import GoldenInput, read_golden
from service.repository.load_options import LoadOptions
from service.repository.opening import Graph, OpenSession, open_chosen
from service.repository.precision import AUTO, PrecisionChoice, choose_precision
from service.repository.signature import check_signature
from service.repository.token_head import read_token_head
from service.runtime.device import Devices
from service.runtime.execution_providers import ShapeProfile
from service.schema.certificate import Certificate
from service.schema.contract import Contract
from service.schema.files import read_certificate
from service.schema.model_status import Accuracy
from service.schema.token_head import TokenHead
from service.telemetry.events import ModelBuild, ModelIdentity

_log = structlog.get_logger()


@dataclass(frozen=True)
class Candidate:
    """A version that becomes ready once it has passed its self-test."""

    contract: Contract
    certificate: Certificate
    choice: PrecisionChoice
    graph: Graph
    golden: list[GoldenInput]
    head: TokenHead | None

    @property
    def identity(self) -> ModelIdentity:
        """The model, version and task."""
        return ModelIdentity(self.contract.name, self.certificate.version, self.contract.task)

    def build(self) -> ModelBuild:
        """Describe what was loaded; for sessions on several GPUs, the worst placement."""
        precision, placement = self.choice.precision, self.graph.sessions.placement
        measured = self.certificate.precision(precision).accuracies(placement.active)
        return ModelBuild(
            precision,
            placement.requested,
            placement.active,
            self.graph.sha256,
            Accuracy.model_validate(measured[0], from_attributes=True) if measured else None,
            placement.nodes_on_cpu,
        )


def open_candidate(
    folder: Path,
    contract: Contract,
    version: str,
    *,
    options: LoadOptions,
    devices: Devices,
    open_session: OpenSession,
    expected_provider: Callable[[str], str],
) -> Candidate:
    """Read a version's files and open its sessions, blocking the thread; raises `InvalidEntry`."""
    certificate = read_certificate(folder, contract, version)
    contract = _as_certified(contract, certificate)
    open_graph = partial(
        Graph,
        folder=folder,
        certificate=certificate,
        options=_with_profile(options, contract),
        devices=devices,
        open_session=open_session,
    )
    choice, graph = open_chosen(
        expected_provider(options.execution_providers),
        partial(choose_precision, options.precision, certificate, contract.task),
        open_graph,
    )
    _log_objection(contract.name, options.precision, choice)
    check_signature(contract, graph.first)
    golden = read_golden(folder, contract, certificate, choice.precision)
    head = read_token_head(folder, contract, certificate)
    return Candidate(contract, certificate, choice, graph, golden, head)


def _as_certified(contract: Contract, certificate: Certificate) -> Contract:
    """Decode JPEGs in full unless the certificate shows that a reduced scale gives the answers."""
    if contract.preprocessing.jpeg_reducing_gap is None:
        return contract
    scaled = certificate.scaled_decoding
    reason = "the certificate has no figures" if scaled is None else scaled.objection
    if reason is None:
        return contract
    _log.info("decoding_in_full", model=contract.name, reason=reason)
    return contract.decoding_in_full()


def _with_profile(options: LoadOptions, contract: Contract) -> LoadOptions:
    """Add the shapes of the graph's input, which TensorRT needs."""
    widths, heights = zip(*contract.preprocessing.input_sizes, strict=True)
    width, height = contract.preprocessing.common_size
    limit = options.batch_limit(contract)
    profile = ShapeProfile(
        contract.inputs[0].name,
        (1, min(heights), min(widths), 3),
        (limit, height, width, 3),
        (limit, max(heights), max(widths), 3),
    )
    return replace(options, gpu=replace(options.gpu, profile=profile))


def _log_objection(model: str, setting: str, choice: PrecisionChoice) -> None:
    """Log why the preferred precision is not used, or why the one in use should not be."""
    if choice.objection is not None:
        log = _log.info if setting == AUTO else _log.warning
        log("precision_chosen", model=model, precision=choice.precision, reason=choice.objection)
