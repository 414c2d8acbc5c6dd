"""`/v2`: the Open Inference Protocol's health, metadata and statistics."""

from typing import Any

from fastapi import APIRouter

from service import __version__
from service.admission import Admission
from service.errors import ModelNotReady, ServerStopping
from service.execution_providers import CPU
from service.model_config import model_config
from service.model_repository import ModelRepository
from service.protocol import (
    AllStatistics,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.routes.errors import describe_errors

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
]


class OpenInferenceRoutes:
    """The protocol's surface."""

    def __init__(self, repository: ModelRepository, admission: Admission) -> None:
        self._repository = repository
        self._admission = admission

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v2", tags=["open inference protocol"])
        router.add_api_route("", self.server, responses=describe_errors())
        router.add_api_route("/health/live", self.live, responses=describe_errors())
        router.add_api_route("/health/ready", self.ready, responses=describe_errors(503))
        router.add_api_route("/models/stats", self.all_statistics, responses=describe_errors())
        errors = describe_errors(404, 503)
        for prefix in ("/models/{model}", "/models/{model}/versions/{version}"):
            router.add_api_route(prefix, self.model, responses=errors)
            router.add_api_route(f"{prefix}/ready", self.model_ready, responses=errors)
            router.add_api_route(f"{prefix}/config", self.config, responses=errors)
            router.add_api_route(f"{prefix}/stats", self.statistics, responses=errors)
        return router

    async def server(self) -> ServerMetadata:
        """Tell who serves, and which extensions of the protocol are there."""
        return ServerMetadata(name="vt-serve", version=__version__, extensions=EXTENSIONS)

    async def live(self) -> ServerLive:
        """Tell that the event loop turns."""
        return ServerLive(live=True)

    async def ready(self) -> ServerReady:
        """Tell whether every model is loaded and warm."""
        if self._admission.stopping:
            raise ServerStopping("The server is stopping.")
        waiting = [version.describe() for version in self._repository.not_ready()]
        if waiting:
            raise ModelNotReady(f"Not every model serves: {'; '.join(waiting)}.")
        return ServerReady(ready=True)

    async def model(self, model: str, version: str | None = None) -> ModelMetadata:
        """Describe a model's tensors."""
        described = self._repository.get(model, version)
        contract = described.contract
        if contract is None:
            raise ModelNotReady(f"The model {described.describe()}.")
        return ModelMetadata(
            name=contract.name,
            versions=self._repository.ready_versions(model),
            platform=contract.platform,
            inputs=contract.inputs,
            outputs=contract.outputs,
        )

    async def model_ready(self, model: str, version: str | None = None) -> ModelReady:
        """Tell whether a model is loaded and warm."""
        instance = self._repository.get(model, version).ready_instance()
        return ModelReady(name=instance.identity.name, ready=True)

    async def config(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Describe a model as Triton's model configuration does."""
        instance = self._repository.get(model, version).ready_instance()
        sizes = sorted({width.max_batch_size for width in instance.batching.widths})
        kind = "KIND_CPU" if instance.build.active_provider == CPU else "KIND_GPU"
        return model_config(instance.contract, sizes, kind)

    async def statistics(self, model: str, version: str | None = None) -> AllStatistics:
        """Tell what a model did since it was loaded."""
        instance = self._repository.get(model, version).ready_instance()
        return AllStatistics(model_stats=[instance.model_statistics()])

    async def all_statistics(self) -> AllStatistics:
        """Tell what every model that serves did since it was loaded."""
        serving = self._repository.instances()
        return AllStatistics(model_stats=[each.model_statistics() for each in serving])
