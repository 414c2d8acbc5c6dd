"""A port of its own for the metrics."""

from service.http.middleware.exchange import App, Receive, Scope, Send


class MetricsPort:
    """ASGI middleware: one port serves the metrics and nothing else, the others never do."""

    def __init__(self, app: App, metrics: App, port: int) -> None:
        self._app = app
        self._metrics = metrics
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on by the port that it arrived at."""
        if scope["type"] == "http" and scope["server"][1] == self._port:
            await self._metrics(scope, receive, send)
        else:
            await self._app(scope, receive, send)
