"""`GET /` and `/v1/models`: the list of endpoints, and the state of the models."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from service.http.middleware.exchange import exchange_of
from service.http.path_prefix import PathPrefix
from service.http.routes.errors import describe_errors
from service.http.routes.query import NoQuery, VersionQuery
from service.repository.catalog import Catalog
from service.schema.model_status import ModelDetail, ModelList

METRICS = "GET /metrics"
ENDPOINTS = {
    "POST /v1/classify": "Classify the photo in the body.",
    "POST /v1/segment": "Segment the photo in the body.",
    "GET /v1/models": "List the model versions with their states.",
    "GET /v1/models/{model}": "Describe a model version, with its contract and certificate.",
    "GET /v2/health/live": "Liveness: the process responds.",
    "GET /v2/health/ready": "Readiness: all required models are loaded.",
    "GET /v2/models/{model}": "Describe the inputs and outputs of a model.",
    METRICS: "Metrics in the Prometheus text format.",
    "GET /docs": "API description: every endpoint, its parameters and responses.",
}


class OperationsRoutes:
    """The list of endpoints and the models."""

    def __init__(self, repository: Catalog[Any], prefix: PathPrefix, *, has_metrics: bool) -> None:
        self._repository = repository
        self._prefix = prefix
        left_out = () if has_metrics else (METRICS,)
        self._endpoints = {name: ENDPOINTS[name] for name in ENDPOINTS if name not in left_out}

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(tags=["operations"], responses=describe_errors())
        router.add_api_route("/", self.endpoints)
        router.add_api_route("/v1/models", self.models, responses=describe_errors(400))
        router.add_api_route("/v1/models/{model}", self.model, responses=describe_errors(400, 404))
        return router

    async def endpoints(self, request: Request) -> dict[str, str]:
        """List the endpoints."""
        prefix = self._prefix.of(exchange_of(request.scope))
        return {name.replace(" ", f" {prefix}"): text for name, text in self._endpoints.items()}

    async def models(self, _: Annotated[NoQuery, Query()]) -> ModelList:
        """List every model version that is loaded or should be, with its state."""
        return ModelList(models=[version.status() for version in self._repository.wanted()])

    async def model(self, model: str, query: Annotated[VersionQuery, Query()]) -> ModelDetail:
        """Describe a model version and the files it was loaded from.

        By default, the newest ready version or, if none is ready, the newest that should be.
        """
        return self._repository.detail(model, query.version)
