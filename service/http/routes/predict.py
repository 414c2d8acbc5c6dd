"""`POST /v1/classify` and `POST /v1/segment`: photos in, classes and masks out."""

from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field

from service.engine.call import Call
from service.engine.classify import classify
from service.engine.segment import MaskFormat, draw_mask, draw_overlay, segment
from service.errors import InvalidRequest
from service.http.accept import prefers_png
from service.http.middleware.exchange import Exchange, exchange_of
from service.http.middleware.fast_path import Endpoint, FastRoute
from service.http.reply import Reply
from service.http.request_body import TIMEOUT_HEADER_PARAMETER, unless_disconnected
from service.http.routes.errors import describe_errors
from service.http.routes.images_in_body import images_in_body, is_raw
from service.http.routes.query import VersionQuery
from service.http.routes.serving import Serving, answered
from service.schema.json import encode
from service.schema.predictions import ClassifyResponse, SegmentResponse
from service.schema.vocabulary import Task

ERRORS = describe_errors(400, 404, 408, 413, 415, 429, 500, 503, 504)
BINARY = {"type": "string", "format": "binary"}
REQUEST: dict[str, Any] = {
    "parameters": [TIMEOUT_HEADER_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "An image file, a form with files, or JSON with base64.",
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
    """The model and its version."""

    model: str | None = Field(
        None, min_length=1, description="optional if only one model does the task"
    )


class ClassifyQuery(ModelQuery):
    """Parameters of a classification."""

    top_k: int = Field(5, ge=1, description="number of classes; all if there are fewer")


class SegmentQuery(ModelQuery):
    """Parameters of a segmentation."""

    mask: MaskFormat = Field("png", description="encoding of the mask")
    overlay: bool = Field(False, description="answer with the photo under its mask, as a PNG")


class PredictRoutes:
    """`/v1/classify` and `/v1/segment`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._engine = serving.engine
        self.router = self._router()

    def _router(self) -> APIRouter:
        router = APIRouter(prefix="/v1", tags=["predict"])
        router.add_api_route(
            "/classify",
            self._classify_route,
            name="classify",
            methods=["POST"],
            response_model=ClassifyResponse,
            responses=ERRORS,
            openapi_extra=REQUEST,
        )
        router.add_api_route(
            "/segment",
            self._segment_route,
            name="segment",
            methods=["POST"],
            response_model=SegmentResponse,
            response_model_exclude_none=True,
            responses=ERRORS | {200: {"content": {"image/png": {"schema": BINARY}}}},
            openapi_extra=REQUEST,
        )
        return router

    def fast_routes(self) -> dict[tuple[str, str], FastRoute]:
        """Return the routes that can be called past the framework."""
        endpoints: dict[str, tuple[Endpoint, type[ModelQuery]]] = {
            "/v1/classify": (self.classify, ClassifyQuery),
            "/v1/segment": (self.segment, SegmentQuery),
        }
        return {
            ("POST", route.path): FastRoute(route, *endpoints[route.path])
            for route in self.router.routes
            if isinstance(route, APIRoute)
        }

    async def _classify_route(
        self, request: Request, query: Annotated[ClassifyQuery, Query()]
    ) -> Response:
        """Classify each photo."""
        return (await self.classify(exchange_of(request.scope), query)).response()

    async def _segment_route(
        self, request: Request, query: Annotated[SegmentQuery, Query()]
    ) -> Response:
        """Segment each photo: the class of each pixel.

        `Accept: image/png` answers with the mask itself, `overlay=true` with the photo under it.
        """
        return (await self.segment(exchange_of(request.scope), query)).response()

    async def classify(self, exchange: Exchange, query: ClassifyQuery) -> Reply:
        """Return the classes of each photo as JSON."""
        version = self._engine.repository.find(Task.CLASSIFICATION, query.model, query.version)
        async with self._serving.call(exchange, version) as call:
            images = await self._images(exchange, call)
            work = classify(call, images, query.top_k)
            return answered(call, Reply(encode(await unless_disconnected(exchange, work))))

    async def segment(self, exchange: Exchange, query: SegmentQuery) -> Reply:
        """Return the areas and the mask of each photo as JSON, or one photo's mask as a PNG."""
        wants_png = query.overlay or prefers_png(exchange.header(b"accept"))
        if wants_png and query.mask != "png":
            raise InvalidRequest(f"A PNG answer and mask={query.mask} exclude each other.")
        version = self._engine.repository.find(Task.SEGMENTATION, query.model, query.version)
        pool = self._engine.image_threads
        async with self._serving.call(exchange, version) as call:
            images = await self._images(exchange, call)
            if wants_png:
                draw = draw_overlay if query.overlay else draw_mask
                png = await unless_disconnected(exchange, draw(call, pool, images))
                return answered(call, Reply(png, "image/png"))
            work = segment(call, pool, images, query.mask)
            return answered(call, Reply(encode(await unless_disconnected(exchange, work))))

    async def _images(self, exchange: Exchange, call: Call) -> list[bytes]:
        body = await self._serving.read_body(exchange, call)
        content_type = exchange.header(b"content-type")
        if is_raw(content_type):
            return [body]
        began = perf_counter()
        images = await self._engine.image_threads.run(
            images_in_body, content_type, body, self._engine.max_images
        )
        call.timings.receive = (call.timings.receive or 0.0) + perf_counter() - began
        return images
