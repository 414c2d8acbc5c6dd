"""Who may ask for what: decided from method, path and headers, before a body is read."""

import ipaddress
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from starlette.routing import BaseRoute, Match

from service.api_keys import ApiKey, ApiKeys
from service.errors import Forbidden, RateLimited, ServiceError, Unauthorized
from service.http.middleware.local_key import LocalKey
from service.http.routes.errors import answer_error
from service.telemetry.events import ServerEvents

Scope = MutableMapping[str, Any]
Need = Literal["nothing", "metadata", "predict", "admin"]

READING = frozenset({"GET", "HEAD", "OPTIONS"})
FOREIGN = frozenset(
    {b"origin", b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"}
)
"""Headers of proxies and web pages. Their absence proves nothing; hence the local key."""


@dataclass(frozen=True)
class AccessRules:
    """What the settings ask of a request.

    With a file of keys, a request needs a key with the scope of what it asks for. Without one,
    anyone may predict, and models are changed with the local key only. There is none if the server
    listens to other machines.
    """

    keys: ApiKeys | None
    local_key: LocalKey | None
    metadata_needs_key: bool

    def needed(self, method: str, path: str) -> Need:
        """Tell what a request must be allowed, as the service is set up."""
        need = needed(method, path)
        if self.keys is None:
            return "admin" if need == "admin" else "nothing"
        return "nothing" if need == "metadata" and not self.metadata_needs_key else need

    def takes_key(self, need: Need) -> bool:
        """Return whether a request that needs this may, or must, bring a key."""
        if self.keys is None:
            return need == "admin" and self.local_key is not None
        return need != "nothing"

    def refusals(self, need: Need) -> tuple[type[ServiceError], ...]:
        """Return what may become of a request that needs this."""
        if need == "nothing":
            return ()
        if self.keys is None:
            return (Forbidden,)
        return (Unauthorized,) if need == "metadata" else (Unauthorized, Forbidden, RateLimited)


class Authorization:
    """ASGI middleware that lets through who may come in.

    It comes before routing: a request that it refuses is matched with the routes here, so that it
    is counted as what it asked for.
    """

    def __init__(
        self, app: Any, rules: AccessRules, events: ServerEvents, routes: Sequence[BaseRoute]
    ) -> None:
        self._app = app
        self._rules = rules
        self._events = events
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except ServiceError as error:
                scope["route"] = matching_route(self._routes, scope)
                response = answer_error(Request(scope, receive), error)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        need = self._rules.needed(scope["method"], scope["path"])
        if need == "nothing":
            return
        if self._rules.keys is None:
            self._check_place(scope)
        else:
            self._check_key(self._rules.keys, need, scope)

    def _check_key(self, keys: ApiKeys, need: Need, scope: Scope) -> None:
        token = presented_token(scope["headers"])
        key = None if token is None else keys.find(token)
        if key is None:
            self._events.api_key_used("", "missing" if token is None else "unknown")
            raise Unauthorized(
                "An API key is needed, as Authorization: Bearer or X-API-Key."
                if token is None
                else "The API key is not valid."
            )
        scope["state"]["key"] = key.name
        if need != "metadata":
            self._check_scope(key, need)
        self._events.api_key_used(key.name, "admitted")

    def _check_scope(self, key: ApiKey, need: Need) -> None:
        if need not in key.scopes:
            self._events.api_key_used(key.name, "forbidden")
            raise Forbidden(f"API key {key.name} lacks the scope {need}.")
        seconds = key.take()
        if seconds:
            self._events.api_key_used(key.name, "rate_limited")
            raise RateLimited(f"The API key {key.name} is used more often than it may.", seconds)

    def _check_place(self, scope: Scope) -> None:
        client, local_key = scope.get("client"), self._rules.local_key
        if local_key is None or client is None or not is_loopback(client[0]):
            raise Forbidden(
                "Without API keys, models can be changed from the server's own machine only."
            )
        if any(name in FOREIGN for name, _ in scope["headers"]):
            raise Forbidden(
                "Without API keys, models cannot be changed by a web page or through a proxy."
            )
        if not local_key.matches(presented_token(scope["headers"])):
            raise Forbidden(
                "Without API keys, models are changed with the local key, as X-API-Key: "
                "the server's log says which file holds it."
            )


def needed(method: str, path: str) -> Need:
    """Tell what a request must be allowed; what is not known here needs to be a prediction's."""
    if path.startswith("/v2/health/"):
        return "nothing"
    if path.startswith("/v2/repository/") and path != "/v2/repository/index":
        return "admin"
    if method in READING or path == "/v2/repository/index":
        return "metadata"
    return "predict"


def matching_route(routes: Sequence[BaseRoute], scope: Scope) -> BaseRoute | None:
    """Return the route that would get a request; one of another method, if no other matches."""
    partial = None
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route
        if match is Match.PARTIAL and partial is None:
            partial = route
    return partial


def presented_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key that a request brings, if any; its bearer token comes first."""
    found = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            found = value.strip()
    return found


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
