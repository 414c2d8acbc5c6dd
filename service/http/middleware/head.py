"""HEAD: what GET would answer, without the body."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

App = Callable[..., Awaitable[None]]
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]


class HeadRequests:
    """ASGI middleware that asks for what a HEAD means by GET, whatever the route.

    Outside of it, the request is a HEAD: it is counted and logged as one.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send_without_body)
        finally:
            scope["route"] = asked.get("route")
