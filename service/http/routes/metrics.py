"""`GET /metrics`: on the port of everything else, or on a port of its own."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import APIRouter, Request, Response

from service.http.routes.errors import describe_errors

App = Callable[..., Awaitable[None]]
Scope = MutableMapping[str, Any]
Render = Callable[[str], tuple[bytes, str]]


class MetricsRoutes:
    """The scrapers' surface."""

    def __init__(self, render: Render) -> None:
        self._render = render

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter(tags=["operations"], responses=describe_errors())
        router.add_api_route(
            "/metrics",
            self.metrics,
            response_class=Response,
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        )
        return router

    async def metrics(self, request: Request) -> Response:
        """Return every number in Prometheus's text format."""
        text, content_type = self._render(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})


class MetricsPort:
    """ASGI middleware: what comes by one port is for the metrics, and nothing else is."""

    def __init__(self, app: App, metrics: App, port: int) -> None:
        self._app = app
        self._metrics = metrics
        self._port = port

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on by the port that it came to."""
        if scope["type"] == "http" and scope["server"][1] == self._port:
            await self._metrics(scope, receive, send)
        else:
            await self._app(scope, receive, send)
