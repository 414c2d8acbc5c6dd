"""`/openapi.json`, and `/docs`: the same description as a page, from files of this machine."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response

from service.http.middleware.exchange import exchange_of
from service.http.path_prefix import PathPrefix
from service.http.reply import Reply
from service.http.static_files import StaticFiles
from service.schema.json import encode

HTTP = Path(__file__).parents[1]
PAGE = "docs.html"
OWN = {
    PAGE: HTTP / "docs" / PAGE,
    "docs.js": HTTP / "docs" / "docs.js",
    "icon.svg": HTTP / "playground" / "icon.svg",
}
SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")


class Described(Protocol):
    """An application with an OpenAPI description."""

    def openapi(self) -> dict[str, Any]:
        """Return the description."""
        ...


class DocsRoutes:
    """The API description as JSON and as a page."""

    def __init__(self, app: Described, prefix: PathPrefix) -> None:
        self._app = app
        self._prefix = prefix
        self._files = StaticFiles(OWN | {name: _swagger_ui() / name for name in SWAGGER_UI})

    def router(self) -> APIRouter:
        """Return the routes, which are no part of the description."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/openapi.json", self.description)
        router.add_api_route("/docs", self.page)
        router.add_api_route("/docs/{file}", self.file)
        return router

    async def description(self, request: Request) -> Response:
        """Return the description; below a path prefix, it names the prefix."""
        description = self._app.openapi()
        prefix = self._prefix.of(exchange_of(request.scope))
        if prefix:
            description = description | {"servers": [{"url": prefix}]}
        return Reply(encode(description)).response()

    async def page(self, request: Request) -> Response:
        """Return the page."""
        return await self.file(request, PAGE)

    async def file(self, request: Request, file: str) -> Response:
        """Return a file of the page."""
        return (await self._files.reply(file, exchange_of(request.scope))).response()


def _swagger_ui() -> Path:
    """Return the folder of Swagger UI's files, without importing the package that brings them."""
    spec = find_spec("fastapi_swagger")
    if spec is None or spec.origin is None:  # pragma: no cover  # it is a dependency
        raise ImportError("fastapi-swagger is not installed.")
    return Path(spec.origin).parent / "resources"
