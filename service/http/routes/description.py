"""What the OpenAPI description says of who may ask, as the service is set up."""

from typing import Any

from fastapi import FastAPI

from service.http.middleware.authorization import AccessRules, Need
from service.http.routes.errors import phrase

Json = dict[str, Any]

SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or the local key."},
    "api_key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same, where the header Authorization is not free.",
    },
}


class DescribedApp(FastAPI):
    """FastAPI, whose description tells which operations need a key."""

    def __init__(self, rules: AccessRules, **options: Any) -> None:
        super().__init__(**options)
        self._rules = rules

    def openapi(self) -> Json:
        """Return the description."""
        return describe_access(super().openapi(), self._rules)


def describe_access(schema: Json, rules: AccessRules) -> Json:
    """Return a description with the keys that its operations need, and their refusals."""
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
    """Add to an operation what it needs; the body of a refusal is that of every other error."""
    responses = operation["responses"]
    for refusal in rules.refusals(need):
        described = responses["default"] | {"description": phrase(refusal.status)}
        responses = {str(refusal.status): described} | responses
    described = operation | {"responses": dict(sorted(responses.items()))}
    if rules.takes_key(need):
        scopes = [] if need == "metadata" else [need]
        described["security"] = [{scheme: scopes} for scheme in SECURITY_SCHEMES]
    return described
