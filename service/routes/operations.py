"""What operators look at: the list of endpoints, the models, the metrics."""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from service.model_repository import ModelRepository
from service.protocol import ModelDetail, ModelList
from service.routes.errors import describe_errors

Render = Callable[[str], tuple[bytes, str]]

ENDPOINTS = {
    "POST /v1/classify": "what a photo shows; the body is the photo",
    "POST /v1/segment": "what each pixel of a photo shows; the body is the photo",
    "GET /v1/models": "the models' versions and their states",
    "GET /v1/models/{model}": "one of them, with its contract and certificate",
    "GET /v2/health/live": "does the server turn",
    "GET /v2/health/ready": "does every model serve",
    "GET /v2/models/{model}": "a model's inputs and outputs",
    "GET /metrics": "numbers for Prometheus",
    "GET /docs": "every endpoint, its parameters and answers",
}


class OperationsRoutes:
    """The operators' surface."""

    def __init__(self, repository: ModelRepository, render_metrics: Render) -> None:
        self._repository = repository
        self._render_metrics = render_metrics

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(tags=["operations"], responses=describe_errors())
        router.add_api_route("/", self.endpoints)
        router.add_api_route("/v1/models", self.models)
        router.add_api_route("/v1/models/{model}", self.model, responses=describe_errors(404))
        router.add_api_route(
            "/metrics",
            self.metrics,
            response_class=Response,
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        )
        return router

    async def endpoints(self) -> dict[str, str]:
        """List what there is."""
        return ENDPOINTS

    async def models(self) -> ModelList:
        """List every model version that serves or should, with its state."""
        return ModelList(models=[version.status() for version in self._repository.wanted()])

    async def model(self, model: str) -> ModelDetail:
        """Tell the state of a model's newest version that serves, and what it was loaded from."""
        return self._repository.get(model).detail()

    async def metrics(self, request: Request) -> Response:
        """Return every number in Prometheus's text format."""
        text, content_type = self._render_metrics(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})
