"""`POST /v1/classify` and `POST /v1/segment`: photos in, classes and masks out."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field

from service.engine.classify import classify
from service.engine.segment import draw_mask, draw_overlay, segment
from service.engine.segment_options import (
    DEFAULT_TOLERANCE,
    Confidence,
    Coordinates,
    Edges,
    MaskFormat,
    SegmentOptions,
)
from service.errors import InvalidRequest
from service.http.accept import preferred, prefers
from service.http.middleware.exchange import Exchange, exchange_of
from service.http.middleware.fast_path import Endpoint, FastRoute
from service.http.reply import Reply
from service.http.request_body import TIMEOUT_HEADER_PARAMETER, unless_disconnected
from service.http.routes.errors import describe_errors
from service.http.routes.query import VersionQuery
from service.http.routes.serving import Serving, answered
from service.images.overlays import PictureChoice, PictureFormat
from service.schema.json import encode
from service.schema.predictions import ClassifyResponse, SegmentResponse
from service.schema.vocabulary import Task

ERRORS = describe_errors(400, 404, 408, 413, 415, 429, 500, 503, 504)
BINARY = {"type": "string", "format": "binary"}
REQUEST: dict[str, Any] = {
    "parameters": [TIMEOUT_HEADER_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "An image file, a multipart form with files, or JSON with base64.",
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


PICTURES: Mapping[str, PictureFormat] = {
    "image/jpeg": "jpeg",
    "image/webp": "webp",
    "image/png": "png",
}
"""Media types of overlays."""


MAX_TOLERANCE = 1000
MAX_FRAME = 1023


class ModelQuery(VersionQuery):
    """The model and its version."""

    model: str | None = Field(
        None, min_length=1, description="Name of the model; optional if only one performs the task."
    )
    frame: int | None = Field(
        None,
        ge=0,
        le=MAX_FRAME,
        description="Frame of an animation, from 0; by default, the first that shows anything.",
    )


class ClassifyQuery(ModelQuery):
    """Parameters of a classification."""

    top_k: int = Field(5, ge=1, description="Number of classes to return; all if there are fewer.")


class SegmentQuery(ModelQuery):
    """Parameters of a segmentation."""

    mask: MaskFormat = Field(
        "png",
        description="Form of the mask: indexed PNG, greyscale PNG, COCO run lengths, or polygons.",
    )
    edges: Edges | None = Field(
        None,
        description="How edges are scaled to the photo; smooth by default, if the model allows it.",
    )
    classes: str | None = Field(
        None, description="Labels of the wanted classes, separated by commas; by default, all."
    )
    confidence: Confidence = Field(
        "none", description="Confidence of the prediction: mean of each class, or also of pixels."
    )
    tolerance: float = Field(
        DEFAULT_TOLERANCE,
        ge=0,
        le=MAX_TOLERANCE,
        description="Polygons: corners of less than so many pixels squared are removed.",
    )
    coordinates: Coordinates = Field(
        "pixels", description="Polygons: coordinates in pixels of the photo, or from 0 to 1."
    )
    overlay: bool = Field(False, description="Return the photo with its mask blended over it.")
    format: PictureFormat | None = Field(
        None,
        description="Format of the overlay; by default as accepted, or else JPEG for a JPEG and "
        "PNG for other photos.",
    )

    def options(self) -> SegmentOptions:
        """Return the options for the engine."""
        classes = None if self.classes is None else [*map(str.strip, self.classes.split(","))]
        return SegmentOptions(
            self.mask, self.edges, classes, self.confidence, self.tolerance, self.coordinates
        )


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
            responses=ERRORS | {200: {"content": {each: {"schema": BINARY} for each in PICTURES}}},
            openapi_extra=REQUEST,
        )
        return router

    def fast_routes(self) -> dict[tuple[str, str], FastRoute]:
        """Return the routes that can bypass the framework."""
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
        """Return the most likely classes of each photo."""
        return (await self.classify(exchange_of(request.scope), query)).response()

    async def _segment_route(
        self, request: Request, query: Annotated[SegmentQuery, Query()]
    ) -> Response:
        """Return the classes of each photo, with their areas and a mask.

        With `Accept: image/png`, the response is the mask as an image, or with `mask=none` and
        `confidence=png` the confidence; with `overlay=true`, the photo with its mask blended over
        it.
        """
        return (await self.segment(exchange_of(request.scope), query)).response()

    async def classify(self, exchange: Exchange, query: ClassifyQuery) -> Reply:
        """Return the classes of each photo as JSON."""
        version = self._engine.repository.find(Task.CLASSIFICATION, query.model, query.version)
        async with self._serving.call(exchange, version) as call:
            images = await self._serving.read_images(exchange, call, query.frame)
            work = classify(call, images, query.top_k)
            return answered(call, Reply(encode(await unless_disconnected(exchange, work))))

    async def segment(self, exchange: Exchange, query: SegmentQuery) -> Reply:
        """Return the areas and the mask of each photo as JSON, or one photo's mask as a PNG."""
        accept = exchange.header(b"accept")
        wants_image = query.overlay or prefers(accept, "image/png")
        if query.format is not None and not query.overlay:
            raise InvalidRequest(
                "The option format is for overlays; add overlay=true or remove it."
            )
        version = self._engine.repository.find(Task.SEGMENTATION, query.model, query.version)
        pool, options = self._engine.image_threads, query.options()
        async with self._serving.call(exchange, version) as call:
            images = await self._serving.read_images(exchange, call, query.frame)
            if wants_image:
                drawing = (
                    draw_overlay(call, pool, images, options, picture_choice(accept, query.format))
                    if query.overlay
                    else draw_mask(call, pool, images, options)
                )
                return answered(call, Reply(*await unless_disconnected(exchange, drawing)))
            work = segment(call, pool, images, options)
            return answered(call, Reply(encode(await unless_disconnected(exchange, work))))


def picture_choice(accept: str, asked: PictureFormat | None = None) -> PictureChoice:
    """Return what a request says about the format of its picture, in its query and `Accept`."""
    media_type = preferred(accept, [*PICTURES])
    return PictureChoice(asked, None if media_type is None else PICTURES[media_type])
