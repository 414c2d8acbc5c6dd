"""`POST /v1/classify` and `POST /v1/segment`: photos in, classes and masks out."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field

from service.batching.instance import ModelInstance
from service.engine.admission import Deadline
from service.engine.inference import Classifier, Job, MaskFormat, Segmenter
from service.errors import InvalidRequest
from service.http.middleware.fast_path import DirectRoute, Endpoint
from service.http.routes.accept import prefers_png
from service.http.routes.errors import describe_errors
from service.http.routes.images_in_body import images_in_body, is_raw
from service.http.routes.query import VersionQuery
from service.http.routes.request_body import TIMEOUT_HEADER_PARAMETER
from service.http.routes.serving import Images, Predict, Serving
from service.repository.repository import ModelRepository
from service.runtime.image_threads import ImageThreads
from service.schema.predictions import ClassifyResponse, SegmentResponse
from service.schema.vocabulary import Task

ERRORS = describe_errors(400, 404, 408, 413, 415, 429, 500, 503, 504)
BINARY = {"type": "string", "format": "binary"}
REQUEST: dict[str, Any] = {
    "parameters": [TIMEOUT_HEADER_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "One image as it is, a form with files, or JSON with base64.",
        "content": {
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {
                "schema": {"type": "object", "additionalProperties": BINARY, "minProperties": 1}
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "additionalProperties": False,
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "byte"},
                        }
                    },
                }
            },
        },
    },
}


class ModelQuery(VersionQuery):
    """Which model is meant."""

    model: str | None = Field(
        None, min_length=1, description="optional where one model does the task"
    )


class ClassifyQuery(ModelQuery):
    """The options of a classification."""

    top_k: int = Field(5, ge=1, description="how many classes; all where there are fewer")


class SegmentQuery(ModelQuery):
    """The options of a segmentation."""

    mask: MaskFormat = Field("png", description="how the mask is encoded")
    overlay: bool = Field(False, description="answer with the photo under its mask, as a PNG")


class PredictRoutes:
    """The prediction surface."""

    def __init__(
        self,
        *,
        repository: ModelRepository,
        classifier: Classifier,
        segmenter: Segmenter,
        pool: ImageThreads,
        serving: Serving,
        max_images: int,
    ) -> None:
        self._repository = repository
        self._classifier = classifier
        self._segmenter = segmenter
        self._pool = pool
        self._serving = serving
        self._max_images = max_images

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v1", tags=["predict"])
        router.add_api_route(
            "/classify",
            self.classify,
            methods=["POST"],
            response_model=ClassifyResponse,
            responses=ERRORS,
            openapi_extra=REQUEST,
        )
        router.add_api_route(
            "/segment",
            self.segment,
            methods=["POST"],
            response_model=SegmentResponse,
            response_model_exclude_none=True,
            responses=ERRORS | {200: {"content": {"image/png": {"schema": BINARY}}}},
            openapi_extra=REQUEST,
        )
        return router

    def direct(self, router: APIRouter) -> dict[tuple[str, str], DirectRoute]:
        """Return the routes of this router that may be called past the framework."""
        endpoints: dict[str, tuple[Endpoint, type[ModelQuery]]] = {
            "/v1/classify": (self.classify, ClassifyQuery),
            "/v1/segment": (self.segment, SegmentQuery),
        }
        return {
            ("POST", route.path): DirectRoute(route, *endpoints[route.path])
            for route in router.routes
            if isinstance(route, APIRoute)
        }

    async def classify(
        self, request: Request, query: Annotated[ClassifyQuery, Query()]
    ) -> Response:
        """Tell what each photo shows."""

        async def predict(instance: ModelInstance, job: Job) -> Response:
            answer = await self._classifier.classify(instance, job, query.top_k)
            return _json(answer.model_dump_json())

        return await self._serve(request, Task.CLASSIFICATION, query, predict)

    async def segment(self, request: Request, query: Annotated[SegmentQuery, Query()]) -> Response:
        """Tell what each pixel of each photo shows.

        `Accept: image/png` answers with the mask itself, `overlay=true` with the photo under it.
        """
        wants_png = query.overlay or prefers_png(request.headers.get("accept", ""))
        if wants_png and query.mask != "png":
            raise InvalidRequest(f"A PNG answer and mask={query.mask} exclude each other.")
        predict = self._predict_png(query) if wants_png else self._predict_json(query)
        return await self._serve(request, Task.SEGMENTATION, query, predict)

    def _predict_json(self, query: SegmentQuery) -> Predict:
        async def predict(instance: ModelInstance, job: Job) -> Response:
            answer = await self._segmenter.segment(instance, job, query.mask)
            return _json(await self._pool.run(answer.model_dump_json, exclude_none=True))

        return predict

    def _predict_png(self, query: SegmentQuery) -> Predict:
        draw = self._segmenter.overlay if query.overlay else self._segmenter.mask

        async def predict(instance: ModelInstance, job: Job) -> Response:
            if len(job.images) > 1:
                raise InvalidRequest("A PNG answer shows one photo; ask for JSON or send one.")
            return Response(await draw(instance, job), media_type="image/png")

        return predict

    async def _serve(
        self, request: Request, task: Task, query: ModelQuery, predict: Predict
    ) -> Response:
        version = self._repository.find(task, query.model, query.version)
        return await self._serving.answer(request, version, partial(self._read, request), predict)

    async def _read(
        self, request: Request, _instance: ModelInstance, body: bytes, _deadline: Deadline
    ) -> Images:
        content_type = request.headers.get("content-type", "")
        if is_raw(content_type):
            return [body]
        return await self._pool.run(images_in_body, content_type, body, self._max_images)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
