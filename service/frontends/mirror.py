"""The models of the engine, as a front end sees them."""

from collections.abc import Callable
from functools import partial

from service.frontends.calls import Calls
from service.frontends.remote_instance import RemoteInstance
from service.frontends.state import EntryState, InstanceState, RepositoryState, VersionState
from service.repository.catalog import Catalog
from service.repository.version import ModelVersion
from service.repository.versions import Versions
from service.schema.contract import Contract
from service.schema.version_policy import VersionPolicy
from service.schema.vocabulary import ModelState
from service.telemetry.events import ModelEvents, ModelIdentity

Connect = Callable[[InstanceState, ModelIdentity, Contract], RemoteInstance]
"""Makes the instance of a state."""


class MirroredEntry:
    """A model of the engine's repository."""

    def __init__(self, state: EntryState, versions: Versions) -> None:
        self.name = state.name
        self.policy = state.policy
        self.is_unloaded = state.is_unloaded
        self.is_required = state.is_required
        self.versions = versions


class Mirror(Catalog[MirroredEntry]):
    """Follows the repository of the engine, which loads and unloads its models.

    An instance that is no longer ready is given back to the engine, by its number, as soon as no
    request holds it. The engine frees it when every front end has given it back.
    """

    def __init__(
        self, connect: Connect, calls: Calls, give_back: Callable[[int], None], events: ModelEvents
    ) -> None:
        self.is_settled = False
        """Whether every front end knows that the models are ready."""
        self._connect = connect
        self._calls = calls
        self._give_back = give_back
        self._events = events
        self._entries: dict[str, MirroredEntry] = {}
        self._instances: dict[int, RemoteInstance] = {}
        self._ready: set[int] = set()
        super().__init__(self._entries)

    @property
    def instances_by_number(self) -> dict[int, RemoteInstance]:
        """The instances in the memory of the engine, by their numbers."""
        return self._instances

    def update(self, state: RepositoryState) -> None:
        """Follow the state that the engine has published."""
        instances, before = self._instances, self._ready
        self._instances, self._ready = {}, set()
        entries = [self._entry(each, state.contracts, instances) for each in state.models]
        self._entries.clear()
        self._entries.update({each.name: each for each in entries})
        self.is_settled = state.is_settled
        self.refresh()
        for number in before - self._ready:
            instances[number].retire(partial(self._give_back, number))

    def _entry(
        self, state: EntryState, contracts: list[Contract], known: dict[int, RemoteInstance]
    ) -> MirroredEntry:
        contract = None if state.contract is None else contracts[state.contract]
        versions = Versions(state.name, state.shadow, self._events, self.refresh)
        active = [self._version(state.name, each, contracts, known) for each in state.versions]
        versions.restore(contract, state.refusal, active)
        return MirroredEntry(state, versions)

    def _version(
        self,
        name: str,
        state: VersionState,
        contracts: list[Contract],
        known: dict[int, RemoteInstance],
    ) -> ModelVersion:
        contract = None if state.contract is None else contracts[state.contract]
        version = ModelVersion(name, state.version, contract, state.phase, state.failure)
        if state.instance is not None and contract is not None:
            version.instance = self._instance(version, state.instance, contract, known)
        return version

    def _instance(
        self,
        version: ModelVersion,
        state: InstanceState,
        contract: Contract,
        known: dict[int, RemoteInstance],
    ) -> RemoteInstance:
        instance = known.get(state.number)
        if instance is None:
            identity = ModelIdentity(version.name, version.version, contract.task)
            instance = self._connect(state, identity, contract)
        else:
            instance.update(state)
        self._instances[state.number] = instance
        if version.phase is ModelState.READY:
            self._ready.add(state.number)
        return instance

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """See `Catalog.load`."""
        told = None if policy is None else policy.model_dump(exclude_none=True)
        await self._calls.call("load", model=name, policy=told)

    async def unload(self, name: str) -> None:
        """See `Catalog.unload`."""
        await self._calls.call("unload", model=name)
