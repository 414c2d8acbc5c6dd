"""`/v2`: health, metadata and statistics by the Open Inference Protocol."""

from typing import Any

from fastapi import APIRouter

from service import __version__
from service.engine.base import AnyEngine
from service.errors import ModelNotReady, ServerStopping
from service.http.routes.errors import describe_errors
from service.open_inference.triton_config import model_config
from service.repository.version import ModelVersion
from service.schema.open_inference import (
    AllStatistics,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)

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
    """Endpoints of the protocol, except inference and the repository."""

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine
        self._repository = engine.repository
        self._admission = engine.admission

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v2", tags=["open inference protocol"])
        router.add_api_route("", self.server, responses=describe_errors())
        router.add_api_route("/health/live", self.live, responses=describe_errors())
        router.add_api_route("/health/ready", self.ready, responses=describe_errors(503))
        router.add_api_route("/models/stats", self.all_statistics, responses=describe_errors())
        errors = describe_errors(404, 503)
        for path, endpoint, endpoint_of_version in (
            ("", self.model, self.model_version),
            ("/ready", self.model_ready, self.version_ready),
            ("/config", self.config, self.version_config),
            ("/stats", self.statistics, self.version_statistics),
        ):
            for prefix, each in (
                ("/models/{model}", endpoint),
                ("/models/{model}/versions/{version}", endpoint_of_version),
            ):
                router.add_api_route(prefix + path, each, responses=errors)
        return router

    async def server(self) -> ServerMetadata:
        """Describe the server and the extensions of the protocol that it supports."""
        return ServerMetadata(name="vt-serve", version=__version__, extensions=EXTENSIONS)

    async def live(self) -> ServerLive:
        """Liveness probe: the process responds."""
        return ServerLive(live=True)

    async def ready(self) -> ServerReady:
        """Readiness probe: all required models are loaded and warm."""
        if self._admission.stopping:
            raise ServerStopping("The server is stopping and accepts no more requests.")
        waiting = self._engine.not_ready()
        if waiting:
            raise ModelNotReady(f"Not every model is ready: {'; '.join(waiting)}.")
        return ServerReady(ready=True)

    async def model(self, model: str) -> ModelMetadata:
        """Describe the tensors of a model."""
        return self._metadata(self._repository.get(model))

    async def model_version(self, model: str, version: str) -> ModelMetadata:
        """Describe the tensors of a model version."""
        return self._metadata(self._repository.get(model, version))

    async def model_ready(self, model: str) -> ModelReady:
        """Readiness of a model."""
        return _ready(self._repository.get(model))

    async def version_ready(self, model: str, version: str) -> ModelReady:
        """Readiness of a model version."""
        return _ready(self._repository.get(model, version))

    async def config(self, model: str) -> dict[str, Any]:
        """Return the configuration of a model in Triton's format."""
        return self._config(self._repository.get(model))

    async def version_config(self, model: str, version: str) -> dict[str, Any]:
        """Return the configuration of a model version in Triton's format."""
        return self._config(self._repository.get(model, version))

    async def statistics(self, model: str) -> AllStatistics:
        """Return the statistics of a model since it was loaded."""
        return await self._statistics(self._repository.get(model))

    async def version_statistics(self, model: str, version: str) -> AllStatistics:
        """Return the statistics of a model version since it was loaded."""
        return await self._statistics(self._repository.get(model, version))

    async def all_statistics(self) -> AllStatistics:
        """Return the statistics of every loaded model version."""
        return AllStatistics(model_stats=await self._engine.statistics())

    def _metadata(self, described: ModelVersion) -> ModelMetadata:
        contract = described.contract
        if contract is None:
            raise ModelNotReady(f"The model {described.describe()}.")
        return ModelMetadata(
            name=contract.name,
            versions=self._repository.ready_versions(described.name),
            platform=contract.platform,
            inputs=contract.inputs,
            outputs=contract.outputs,
        )

    async def _statistics(self, described: ModelVersion) -> AllStatistics:
        return AllStatistics(model_stats=await self._engine.statistics(described))

    def _config(self, described: ModelVersion) -> dict[str, Any]:
        policy = self._repository.version_policy(described.name)
        return model_config(described.ready_instance(), policy)


def _ready(described: ModelVersion) -> ModelReady:
    return ModelReady(name=described.ready_instance().identity.name, ready=True)
