"""A separate port for the metrics."""

from service.http.middleware.exchange import App, Receive, Scope, Send


class MetricsPort:
    """ASGI middleware: one port serves only the metrics, and the others never do."""

    def __init__(self, app: App, metrics: App, port: int) -> None:
        self._app = app
        self._metrics = metrics
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch a request by the port that received it."""
        if scope["type"] == "http" and scope["server"][1] == self._port:
            await self._metrics(scope, receive, send)
        else:
            await self._app(scope, receive, send)
