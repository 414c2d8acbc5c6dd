"""A folder of the repository: announces, loads and unloads the versions of a model."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from service.errors import LoadFailed
from service.repository.failure import HELD_BACK, load_failed, report_failure
from service.repository.swap import LoadVersion, Swap
from service.repository.version import ModelVersion
from service.repository.versions import Versions
from service.schema.contract import Contract
from service.schema.files import NOT_LISTED, read_contract
from service.schema.version_policy import LATEST, VersionPolicy
from service.telemetry.events import ModelEvents

_log = structlog.get_logger()


class ModelEntry:
    """A model: its contract, its version policy and its versions.

    Changes are made one at a time. The contract is read only when the model is announced or loaded.
    """

    def __init__(
        self,
        folder: Path,
        load_version: LoadVersion,
        events: ModelEvents,
        *,
        is_required: bool,
        policy: VersionPolicy | None,
        shadow: str | None,
        drain_seconds: float,
        changed: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.name = folder.name
        self.versions = Versions(self.name, shadow, events, changed)
        self.policy = policy or LATEST
        """The current policy: that of the last load, else the setting's, else the contract's."""
        self.is_unloaded = False
        """Whether the model was unloaded on request."""
        self._is_required = is_required
        self._setting = policy
        self._shadow = shadow
        self._events = events
        self._swap = Swap(folder, self.versions, load_version, events, drain_seconds)
        self._changing = asyncio.Lock()

    @property
    def is_required(self) -> bool:
        """Whether the server needs this model to be ready; always true once it has been ready."""
        return self._is_required or self.versions.have_served

    async def announce(self) -> None:
        """Read the contract and list the versions to be loaded; raises `LoadFailed`."""
        async with self._changing:
            self._choose(await self._read_contract(), self._setting)

    async def load(self, policy: VersionPolicy | None = None) -> None:
        """Load the versions that the contract and the policy want, and release the others.

        A loaded version continues until its successor is ready. If the model is ready and a version
        cannot be loaded, nothing changes and `LoadFailed` lists the reasons. The shadow version may
        fail, unless it is the only one wanted.
        """
        async with self._changing:
            contract = await self._read_contract()
            if policy is not None:
                self._check_listed(policy, contract)
            wanted = self._choose(contract, policy or self._setting)
            self._log_missing_shadow(wanted, contract)
            required = [each for each in wanted if each.version != self._shadow] or wanted
            await self._swap.load(required, contract)
            failures = _failures(required)
            if not failures:
                unwanted = [each for each in self.versions.active if each not in wanted]
                await self._swap.release(unwanted)
            await self._swap.load([each for each in wanted if each not in required], contract)
            if failures:
                raise load_failed(failures)

    async def unload(self) -> None:
        """Reject new requests, finish those in flight, and free the memory."""
        async with self._changing:
            self.is_unloaded = True
            await self._swap.release(self.versions.active)
            self._events.model_released(self.name, "")
            self.versions.refresh()

    async def close(self) -> None:
        """Free everything once the last batches have run."""
        for version in self.versions.active:
            if version.instance is not None:
                await version.instance.close()

    async def _read_contract(self) -> Contract:
        try:
            contract = await asyncio.to_thread(read_contract, self.folder)
        except Exception as error:
            self.is_unloaded = False
            reason = report_failure(error, self._events, self.name)
            self.versions.refuse(reason)
            raise LoadFailed(f"The model {self.name} cannot be loaded: {reason}.") from error
        self.versions.accept(contract)
        return contract

    def _check_listed(self, policy: VersionPolicy, contract: Contract) -> None:
        """Reject a policy with versions that the contract does not list."""
        missing = [
            each for each in policy.wanted(contract.versions) if each not in contract.versions
        ]
        if missing:
            raise load_failed([f"{self.name} version {each}: {NOT_LISTED}" for each in missing])

    def _choose(self, contract: Contract, policy: VersionPolicy | None) -> list[ModelVersion]:
        """Apply a policy; return the versions that it selects, newest first."""
        self.is_unloaded = False
        self.policy = policy or contract.version_policy
        self.versions.refresh()
        return [self.versions.add(each, contract) for each in self._wanted(contract)]

    def _wanted(self, contract: Contract) -> list[str]:
        """Apply the policy; `latest` and `all` get the shadow version in addition."""
        if self.policy.specific is not None or self._shadow not in contract.versions:
            return self.policy.wanted(contract.versions)
        others = [version for version in contract.versions if version != self._shadow]
        return [*self.policy.wanted(others), self._shadow]

    def _log_missing_shadow(self, wanted: Sequence[ModelVersion], contract: Contract) -> None:
        """Log why the shadow version is not among the versions to load."""
        if self._shadow is None or any(each.version == self._shadow for each in wanted):
            return
        listed = self._shadow in contract.versions
        reason = "the version policy leaves it out" if listed else NOT_LISTED
        _log.warning("shadow_not_loaded", model=self.name, version=self._shadow, reason=reason)


def _failures(wanted: Sequence[ModelVersion]) -> list[str]:
    return [
        f"{each.name} version {each.version}: {each.failure}"
        for each in wanted
        if each.failure not in (None, HELD_BACK)
    ]
