"""Every error leaves as `{"error": "<sentence>"}`."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.errors import (
    InvalidRequest,
    QueueFull,
    ServerStopping,
    ServiceError,
    Unauthorized,
)
from service.schema.predictions import ErrorResponse


def add_error_handlers(app: FastAPI) -> None:
    """Answer the error tree, and re-shape what the framework raises itself."""
    app.exception_handler(ServiceError)(_service_error)
    app.exception_handler(RequestValidationError)(_invalid_query)
    app.exception_handler(HTTPException)(_framework_error)


def describe_errors(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Return the OpenAPI description of these statuses, and of any other error."""
    described: dict[int | str, dict[str, object]] = {
        status: {"model": ErrorResponse, "description": phrase(status)} for status in statuses
    }
    return described | {"default": {"model": ErrorResponse, "description": "Any other error"}}


async def _service_error(request: Request, error: ServiceError) -> Response:
    return answer_error(request, error)


def answer_error(request: Request, error: ServiceError) -> Response:
    """Return the answer to an error of the tree, and keep the error for the log."""
    request.state.error = error
    headers = {}
    if isinstance(error, QueueFull | ServerStopping):
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _response(error.status, str(error), headers)


async def _invalid_query(request: Request, error: RequestValidationError) -> Response:
    problem = error.errors()[0]
    name = problem["loc"][-1]
    if problem["type"] == "extra_forbidden":
        sentence = f"There is no parameter {name}."
    else:
        sentence = f"The parameter {name} is not valid: {problem['msg']}."
    return answer_error(request, InvalidRequest(sentence))


async def _framework_error(_request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            sentence = "There is no such path; GET / lists what there is."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = _with_head(headers["Allow"])
            sentence = f"This path answers {headers['Allow']} only."
        case status:
            sentence = f"{phrase(status)}."
    return _response(error.status_code, sentence, headers)


def _with_head(allow: str) -> str:
    """The methods of an `Allow` header: what answers GET answers HEAD too."""
    methods = {method.strip() for method in allow.split(",")}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _response(status: int, sentence: str, headers: Mapping[str, str]) -> Response:
    return JSONResponse({"error": sentence}, status, headers=headers)


def phrase(status: int) -> str:
    """Return HTTP's own words for a status."""
    return HTTPStatus(status).phrase
