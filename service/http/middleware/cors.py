"""CORS: the web pages that may call the API."""

from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from service.http.request_body import TIMEOUT_HEADER
from service.open_inference.bounded_json import JSON_BYTES_HEADER

ASKED = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    JSON_BYTES_HEADER,
    "X-API-Key",
    "X-Request-Id",
    TIMEOUT_HEADER,
)
ANSWERED = (
    JSON_BYTES_HEADER,
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Image-Warning",
    "X-Request-Id",
)


class Cors(CORSMiddleware):
    """Starlette's middleware, with this service's headers and without cookies."""

    def __init__(self, app: Any, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=ASKED,
            expose_headers=ANSWERED,
            allow_private_network=True,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request; a rejection has the same body as any other error."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        headers = {
            name: value
            for name, value in response.headers.items()
            if name.startswith("access-control-") or name == "vary"
        }
        sentence = f"{bytes(response.body).decode()}."
        return JSONResponse({"error": sentence}, response.status_code, headers=headers)
