"""A fast path to the endpoints that are called most."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from service.http.middleware.authorization import Authorization
from service.http.middleware.exchange import Exchange
from service.http.reply import Reply

Endpoint = Callable[[Exchange, Any], Awaitable[Reply]]

REMEMBERED_QUERIES = 256


@dataclass(frozen=True)
class FastRoute:
    """An endpoint that takes an exchange and its query, and the corresponding route."""

    route: APIRoute
    endpoint: Endpoint
    query: type[BaseModel]


class FastPath:
    """Finds the endpoint of a plain request, bypassing the framework's routing and dependencies.

    All other requests go through the framework: those with an invalid query, those from web pages
    if CORS is configured, and all requests on the metrics port.
    """

    def __init__(
        self,
        routes: Mapping[tuple[str, str], FastRoute],
        authorization: Authorization,
        *,
        has_cors: bool,
        metrics_port: int | None,
    ) -> None:
        self._routes = routes
        self._authorization = authorization
        self._has_cors = has_cors
        self._metrics_port = metrics_port

    def find(self, exchange: Exchange) -> tuple[Endpoint, BaseModel] | None:
        """Return the endpoint and its query, or None; raises if the request is not allowed."""
        scope = exchange.scope
        found = self._routes.get((scope["method"], scope["path"]))
        if found is None or not self._is_plain(exchange):
            return None
        query = _query(found.query, scope["query_string"])
        if query is None:
            return None
        scope["route"] = found.route
        self._authorization.check(exchange)
        return found.endpoint, query

    def _is_plain(self, exchange: Exchange) -> bool:
        if self._has_cors and b"origin" in exchange.headers:
            return False
        return self._metrics_port is None or exchange.scope["server"][1] != self._metrics_port


@lru_cache(REMEMBERED_QUERIES)
def _query(model: type[BaseModel], text: bytes) -> BaseModel | None:
    """Return the parsed query; None if it is invalid or repeats a parameter."""
    pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True)
    values = dict(pairs)
    if len(values) < len(pairs):
        return None
    try:
        return model.model_validate(values)
    except ValidationError:
        return None
