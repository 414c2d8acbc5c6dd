"""Loads versions beside the current ones, switches requests over, and releases the rest."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.batching.instance import ModelInstance
from service.batching.interface import Instance
from service.repository.failure import HELD_BACK, report_failure
from service.repository.version import ModelVersion
from service.repository.versions import Versions
from service.runtime.allocator import trim_memory
from service.schema.contract import Contract
from service.schema.vocabulary import ModelState
from service.telemetry.events import ModelEvents

_log = structlog.get_logger()

LoadVersion = Callable[[Path, Contract, str], Awaitable[ModelInstance]]
"""Load a version; raises `InvalidEntry` with the reason if it cannot be served."""


@dataclass(frozen=True)
class _Loaded:
    """A version, and a new instance that does not yet receive requests."""

    version: ModelVersion
    instance: ModelInstance
    seconds: float


class Swap:
    """Replaces the instances that serve a model. The caller makes one change at a time."""

    def __init__(
        self,
        folder: Path,
        versions: Versions,
        load_version: LoadVersion,
        events: ModelEvents,
        drain_seconds: float,
    ) -> None:
        self._folder = folder
        self._versions = versions
        self._load_version = load_version
        self._events = events
        self._drain_seconds = drain_seconds

    async def load(self, wanted: Sequence[ModelVersion], contract: Contract) -> None:
        """Load the versions that are not yet loaded by this contract.

        If any version is ready, they take over together or not at all; otherwise each version that
        can be loaded becomes ready. Afterwards, `failure` is the reason why a version is not.
        """
        changed = [each for each in wanted if not each.serves_by(contract)]
        for each in wanted:
            each.failure = None
        for each in changed:
            if each.instance is None:
                self._versions.enter(each, ModelState.LOADING)
        groups = [changed] if self._versions.ready else [[each] for each in changed]
        for group in groups:
            await self._load_together(group, contract)

    async def _load_together(self, group: Sequence[ModelVersion], contract: Contract) -> None:
        """Load versions beside the current ones; if one fails, none of them takes over."""
        loaded: list[_Loaded] = []
        async with AsyncExitStack() as unused:
            for version in group:
                new = await self._load_one(version, contract)
                if new is None:
                    self._fail_rest(group)
                    return
                unused.push_async_callback(self._retire, new.instance)
                loaded.append(new)
            unused.pop_all()
        await self._take_over(loaded, contract)

    async def _load_one(self, version: ModelVersion, contract: Contract) -> _Loaded | None:
        started = time.perf_counter()
        try:
            instance = await self._load_version(self._folder, contract, version.version)
        except Exception as error:
            reason = report_failure(error, self._events, version.name, version=version.version)
            self._fail(version, reason)
            return None
        return _Loaded(version, instance, time.perf_counter() - started)

    def _fail_rest(self, group: Sequence[ModelVersion]) -> None:
        for each in group:
            if each.failure is None:
                self._fail(each, HELD_BACK)

    def _fail(self, version: ModelVersion, reason: str) -> None:
        version.failure = reason
        if version.instance is None:
            self._versions.enter(version, ModelState.UNAVAILABLE)

    async def _take_over(self, loaded: Sequence[_Loaded], contract: Contract) -> None:
        """Send requests to the new instances; the replaced ones finish their requests."""
        replaced = [each.version.instance for each in loaded]
        for new in loaded:
            self._serve(new, contract)
        await asyncio.gather(*(self._retire(each) for each in replaced if each is not None))

    def _serve(self, new: _Loaded, contract: Contract) -> None:
        version, instance, accuracy = new.version, new.instance, new.instance.build.accuracy
        version.instance, version.contract = instance, contract
        instance.on_outage = self._versions.refresh
        self._events.model_loaded(instance.identity, instance.build, new.seconds, instance)
        self._versions.enter(version, ModelState.READY)
        _log.info(
            "model_ready",
            model=version.name,
            version=version.version,
            task=contract.task,
            precision=instance.build.precision,
            accuracy=accuracy and accuracy.metric(contract.task),
            execution_provider=instance.build.active_provider,
            seconds=round(new.seconds, 3),
        )

    async def release(self, leaving: Sequence[ModelVersion]) -> None:
        """Reject new requests for these versions, finish those in flight, and free the memory."""
        for each in leaving:
            self._versions.enter(each, ModelState.UNLOADING)
        await asyncio.gather(*(self._retire(each.instance) for each in leaving if each.instance))
        for each in leaving:
            self._versions.remove(each)
            _log.info("model_unloaded", model=each.name, version=each.version)

    async def _retire(self, instance: Instance) -> None:
        try:
            await instance.drain(self._drain_seconds)
        finally:
            await instance.close()
        await asyncio.to_thread(trim_memory)
