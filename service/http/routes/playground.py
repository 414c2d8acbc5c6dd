"""The playground: the page at `/`, its files, and the models' example photos."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from service.http.middleware.exchange import Exchange, exchange_of
from service.http.reply import Reply
from service.http.static_files import CONTENT_TYPES, StaticFiles
from service.repository.catalog import Catalog

FOLDER = Path(__file__).parents[1] / "playground"
PAGE = "index.html"
PHOTOS = (".jpeg", ".jpg", ".png", ".webp")
MAX_EXAMPLES = 24
"""Limit on the photos that are listed of one model."""


class PlaygroundRoutes:
    """A page for people, at the same address as the list of endpoints for programs."""

    def __init__(self, repository: Catalog[Any], folder: Path) -> None:
        """Serve the examples below `folder`, the model repository's."""
        self._repository = repository
        self._folder = folder
        self._files = StaticFiles({path.name: path for path in FOLDER.iterdir()})

    def router(self) -> APIRouter:
        """Return the routes, which are no part of the API's description."""
        router = APIRouter(prefix="/playground", include_in_schema=False)
        router.add_api_route("/examples", self.examples)
        router.add_api_route("/examples/{model}/{file}", self.example)
        router.add_api_route("/{file}", self.file)
        return router

    async def page(self, exchange: Exchange) -> Reply:
        """Return the page."""
        return await self._files.reply(PAGE, exchange, vary="Accept, Accept-Encoding")

    async def file(self, request: Request, file: str) -> Response:
        """Return a file of the page."""
        return (await self._files.reply(file, exchange_of(request.scope))).response()

    async def examples(self) -> dict[str, list[str]]:
        """List the example photos of each model."""
        models = [entry.name for entry in self._repository.entries]
        return await asyncio.to_thread(lambda: {each: self._listed(each) for each in models})

    async def example(self, model: str, file: str) -> Response:
        """Return an example photo that is listed."""
        self._repository.get(model)
        body = await asyncio.to_thread(self._read, model, file)
        return Reply(body, CONTENT_TYPES[Path(file).suffix]).response()

    def _listed(self, model: str) -> list[str]:
        """List the photos in a model's folder of examples, if it has one."""
        folder = self._folder / model / "examples"
        if not folder.is_dir():
            return []
        photos = (path.name for path in folder.iterdir() if path.suffix in PHOTOS)
        return sorted(photos)[:MAX_EXAMPLES]

    def _read(self, model: str, file: str) -> bytes:
        if file not in self._listed(model):
            raise HTTPException(404)
        return (self._folder / model / "examples" / file).read_bytes()
