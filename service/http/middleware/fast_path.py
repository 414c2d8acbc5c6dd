"""A short way to the endpoints that are called most."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from service.errors import ServiceError
from service.http.routes.errors import answer_error

App = Callable[..., Awaitable[None]]
Scope = MutableMapping[str, Any]
Endpoint = Callable[[Request, Any], Awaitable[Response]]

REMEMBERED_QUERIES = 256


@dataclass(frozen=True)
class DirectRoute:
    """An endpoint that takes a request and its query, and the route that describes it."""

    route: APIRoute
    endpoint: Endpoint
    query: type[BaseModel]


class DirectRoutes:
    """ASGI middleware that calls some endpoints itself, past the framework's routing.

    FastAPI's way to an endpoint (its inner middlewares, routing and dependencies) is about a tenth
    of what a prediction costs on the event loop. Whatever is not plain, a query that is not valid
    above all, takes that way as before.
    """

    def __init__(self, app: App, routes: Mapping[tuple[str, str], DirectRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        direct = None
        if scope["type"] == "http":
            direct = self._routes.get((scope["method"], scope["path"]))
        query = None if direct is None else _query(direct.query, scope["query_string"])
        if direct is None or query is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = direct.route
        request = Request(scope, receive)
        try:
            response = await direct.endpoint(request, query)
        except ServiceError as error:
            response = answer_error(request, error)
        await response(scope, receive, send)


@lru_cache(REMEMBERED_QUERIES)
def _query(model: type[BaseModel], text: bytes) -> BaseModel | None:
    """The query as its model; None where it is not valid or names something twice."""
    pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True)
    values = dict(pairs)
    if len(values) < len(pairs):
        return None
    try:
        return model.model_validate(values)
    except ValidationError:
        return None
