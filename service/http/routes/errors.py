"""Error responses: the body is always `{"error": "<sentence>"}`."""

from collections.abc import Sequence
from difflib import get_close_matches
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from service.errors import InvalidRequest, ServiceError
from service.http.middleware.exchange import exchange_of
from service.http.reply import INTERNAL_ERROR, JSON, Reply, error_reply
from service.schema.json import encode
from service.schema.predictions import ErrorResponse


def add_error_handlers(app: FastAPI) -> None:
    """Handle the error tree, and convert the framework's own errors."""
    app.exception_handler(ServiceError)(_service_error)
    app.exception_handler(RequestValidationError)(_invalid_query)
    app.exception_handler(HTTPException)(_framework_error)
    app.exception_handler(Exception)(_unexpected_error)


def describe_errors(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Return the OpenAPI description of these statuses, and of any other error."""
    described: dict[int | str, dict[str, object]] = {
        status: {"model": ErrorResponse, "description": phrase(status)} for status in statuses
    }
    return described | {"default": {"model": ErrorResponse, "description": "Any other error"}}


async def _service_error(request: Request, error: ServiceError) -> Response:
    exchange_of(request.scope).error = error
    return error_reply(error).response()


async def _invalid_query(request: Request, error: RequestValidationError) -> Response:
    problem = error.errors()[0]
    name = problem["loc"][-1]
    if problem["type"] == "extra_forbidden":
        sentence = unknown_parameter(str(name), _parameters(request.scope.get("route")))
    else:
        sentence = f"The parameter {name} is not valid: {problem['msg']}."
    return await _service_error(request, InvalidRequest(sentence))


def unknown_parameter(name: str, allowed: Sequence[str]) -> str:
    """Return the sentence about an unknown query parameter, with the one that may be meant."""
    if not allowed:
        return f"There is no parameter {name}; this path has none."
    nearest = get_close_matches(name, allowed, 1)
    meant = f"; did you mean {nearest[0]}? The" if nearest else "; the"
    return f"There is no parameter {name}{meant} parameters are {', '.join(allowed)}."


def _parameters(route: object) -> list[str]:
    """List the query parameters of a route, which takes them as one model."""
    if not isinstance(route, APIRoute):
        return []
    models = [each.field_info.annotation for each in route.dependant.query_params]
    return [name for model in models for name in getattr(model, "model_fields", {})]


async def _framework_error(_request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            sentence = "There is no such path; GET / lists the paths."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = _with_head(headers["Allow"])
            sentence = f"This path supports only {headers['Allow']}."
        case status:
            sentence = f"{phrase(status)}."
    return Reply(encode({"error": sentence}), JSON, error.status_code, headers).response()


async def _unexpected_error(_request: Request, _error: Exception) -> Response:
    """Reply to an uncaught error; the framework raises it again, so that it is logged."""
    return INTERNAL_ERROR.response()


def _with_head(allow: str) -> str:
    """Return the methods for an `Allow` header: a path that supports GET also supports HEAD."""
    methods = {method.strip() for method in allow.split(",")}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def phrase(status: int) -> str:
    """Return the reason phrase of a status."""
    return HTTPStatus(status).phrase
