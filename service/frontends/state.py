"""The state of the models as the engine publishes it."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np
from pydantic import BaseModel

from service.repository.lookup import Entry
from service.repository.version import ModelVersion
from service.schema.certificate import Certificate
from service.schema.contract import Contract
from service.schema.model_status import Batching
from service.schema.token_head import TokenHead
from service.schema.version_policy import VersionPolicy
from service.schema.vocabulary import ModelState
from service.telemetry.events import ModelBuild


class HeadState(BaseModel):
    """A `TokenHead`, its numbers as FP32 in base64."""

    classes: int
    weight: str
    bias: str

    @classmethod
    def of(cls, head: TokenHead) -> Self:
        """Return the state of a head."""
        weight, bias = (b64encode(each.tobytes()).decode() for each in (head.weight, head.bias))
        return cls(classes=len(head.bias), weight=weight, bias=bias)

    @property
    def head(self) -> TokenHead:
        """The head."""
        weight, bias = (
            np.frombuffer(b64decode(each), np.float32) for each in (self.weight, self.bias)
        )
        return TokenHead(weight.reshape(self.classes, -1), bias)


class InstanceState(BaseModel):
    """An instance in the engine: its number, its place on the board, and what clients may see."""

    number: int
    slot: int
    outage: str | None
    build: ModelBuild
    batching: Batching
    certificate: Certificate
    head: HeadState | None
    max_batch_size: int
    single_seconds: float


class VersionState(BaseModel):
    """A version that is loaded or should be; `contract` is an index."""

    version: str
    contract: int | None
    phase: ModelState
    failure: str | None
    instance: InstanceState | None


class EntryState(BaseModel):
    """A model of the repository."""

    name: str
    policy: VersionPolicy
    is_unloaded: bool
    is_required: bool
    contract: int | None
    refusal: str | None
    shadow: str | None
    versions: list[VersionState]


class RepositoryState(BaseModel):
    """All models; `is_settled` once every front end knows that the server is ready."""

    sequence: int
    is_settled: bool
    contracts: list[Contract]
    models: list[EntryState]


class Place(NamedTuple):
    """The number of an instance, and its place on the board."""

    number: int
    slot: int


def describe(
    entries: Sequence[Entry],
    place: Callable[[ModelVersion], Place | None],
    sequence: int,
    *,
    is_settled: bool,
) -> bytes:
    """Return the state of all models as JSON; `place` says which instances front ends may use."""
    contracts: dict[int, tuple[int, Contract]] = {}

    def index(contract: Contract | None) -> int | None:
        if contract is None:
            return None
        return contracts.setdefault(id(contract), (len(contracts), contract))[0]

    def version_state(version: ModelVersion) -> VersionState:
        found = place(version)
        return VersionState.model_construct(
            version=version.version,
            contract=index(version.contract),
            phase=version.phase,
            failure=version.failure,
            instance=None if found is None else _instance_state(version, found),
        )

    models = [
        EntryState.model_construct(
            name=entry.name,
            policy=entry.policy,
            is_unloaded=entry.is_unloaded,
            is_required=entry.is_required,
            contract=index(entry.versions.contract),
            refusal=entry.versions.refusal,
            shadow=entry.versions.shadow,
            versions=[version_state(each) for each in entry.versions.active],
        )
        for entry in entries
    ]
    state = RepositoryState.model_construct(
        sequence=sequence,
        is_settled=is_settled,
        contracts=[contract for _, contract in contracts.values()],
        models=models,
    )
    return state.model_dump_json(exclude_unset=True).encode()


def _instance_state(version: ModelVersion, place: Place) -> InstanceState | None:
    instance = version.instance
    if instance is None:
        return None
    return InstanceState.model_construct(
        number=place.number,
        slot=place.slot,
        outage=instance.outage,
        build=instance.build,
        batching=instance.batching,
        certificate=instance.certificate,
        head=None if instance.head is None else HeadState.of(instance.head),
        max_batch_size=instance.max_batch_size,
        single_seconds=instance.bounds.single_seconds,
    )
