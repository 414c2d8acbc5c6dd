"""`/v2/repository`: list, load and unload models by the Open Inference Protocol."""

from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import InvalidRequest
from service.http.middleware.exchange import exchange_of
from service.http.request_body import BodyLimits, receive_body
from service.http.routes.errors import describe_errors
from service.repository.catalog import Catalog
from service.schema.open_inference import (
    RepositoryIndexRequest,
    RepositoryModel,
    RepositoryModelRequest,
)
from service.schema.validation import first_problem
from service.schema.version_policy import VersionPolicy
from service.schema.vocabulary import Wire

MAX_BODY_BYTES = 64 * 1024
MAX_PROBLEM = 256
"""Limit on the length of a validation error in a message: it may quote a name of any length."""

W = TypeVar("W", bound=Wire)


class ModelConfig(BaseModel):
    """The part of Triton's model configuration that a load can override."""

    model_config = ConfigDict(extra="forbid")

    version_policy: VersionPolicy | None = None


class RepositoryRoutes:
    """The protocol's model repository extension."""

    def __init__(self, repository: Catalog[Any], body_timeout_seconds: float) -> None:
        self._repository = repository
        self._body = BodyLimits(MAX_BODY_BYTES, body_timeout_seconds)

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v2/repository", tags=["model repository"])
        errors = describe_errors(400, 404, 408, 413)
        for path, endpoint, model in (
            ("/index", self.index, RepositoryIndexRequest),
            ("/models/{model}/load", self.load, RepositoryModelRequest),
            ("/models/{model}/unload", self.unload, RepositoryModelRequest),
        ):
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                responses=errors,
                openapi_extra=_optional_body(model),
            )
        return router

    async def index(self, request: Request) -> list[RepositoryModel]:
        """List every version of every model, whether it is loaded or not."""
        wanted = await self._read(request, RepositoryIndexRequest)
        return [
            RepositoryModel(
                name=each.name, version=each.version, state=each.state, reason=each.reason or ""
            )
            for each in self._repository.index()
            if each.is_ready or not wanted.ready
        ]

    async def load(self, request: Request, model: str) -> Response:
        """Read a model's contract again, and load the versions selected by its version policy.

        The parameter `config` is JSON as text; its key `version_policy` overrides the policy.
        """
        parameters = (await self._read(request, RepositoryModelRequest)).parameters
        await self._repository.load(model, _version_policy(parameters))
        return Response()

    async def unload(self, request: Request, model: str) -> Response:
        """Reject new requests for a model, finish those in flight, and free its memory."""
        await self._read(request, RepositoryModelRequest)
        await self._repository.unload(model)
        return Response()

    async def _read(self, request: Request, model: type[W]) -> W:
        """Read the optional body."""
        body = await receive_body(exchange_of(request.scope), self._body)
        return _parse(model, body, "The request") if body else model()


def _version_policy(parameters: dict[str, Any]) -> VersionPolicy | None:
    """Return the version policy of a load request; files cannot be sent."""
    others = [name for name in parameters if name != "config"]
    if others:
        raise InvalidRequest(
            f"The only parameter of a load is config, not {others[0][:64]!r}; "
            "put files into the folder of the model repository."
        )
    config = parameters.get("config", "{}")
    if not isinstance(config, str):
        raise InvalidRequest("The parameter config must be JSON as text.")
    return _parse(ModelConfig, config.encode(), "The parameter config").version_policy


M = TypeVar("M", bound=BaseModel)


def _parse(model: type[M], data: bytes, what: str) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise InvalidRequest(
            f"{what} is not valid: {first_problem(error)[:MAX_PROBLEM]}."
        ) from error


def _optional_body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}
