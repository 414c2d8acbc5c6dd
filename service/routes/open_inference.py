"""`/v2`: the Open Inference Protocol's health and metadata."""

from fastapi import APIRouter

from service import __version__
from service.admission import Admission
from service.errors import ModelNotReady, ServerStopping
from service.model_repository import ModelRepository
from service.protocol import (
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.routes.errors import describe_errors


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
        not_found, not_ready = describe_errors(404, 503), describe_errors(404, 503)
        for prefix in ("/models/{model}", "/models/{model}/versions/{version}"):
            router.add_api_route(prefix, self.model, responses=not_found)
            router.add_api_route(f"{prefix}/ready", self.model_ready, responses=not_ready)
        return router

    async def server(self) -> ServerMetadata:
        """Tell who serves, and which extensions of the protocol are there."""
        return ServerMetadata(name="vt-serve", version=__version__, extensions=[])

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
