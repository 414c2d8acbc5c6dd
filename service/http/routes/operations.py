"""`GET /` and `/v1/models`: the list of endpoints, and the state of the models."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.http.accept import prefers
from service.http.middleware.exchange import exchange_of
from service.http.path_prefix import PathPrefix
from service.http.reply import Reply
from service.http.routes.errors import describe_errors
from service.http.routes.playground import PlaygroundRoutes
from service.http.routes.query import NoQuery, VersionQuery
from service.repository.catalog import Catalog
from service.schema.json import encode
from service.schema.model_status import ModelDetail, ModelList

METRICS = "GET /metrics"
PAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {"schema": {"type": "string"}}}}
}
ENDPOINTS = {
    "POST /v1/classify": "Classify the photo in the body.",
    "POST /v1/segment": "Segment the photo in the body.",
    "POST /v1/explain": "Show where the visual tokens look in the photo in the body.",
    "POST /v1/embed": "Turn the photo in the body into a vector.",
    "GET /v1/models": "List the model versions with their states.",
    "GET /v1/models/{model}": "Describe a model version, with its contract and certificate.",
    "GET /v2/health/live": "Liveness: the process responds.",
    "GET /v2/health/ready": "Readiness: all required models are loaded.",
    "GET /v2": "Name, version and extensions of the server, by the Open Inference Protocol.",
    "GET /v2/models/{model}": "Describe the inputs and outputs of a model.",
    "GET /v2/models/{model}/ready": "Readiness of a model.",
    "GET /v2/models/{model}/config": "Configuration of a model.",
    "GET /v2/models/{model}/stats": "Statistics of a model.",
    "POST /v2/models/{model}/infer": "Run a model on tensors or photos.",
    "POST /v2/repository/index": "List every version of every model.",
    "POST /v2/repository/models/{model}/load": "Load a model, or load it again.",
    "POST /v2/repository/models/{model}/unload": "Unload a model.",
    METRICS: "Metrics in the Prometheus text format.",
    "GET /docs": "API description: every endpoint, its parameters and responses.",
}


class OperationsRoutes:
    """The list of endpoints and the models."""

    def __init__(
        self,
        repository: Catalog[Any],
        prefix: PathPrefix,
        playground: PlaygroundRoutes | None,
        *,
        has_metrics: bool,
    ) -> None:
        self._repository = repository
        self._prefix = prefix
        self._playground = playground
        left_out = () if has_metrics else (METRICS,)
        self._endpoints = {name: ENDPOINTS[name] for name in ENDPOINTS if name not in left_out}

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(tags=["operations"], responses=describe_errors())
        router.add_api_route("/", self.root, response_model=dict[str, str], responses=PAGE)
        router.add_api_route("/v1/models", self.models, responses=describe_errors(400))
        router.add_api_route("/v1/models/{model}", self.model, responses=describe_errors(400, 404))
        return router

    async def root(self, request: Request) -> Response:
        """List the endpoints; a browser gets the playground, a page to try the models."""
        exchange = exchange_of(request.scope)
        if self._playground is not None and prefers(exchange.header(b"accept"), "text/html"):
            return (await self._playground.page(exchange)).response()
        prefix = self._prefix.of(exchange)
        listed = {name.replace(" ", f" {prefix}"): text for name, text in self._endpoints.items()}
        return Reply(encode(listed), headers={"vary": "Accept"}).response()

    async def models(self, _: Annotated[NoQuery, Query()]) -> ModelList:
        """List every model version that is loaded or should be, with its state."""
        return ModelList(models=[version.status() for version in self._repository.wanted()])

    async def model(self, model: str, query: Annotated[VersionQuery, Query()]) -> ModelDetail:
        """Describe a model version and the files it was loaded from.

        By default, the newest ready version or, if none is ready, the newest that should be.
        """
        return self._repository.detail(model, query.version)
