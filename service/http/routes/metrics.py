"""`GET /metrics`."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from service.http.routes.errors import describe_errors

Render = Callable[[str], Awaitable[tuple[bytes, str]]]


class MetricsRoutes:
    """The endpoint that Prometheus scrapes."""

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
        """Return all metrics in the Prometheus text format."""
        text, content_type = await self._render(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})
