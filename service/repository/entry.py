"""One folder of the repository: loads, swaps and unloads the versions of a model."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.batching.instance import ModelInstance
from service.errors import InvalidEntry, LoadFailed, ModelNotFound
from service.repository.version import UNLOADED, ModelVersion
from service.runtime.allocator import trim_memory
from service.schema.contract import Contract
from service.schema.files import NOT_LISTED, read_contract
from service.schema.version_policy import LATEST, VersionPolicy
from service.schema.vocabulary import ModelState
from service.telemetry.events import ModelEvents

UNEXPECTED = "it cannot be loaded; the server's log says why"
HELD_BACK = "another version of the same load could not be loaded"
MAX_TOLD = 5
"""Of how many versions a failed load tells the reason."""

_log = structlog.get_logger()

LoadVersion = Callable[[Path, Contract, str], Awaitable[ModelInstance]]
"""Load a version; raises `InvalidEntry` with the reason where it cannot be served."""


@dataclass(frozen=True)
class _Loaded:
    """An instance that nobody asks yet, and the version for which it was loaded."""

    version: ModelVersion
    instance: ModelInstance
    seconds: float


class ModelEntry:
    """The versions of one model.

    One change after the other is made to an entry. Its contract is read when it is to be loaded,
    and at no other time.
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
    ) -> None:
        self.folder = folder
        self.is_unloaded = False
        """Whether somebody wanted that nothing of it serves."""
        self.is_required = is_required
        """Whether the server is not ready without it; what once served always is."""
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

        What served goes on until its successor is ready. Where anything serves, and anything that
        is wanted cannot be loaded, nothing changes; then raises `LoadFailed` with the reasons.
        The shadow's version is not among what must be there, unless it is wanted alone.
        """
        async with self._changing:
            contract = await self._read_contract()
            if policy is not None:
                self._require_listed(policy, contract)
            wanted = self._show(contract, policy or self._policy)
            self._tell_missing_shadow(wanted, contract)
            required = [each for each in wanted if each.version != self._shadow] or wanted
            await self._renew(required, contract)
            failures = self._failures(required)
            if not failures:
                await self._release(set(self._versions) - {each.version for each in wanted})
            await self._renew([each for each in wanted if each not in required], contract)
            if failures:
                raise _load_failed(failures)

    async def unload(self) -> None:
        """Take no more requests, answer those that are there, and free the memory."""
        async with self._changing:
            self.is_unloaded = True
            await self._release(list(self._versions))
            self._events.model_released(self.name, "")

    async def close(self) -> None:
        """Free everything once the last batches have run."""
        for version in self._versions.values():
            if version.instance is not None:
                await version.instance.close()

    async def _read_contract(self) -> Contract:
        try:
            contract = await asyncio.to_thread(read_contract, self.folder)
        except Exception as error:
            self.is_unloaded = False
            self._refusal = self._refuse(error)
            self._events.model_state_changed(self.name, "", ModelState.UNAVAILABLE)
            raise LoadFailed(f"The model {self.name} cannot be loaded: {self._refusal}.") from error
        self._contract, self._refusal = contract, None
        self._events.model_released(self.name, "")
        return contract

    def _require_listed(self, policy: VersionPolicy, contract: Contract) -> None:
        """Refuse what is asked for and cannot be there, before anything is known of it."""
        missing = [
            each for each in policy.wanted(contract.versions) if each not in contract.versions
        ]
        if missing:
            raise _load_failed([f"{self.name} version {each}: {NOT_LISTED}" for each in missing])

    def _show(self, contract: Contract, policy: VersionPolicy | None) -> list[ModelVersion]:
        """Return the versions that are wanted; those that are new begin to be known."""
        self.is_unloaded = False
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

    def _tell_missing_shadow(self, wanted: Iterable[ModelVersion], contract: Contract) -> None:
        """Log why the shadow is not even tried."""
        if self._shadow is None or any(each.version == self._shadow for each in wanted):
            return
        listed = self._shadow in contract.versions
        reason = "the version policy leaves it out" if listed else NOT_LISTED
        _log.warning("shadow_not_loaded", model=self.name, version=self._shadow, reason=reason)

    async def _renew(self, wanted: Sequence[ModelVersion], contract: Contract) -> None:
        """Let versions serve by this contract; the `failure` of those that do not says why.

        Where anything serves they change together or not at all; else each serves that can.
        """
        changed = [each for each in wanted if not each.serves_by(contract)]
        for each in wanted:
            each.failure = None
        for each in changed:
            if each.instance is None:
                self._enter(each, ModelState.LOADING)
        steps = [changed] if self.ready_versions else [[each] for each in changed]
        for versions in steps:
            await self._replace(versions, contract)

    async def _replace(self, versions: Sequence[ModelVersion], contract: Contract) -> None:
        """Load versions beside what serves; all of them take over or, where one fails, none."""
        loaded: list[_Loaded] = []
        async with AsyncExitStack() as aside:
            for version in versions:
                new = await self._load_aside(version, contract)
                if new is None:
                    self._hold_back(versions)
                    return
                aside.push_async_callback(self._retire, new.instance)
                loaded.append(new)
            aside.pop_all()
        await self._take_over(loaded, contract)

    async def _load_aside(self, version: ModelVersion, contract: Contract) -> _Loaded | None:
        started = time.perf_counter()
        try:
            instance = await self._load_version(self.folder, contract, version.version)
        except Exception as error:
            self._fail(version, self._refuse(error, version=version.version))
            return None
        return _Loaded(version, instance, time.perf_counter() - started)

    def _hold_back(self, versions: Sequence[ModelVersion]) -> None:
        for each in versions:
            if each.failure is None:
                self._fail(each, HELD_BACK)

    def _fail(self, version: ModelVersion, reason: str) -> None:
        version.failure = reason
        if version.instance is None:
            self._enter(version, ModelState.UNAVAILABLE)

    async def _take_over(self, loaded: Sequence[_Loaded], contract: Contract) -> None:
        """Let new instances take the requests; those before answer what they have."""
        replaced = [each.version.instance for each in loaded]
        for new in loaded:
            self._serve(new, contract)
        await asyncio.gather(*(self._retire(each) for each in replaced if each is not None))

    def _serve(self, new: _Loaded, contract: Contract) -> None:
        version, build = new.version, new.instance.build
        version.instance, version.contract = new.instance, contract
        self._events.model_loaded(new.instance.identity, build, new.seconds, new.instance)
        self._enter(version, ModelState.READY)
        self.is_required = True
        _log.info(
            "model_ready",
            model=self.name,
            version=version.version,
            precision=build.precision,
            execution_provider=build.active_provider,
            seconds=round(new.seconds, 3),
        )

    @staticmethod
    def _failures(wanted: Sequence[ModelVersion]) -> list[str]:
        return [
            f"{each.name} version {each.version}: {each.failure}"
            for each in wanted
            if each.failure not in (None, HELD_BACK)
        ]

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


def _load_failed(failures: Sequence[str]) -> LoadFailed:
    others = f"; and {len(failures) - MAX_TOLD} more" if len(failures) > MAX_TOLD else ""
    reasons = "; ".join(failures[:MAX_TOLD])
    return LoadFailed(f"Not every version could be loaded: {reasons}{others}.")
