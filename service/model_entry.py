"""One folder of the repository: loads, swaps and unloads the versions of a model."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import structlog

from service.contract import Contract, read_contract
from service.errors import InvalidEntry, LoadFailed, ModelNotFound
from service.events import Events
from service.memory import trim_memory
from service.model_instance import ModelInstance
from service.model_version import UNLOADED, ModelVersion
from service.protocol import ModelState
from service.version_policy import LATEST, VersionPolicy

UNEXPECTED = "it cannot be loaded; the server's log says why"

_log = structlog.get_logger()

LoadVersion = Callable[[Path, Contract, str], Awaitable[ModelInstance]]
"""Load a version; raises `InvalidEntry` with the reason where it cannot be served."""


class ModelEntry:
    """The versions of one model.

    One change after the other is made to an entry. Its contract is read when it is to be loaded,
    and at no other time.
    """

    def __init__(
        self,
        folder: Path,
        load_version: LoadVersion,
        events: Events,
        *,
        policy: VersionPolicy | None,
        shadow: str | None,
        drain_seconds: float,
    ) -> None:
        self.folder = folder
        self.is_unloaded = False
        """Whether somebody wanted that nothing of it serves."""
        self._load_version = load_version
        self._events = events
        self._policy = policy
        self._shadow = shadow
        self._drain_seconds = drain_seconds
        self._contract: Contract | None = None
        self._policy_in_force = policy or LATEST
        self._refusal: str | None = None
        self._versions: dict[str, ModelVersion] = {}
        self._changing = asyncio.Lock()

    @property
    def name(self) -> str:
        """The folder's name, which is the model's."""
        return self.folder.name

    @property
    def policy(self) -> VersionPolicy:
        """Which versions are loaded, by what a load, the settings or the contract said last."""
        return self._policy_in_force

    @property
    def refusal(self) -> str | None:
        """Why the contract that is on the disk could not be read, if it could not."""
        return self._refusal

    @property
    def current(self) -> ModelVersion:
        """What a request without a version means: the newest that serves, or else should."""
        ready = [each for each in self._versions.values() if each.is_ready]
        versions = ready or self._versions.values() or self.known
        return max(versions, key=lambda each: (each.version != self._shadow, each.number))

    @property
    def ready_versions(self) -> list[str]:
        """The versions that serve, in ascending order."""
        return [each.version for each in self.known if each.is_ready]

    @property
    def wanted(self) -> list[ModelVersion]:
        """The versions that serve or should, in ascending order, and a contract's refusal."""
        versions = sorted(self._versions.values(), key=lambda each: each.number)
        if self._refusal is not None or not (versions or self._contract):
            versions.append(self._unread())
        return versions

    @property
    def known(self) -> list[ModelVersion]:
        """The same, and the versions that are only on the disk."""
        listed = self._contract.versions if self._contract else ()
        others = [self._unloaded(each) for each in listed if each not in self._versions]
        return sorted([*self.wanted, *others], key=lambda each: each.number)

    def _unread(self) -> ModelVersion:
        state = ModelState.UNAVAILABLE if self._refusal else ModelState.LOADING
        return ModelVersion(self.name, phase=state, failure=self._refusal)

    def _unloaded(self, version: str) -> ModelVersion:
        return ModelVersion(
            self.name, version, self._contract, ModelState.UNAVAILABLE, failure=UNLOADED
        )

    def version(self, version: str | None) -> ModelVersion:
        """Return what is known of a version, by default of the current one."""
        if version is None:
            return self.current
        versions = {each.version: each for each in self.known}
        if version in versions:
            return versions[version]
        if not any(versions):
            return self.current
        there = ", ".join(filter(None, versions))
        raise ModelNotFound(f"The model {self.name} has no version {version}; there are {there}.")

    async def announce(self) -> None:
        """Read the contract and show what will be loaded; raises `LoadFailed`."""
        async with self._changing:
            self._show(await self._read_contract(), self._policy)

    async def load(self, policy: VersionPolicy | None = None) -> None:
        """Load what the contract and the policy want and is not there, and release the rest.

        What served goes on until its successor is ready, or for good where anything of that
        fails; then raises `LoadFailed` with the reasons.
        """
        async with self._changing:
            self.is_unloaded = False
            contract = await self._read_contract()
            wanted = self._show(contract, policy or self._policy)
            for version in wanted:
                await self._renew(version, contract)
            self._require_loaded(wanted)
            await self._release(set(self._versions) - {each.version for each in wanted})

    async def unload(self) -> None:
        """Take no more requests, answer those that are there, and free the memory."""
        async with self._changing:
            self.is_unloaded = True
            await self._release(list(self._versions))

    async def close(self) -> None:
        """Free everything once the last batches have run."""
        for version in self._versions.values():
            if version.instance is not None:
                await version.instance.close()

    async def _read_contract(self) -> Contract:
        try:
            self._contract = await asyncio.to_thread(read_contract, self.folder)
        except Exception as error:
            self._refusal = self._refuse(error)
            raise LoadFailed(f"The model {self.name} cannot be loaded: {self._refusal}.") from error
        self._refusal = None
        return self._contract

    def _show(self, contract: Contract, policy: VersionPolicy | None) -> list[ModelVersion]:
        """Return the versions that are wanted; those that are new begin to be known."""
        self._policy_in_force = policy or contract.version_policy
        wanted = self._wanted(contract, self._policy_in_force)
        for version in wanted:
            if version not in self._versions:
                self._versions[version] = ModelVersion(self.name, version, contract)
                self._tell_state(self._versions[version])
        return [self._versions[version] for version in wanted]

    def _wanted(self, contract: Contract, policy: VersionPolicy) -> list[str]:
        """Choose what to load; the shadow's version is none that `latest` or `all` choose from."""
        if policy.specific is not None or self._shadow not in contract.versions:
            return policy.wanted(contract.versions)
        others = [version for version in contract.versions if version != self._shadow]
        return [*policy.wanted(others), self._shadow]

    async def _renew(self, version: ModelVersion, contract: Contract) -> None:
        """Load a version beside what serves it and swap, unless it serves by this contract."""
        version.failure = None
        if version.serves_by(contract):
            return
        if version.instance is None:
            self._enter(version, ModelState.LOADING)
        started = time.perf_counter()
        try:
            instance = await self._load_version(self.folder, contract, version.version)
        except Exception as error:
            version.failure = self._refuse(error, version=version.version)
            if version.instance is None:
                self._enter(version, ModelState.UNAVAILABLE)
            return
        await self._swap(version, contract, instance, time.perf_counter() - started)

    async def _swap(
        self, version: ModelVersion, contract: Contract, instance: ModelInstance, seconds: float
    ) -> None:
        """Let the new instance take the requests; the one before answers those that it has."""
        before, version.instance, version.contract = version.instance, instance, contract
        self._events.model_loaded(instance.identity, instance.build, seconds, instance)
        self._enter(version, ModelState.READY)
        _log.info(
            "model_ready",
            model=self.name,
            version=version.version,
            precision=instance.build.precision,
            execution_provider=instance.build.active_provider,
            seconds=round(seconds, 3),
        )
        if before is not None:
            await self._retire(before)

    @staticmethod
    def _require_loaded(wanted: list[ModelVersion]) -> None:
        failures = [
            f"{each.name} version {each.version}: {each.failure}" for each in wanted if each.failure
        ]
        if failures:
            raise LoadFailed(f"Not every version could be loaded: {'; '.join(failures)}.")

    async def _release(self, versions: Iterable[str]) -> None:
        """Drain versions and forget them."""
        leaving = [self._versions[version] for version in versions]
        for each in leaving:
            self._enter(each, ModelState.UNLOADING)
        await asyncio.gather(*(self._retire(each.instance) for each in leaving if each.instance))
        for each in leaving:
            del self._versions[each.version]
            self._events.model_released(self.name, each.version)
            _log.info("model_unloaded", model=self.name, version=each.version)

    async def _retire(self, instance: ModelInstance) -> None:
        try:
            await instance.drain(self._drain_seconds)
        finally:
            await instance.close()
        await asyncio.to_thread(trim_memory)

    def _refuse(self, error: Exception, **version: str) -> str:
        """Count and log what cannot be loaded; return the reason, which names no secrets."""
        self._events.model_refused(self.name)
        log = _log.bind(model=self.name, **version)
        if isinstance(error, InvalidEntry):
            log.error(
                "load_failed", reason=str(error), cause=error.__cause__ and str(error.__cause__)
            )
            return str(error)
        log.error("load_failed", reason=UNEXPECTED, exc_info=error)
        return UNEXPECTED

    def _enter(self, version: ModelVersion, phase: ModelState) -> None:
        version.phase = phase
        self._tell_state(version)

    def _tell_state(self, version: ModelVersion) -> None:
        self._events.model_state_changed(self.name, version.version, version.state)
