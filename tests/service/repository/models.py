"""A repository whose loads a test can hold and inspect."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from service.batching.instance import ModelInstance
from service.repository.repository import ModelRepository
from service.schema.contract import Contract
from service.schema.shadow_rule import ShadowRule
from service.schema.version_policy import VersionPolicy, parse_version_policy
from service.schema.vocabulary import ModelState, Task
from service.telemetry.metrics import PrometheusMetrics
from tests.service.conftest import Loader, until, version_loader

LOADING, READY, UNLOADING, UNAVAILABLE = ModelState


class GatedLoader:
    """Loads versions as soon as the gate is open."""

    def __init__(self, metrics: PrometheusMetrics) -> None:
        self._loader = Loader()
        self.load = version_loader(metrics, load=self._loader)
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[str] = []
        self.loaded: list[ModelInstance] = []

    async def __call__(self, folder: Path, contract: Contract, version: str) -> ModelInstance:
        self.begun.append(version)
        await self.gate.wait()
        self.loaded.append(await self.load(folder, contract, version))
        return self.loaded[-1]

    def is_in_memory(self, instance: ModelInstance) -> bool:
        return bool(self._loader.sessions(instance))

    async def freed(self, instance: ModelInstance) -> None:
        """Wait until no session of an instance is in memory."""
        await until(lambda: not self.is_in_memory(instance))


@dataclass
class Models:
    """A repository with one model, `colour`, in its first version."""

    path: Path
    repository: ModelRepository
    loader: GatedLoader
    metrics: PrometheusMetrics

    def find(self, version: str | None = None) -> ModelInstance:
        return self.repository.find(Task.CLASSIFICATION, "colour", version).ready_instance()

    def states(self) -> dict[str, tuple[ModelState, str | None]]:
        return {row.version: (row.state, row.reason) for row in self.repository.index()}

    def load(self, policy: str | None = None) -> "asyncio.Task[None]":
        chosen = policy and parse_version_policy(policy)
        return asyncio.create_task(self.repository.load("colour", chosen))

    def break_version(self, version: str) -> None:
        (self.path / "colour" / version / "model.onnx").write_bytes(b"half a file")

    def sample(self, name: str, version: str, **labels: str) -> float | None:
        labels |= {"model": "colour", "version": version}
        return self.metrics.registry.get_sample_value(name, labels)


async def opened(
    path: Path, policy: VersionPolicy | None = None, shadow: ShadowRule | None = None
) -> Models:
    metrics = PrometheusMetrics()
    loader = GatedLoader(metrics)
    repository = ModelRepository(path, loader, metrics.models, policy=policy, shadow=shadow)
    await repository.load_all()
    loader.begun.clear()
    loader.loaded.clear()
    return Models(path, repository, loader, metrics)
