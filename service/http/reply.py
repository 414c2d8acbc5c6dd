"""A whole response as a plain value, and the reply to each error of the tree."""

from collections.abc import Mapping
from typing import NamedTuple

from fastapi import Response

from service.errors import QueueFull, ServerStopping, ServiceError, Unauthorized
from service.schema.json import encode

JSON = "application/json"


class Reply(NamedTuple):
    """A response that is complete before its first byte is sent."""

    body: bytes
    content_type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = {}

    def response(self) -> Response:
        """Return it as the framework wants it."""
        headers = {**self.headers, "content-type": self.content_type}
        return Response(self.body, self.status, headers)


INTERNAL_ERROR = Reply(encode({"error": "The server failed; its log says why."}), JSON, 500)


def error_reply(error: ServiceError) -> Reply:
    """Return the reply to an error: one sentence, and when or how to try again."""
    headers = {}
    if isinstance(error, QueueFull | ServerStopping):
        headers["retry-after"] = str(error.retry_after_seconds)
    elif isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    return Reply(encode({"error": str(error)}), JSON, error.status, headers)
