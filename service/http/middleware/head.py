"""HEAD requests: the response to GET, without its body."""

from service.http.middleware.exchange import App, Message, Receive, Scope, Send


class HeadRequests:
    """ASGI middleware that turns HEAD into GET on every route.

    The metrics and the log still report HEAD.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
