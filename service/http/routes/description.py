"""The application and its OpenAPI description, with the API keys that operations need."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from service.http.middleware.authorization import AccessRules, Need
from service.http.middleware.exchange import App
from service.http.routes.errors import phrase

Json = dict[str, Any]

SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or the local key."},
    "api_key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key, for clients that use Authorization for something else.",
    },
}


class DescribedApp(FastAPI):
    """FastAPI inside a boundary; its description states which operations need an API key."""

    def __init__(
        self, rules: AccessRules, surround: Callable[[App, FastAPI], App], **options: Any
    ) -> None:
        """Create the application; `surround` puts the boundary around the framework's own."""
        super().__init__(**options)
        self._rules = rules
        self._surround = surround

    def build_middleware_stack(self) -> App:
        """Return the boundary around the stack that the framework builds."""
        return self._surround(super().build_middleware_stack(), self)

    @property
    def asgi(self) -> App:
        """The application as the server calls it, without the framework's outer frames."""
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        return self.middleware_stack

    def openapi(self) -> Json:
        """Return the description."""
        return describe_access(super().openapi(), self._rules)


def describe_access(schema: Json, rules: AccessRules) -> Json:
    """Return a description with the keys that its operations need, and their errors."""
    paths = {
        path: {
            method: _describe_operation(operation, rules, rules.needed(method.upper(), path))
            for method, operation in operations.items()
        }
        for path, operations in schema["paths"].items()
    }
    components = schema["components"]
    if rules.takes_key("admin"):
        components = components | {"securitySchemes": SECURITY_SCHEMES}
    return schema | {"paths": paths, "components": components}


def _describe_operation(operation: Json, rules: AccessRules, need: Need) -> Json:
    """Add the key that an operation needs; rejections have the same body as other errors."""
    responses = operation["responses"]
    for refusal in rules.refusals(need):
        described = responses["default"] | {"description": phrase(refusal.status)}
        responses = {str(refusal.status): described} | responses
    described = operation | {"responses": dict(sorted(responses.items()))}
    if rules.takes_key(need):
        scopes = [] if need == "metadata" else [need]
        described["security"] = [{scheme: scopes} for scheme in SECURITY_SCHEMES]
    return described
