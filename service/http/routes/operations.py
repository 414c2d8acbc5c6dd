"""What operators look at: the list of endpoints, the models."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.http.routes.errors import describe_errors
from service.http.routes.query import NoQuery, VersionQuery
from service.repository.repository import ModelRepository
from service.schema.model_status import ModelDetail, ModelList

METRICS = "GET /metrics"
ENDPOINTS = {
    "POST /v1/classify": "what a photo shows; the body is the photo",
    "POST /v1/segment": "what each pixel of a photo shows; the body is the photo",
    "GET /v1/models": "the models' versions and their states",
    "GET /v1/models/{model}": "one of them, with its contract and certificate",
    "GET /v2/health/live": "does the server turn",
    "GET /v2/health/ready": "does every model serve",
    "GET /v2/models/{model}": "a model's inputs and outputs",
    METRICS: "numbers for Prometheus",
    "GET /docs": "every endpoint, its parameters and answers",
}


class OperationsRoutes:
    """The operators' surface."""

    def __init__(self, repository: ModelRepository, *, has_metrics: bool) -> None:
        self._repository = repository
        left_out = () if has_metrics else (METRICS,)
        self._endpoints = {name: ENDPOINTS[name] for name in ENDPOINTS if name not in left_out}

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(tags=["operations"], responses=describe_errors())
        router.add_api_route("/", self.endpoints)
        router.add_api_route("/v1/models", self.models, responses=describe_errors(400))
        router.add_api_route("/v1/models/{model}", self.model, responses=describe_errors(400, 404))
        return router

    async def endpoints(self) -> dict[str, str]:
        """List what there is."""
        return self._endpoints

    async def models(self, _: Annotated[NoQuery, Query()]) -> ModelList:
        """List every model version that serves or should, with its state."""
        return ModelList(models=[version.status() for version in self._repository.wanted()])

    async def model(self, model: str, query: Annotated[VersionQuery, Query()]) -> ModelDetail:
        """Tell the state of a version, and what it was loaded from; by default of the newest that
        is ready, or else should be.
        """
        return self._repository.detail(model, query.version)
