"""Authorization of requests by method, path and headers, before a body is read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from starlette.routing import BaseRoute, Match

from service.api_keys import ApiKey, ApiKeys
from service.errors import Forbidden, RateLimited, ServiceError, Unauthorized
from service.http.middleware.exchange import App, Exchange, Receive, Scope, Send, exchange_of
from service.http.middleware.local_key import LocalKey, is_loopback
from service.http.reply import error_reply
from service.telemetry.events import ServerEvents

Need = Literal["nothing", "metadata", "predict", "admin"]

READING = frozenset({"GET", "HEAD", "OPTIONS"})
FOREIGN = frozenset(
    {
        *(b"origin", b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host"),
        *(b"x-forwarded-prefix", b"x-real-ip"),
    }
)
"""Headers of proxies and web pages. Their absence proves nothing; hence the local key."""


@dataclass(frozen=True)
class AccessRules:
    """Scopes that requests need, as the service is configured.

    With a file of keys, a request needs a key with the right scope. Without one, anyone may
    predict, and only the local key allows changing models. The local key does not exist if the
    server listens to other machines.
    """

    keys: ApiKeys | None
    local_key: LocalKey | None
    metadata_needs_key: bool

    def needed(self, method: str, path: str) -> Need:
        """Return the scope that a request needs, if any."""
        need = needed(method, path)
        if self.keys is None:
            return "admin" if need == "admin" else "nothing"
        return "nothing" if need == "metadata" and not self.metadata_needs_key else need

    def takes_key(self, need: Need) -> bool:
        """Return whether a request that needs this scope may, or must, carry a key."""
        if self.keys is None:
            return need == "admin" and self.local_key is not None
        return need != "nothing"

    def refusals(self, need: Need) -> tuple[type[ServiceError], ...]:
        """Return the errors by which a request that needs this scope can be rejected."""
        if need == "nothing":
            return ()
        if self.keys is None:
            return (Forbidden,)
        return (Unauthorized,) if need == "metadata" else (Unauthorized, Forbidden, RateLimited)


class Authorization:
    """Allows or rejects requests by method, path and headers, before the body is read."""

    def __init__(self, rules: AccessRules, events: ServerEvents) -> None:
        self._rules = rules
        self._events = events

    def check(self, exchange: Exchange) -> None:
        """Raise `Unauthorized`, `Forbidden` or `RateLimited` if a request is not allowed."""
        scope = exchange.scope
        need = self._rules.needed(scope["method"], scope["path"])
        if need == "nothing":
            return
        if self._rules.keys is None:
            self._check_local(exchange)
        else:
            self._check_key(self._rules.keys, need, exchange)

    def _check_key(self, keys: ApiKeys, need: Need, exchange: Exchange) -> None:
        token = presented_token(exchange.scope["headers"])
        key = None if token is None else keys.find(token)
        if key is None:
            self._events.api_key_used("", "missing" if token is None else "unknown")
            raise Unauthorized(
                "An API key is needed, as Authorization: Bearer or X-API-Key."
                if token is None
                else "The API key is not valid."
            )
        exchange.key = key.name
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
            raise RateLimited(f"API key {key.name} exceeds its rate limit.", seconds)

    def _check_local(self, exchange: Exchange) -> None:
        client, local_key = exchange.scope.get("client"), self._rules.local_key
        if local_key is None or client is None or not is_loopback(client[0]):
            raise Forbidden(
                "Without API keys, models can be changed from the server's own machine only."
            )
        if not FOREIGN.isdisjoint(exchange.headers):
            raise Forbidden(
                "Without API keys, models cannot be changed by a web page or through a proxy."
            )
        if not local_key.matches(presented_token(exchange.scope["headers"])):
            raise Forbidden(
                "Without API keys, models are changed with the local key, as X-API-Key: "
                "the server's log says which file holds it."
            )


class AuthorizationMiddleware:
    """ASGI middleware in front of the routes.

    It matches rejected requests with the routes itself, so that they are counted under the right
    route.
    """

    def __init__(self, app: App, authorization: Authorization, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._authorization = authorization
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reply with the error."""
        if scope["type"] == "http":
            exchange = exchange_of(scope)
            try:
                self._authorization.check(exchange)
            except ServiceError as error:
                exchange.error = error
                exchange.scope["route"] = scope["route"] = matching_route(self._routes, scope)
                await error_reply(error).response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def needed(method: str, path: str) -> Need:
    """Return the scope that a request needs; an unknown path needs the scope predict."""
    if path == "/" or path.startswith("/v2/health/") or _is_file_of_page(path):
        return "nothing"
    if path.startswith("/v2/repository/") and path != "/v2/repository/index":
        return "admin"
    if method in READING or path == "/v2/repository/index":
        return "metadata"
    return "predict"


def _is_file_of_page(path: str) -> bool:
    """Return whether a path is a file of the playground, which holds nothing of the models."""
    folder, _, name = path.rpartition("/")
    return folder == "/playground" and name != "examples"


def matching_route(routes: Sequence[BaseRoute], scope: Scope) -> BaseRoute | None:
    """Return the route of a request, or else one with the same path and another method."""
    partial = None
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route
        if match is Match.PARTIAL and partial is None:
            partial = route
    return partial


def presented_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key of a request, if any; a bearer token takes precedence over X-API-Key."""
    found = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            found = value.strip()
    return found
