"""`POST /v1/explain` and `POST /v1/embed`: what the visual tokens of a model see in photos."""

import io
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field

from service.engine.embed import Embeddings, embed, embed_response
from service.engine.explain import ExplainOptions, draw_contact_sheet, draw_heat_map, explain
from service.errors import InvalidRequest
from service.http.accept import prefers
from service.http.middleware.exchange import Exchange, exchange_of
from service.http.middleware.fast_path import Endpoint, FastRoute
from service.http.reply import Reply
from service.http.request_body import unless_disconnected
from service.http.routes.predict import (
    BINARY,
    ERRORS,
    PICTURES,
    REQUEST,
    ModelQuery,
    picture_choice,
)
from service.http.routes.serving import Serving, answered
from service.schema.json import encode
from service.schema.predictions import EmbedResponse, ExplainResponse

NPY = "application/octet-stream"


class ExplainQuery(ModelQuery):
    """Parameters of an explanation."""

    format: Literal["json", "png", "overlay"] = Field(
        "json",
        description="`json`: numbers; `png`: the maps of all tokens, one row per module; "
        "`overlay`: the photo with the map of one token over it.",
    )
    top_k: int = Field(5, ge=1, description="Number of classes to return; all if there are fewer.")
    class_name: str | None = Field(
        None,
        alias="class",
        min_length=1,
        description="Label or index of the class whose contributions are given; "
        "by default, the most likely.",
    )
    module: str | None = Field(
        None, min_length=1, description="Module of the overlay; by default, the last."
    )
    token: int | None = Field(
        None,
        ge=0,
        description="Token of the overlay; by default, the one with the largest contribution, "
        "or the largest share.",
    )

    def options(self) -> ExplainOptions:
        """Return the options; those of another format are rejected."""
        if self.format != "overlay" and not (self.module is None and self.token is None):
            raise InvalidRequest(
                "The parameters module and token choose the map of format=overlay; add it."
            )
        return ExplainOptions(self.top_k, self.class_name, self.module, self.token)


class EmbedQuery(ModelQuery):
    """Parameters of an embedding."""

    normalize: bool = Field(False, description="Scale each vector to length 1 (L2).")
    tokens: bool = Field(
        False, description="Return the vectors of all final tokens instead of their mean."
    )


class TokenRoutes:
    """`/v1/explain` and `/v1/embed`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._engine = serving.engine
        self.router = self._router()

    def _router(self) -> APIRouter:
        router = APIRouter(prefix="/v1", tags=["tokens"])
        router.add_api_route(
            "/explain",
            self._explain_route,
            name="explain",
            methods=["POST"],
            response_model=ExplainResponse,
            responses=ERRORS | {200: {"content": {each: {"schema": BINARY} for each in PICTURES}}},
            openapi_extra=REQUEST,
        )
        router.add_api_route(
            "/embed",
            self._embed_route,
            name="embed",
            methods=["POST"],
            response_model=EmbedResponse,
            responses=ERRORS | {200: {"content": {NPY: {"schema": BINARY}}}},
            openapi_extra=REQUEST,
        )
        return router

    def fast_routes(self) -> dict[tuple[str, str], FastRoute]:
        """Return the routes that can bypass the framework."""
        endpoints: dict[str, tuple[Endpoint, type[ModelQuery]]] = {
            "/v1/explain": (self.explain, ExplainQuery),
            "/v1/embed": (self.embed, EmbedQuery),
        }
        return {
            ("POST", route.path): FastRoute(route, *endpoints[route.path])
            for route in self.router.routes
            if isinstance(route, APIRoute)
        }

    async def _explain_route(
        self, request: Request, query: Annotated[ExplainQuery, Query()]
    ) -> Response:
        """Return where the visual tokens look in each photo.

        For a classification, also how much each token contributes to a class. With `format=png` or
        `format=overlay`, the response is a picture of one photo.
        """
        return (await self.explain(exchange_of(request.scope), query)).response()

    async def _embed_route(
        self, request: Request, query: Annotated[EmbedQuery, Query()]
    ) -> Response:
        """Return a vector for each photo: the mean of its final visual tokens.

        With `Accept: application/octet-stream`, the response is a NumPy file (`.npy`), FP32
        [photos, channels] or, with `tokens=true`, [photos, tokens, channels].
        """
        return (await self.embed(exchange_of(request.scope), query)).response()

    async def explain(self, exchange: Exchange, query: ExplainQuery) -> Reply:
        """Return the attention of each token as JSON, or drawn over one photo."""
        options, pool = query.options(), self._engine.image_threads
        choice = picture_choice(exchange.header(b"accept"))
        version = self._engine.repository.find(None, query.model, query.version)
        async with self._serving.call(exchange, version) as call:
            images = await self._serving.read_images(exchange, call, query.frame)
            if query.format == "json":
                work = explain(call, pool, images, options)
                return answered(call, Reply(encode(await unless_disconnected(exchange, work))))
            drawing = (
                draw_contact_sheet(call, pool, images, options)
                if query.format == "png"
                else draw_heat_map(call, pool, images, options, choice)
            )
            return answered(call, Reply(*await unless_disconnected(exchange, drawing)))

    async def embed(self, exchange: Exchange, query: EmbedQuery) -> Reply:
        """Return a vector for each photo, as JSON or as a NumPy file."""
        is_npy = prefers(exchange.header(b"accept"), NPY)
        version = self._engine.repository.find(None, query.model, query.version)
        async with self._serving.call(exchange, version) as call:
            images = await self._serving.read_images(exchange, call, query.frame)
            work = embed(call, images, normalize=query.normalize, tokens=query.tokens)
            embeddings = await unless_disconnected(exchange, work)
            if is_npy:
                return answered(call, Reply(_npy(embeddings), NPY))
            response = embed_response(call, embeddings, normalize=query.normalize)
            return answered(call, Reply(encode(response)))


def _npy(embeddings: Embeddings) -> bytes:
    file = io.BytesIO()
    np.save(file, embeddings, allow_pickle=False)
    return file.getvalue()
