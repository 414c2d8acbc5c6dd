"""Attaches HTTP to an engine; the only module that joins the parts of the server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute

from service import __version__
from service.api_keys import ApiKeys
from service.engine.base import AnyEngine
from service.errors import InvalidConfiguration
from service.file_watch import FileWatch
from service.http.middleware.authorization import (
    AccessRules,
    Authorization,
    AuthorizationMiddleware,
)
from service.http.middleware.boundary import Boundary
from service.http.middleware.cors import Cors
from service.http.middleware.fast_path import FastPath
from service.http.middleware.head import HeadRequests
from service.http.middleware.local_key import LocalKey, is_loopback
from service.http.middleware.metrics_port import MetricsPort
from service.http.path_prefix import PathPrefix
from service.http.request_body import BodyLimits
from service.http.routes.description import DescribedApp
from service.http.routes.docs import DocsRoutes
from service.http.routes.errors import add_error_handlers
from service.http.routes.infer import InferRoutes
from service.http.routes.metrics import MetricsRoutes
from service.http.routes.open_inference import OpenInferenceRoutes
from service.http.routes.operations import OperationsRoutes
from service.http.routes.playground import PlaygroundRoutes
from service.http.routes.predict import PredictRoutes
from service.http.routes.repository import RepositoryRoutes
from service.http.routes.serving import Serving
from service.http.routes.tokens import TokenRoutes
from service.settings import Settings
from service.telemetry.metrics import PrometheusMetrics

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing


@dataclass(frozen=True)
class Access:
    """The keys that authorize requests."""

    keys: ApiKeys | None
    local_key: LocalKey | None


def create_app(
    settings: Settings, engine: AnyEngine | None = None, access: Access | None = None
) -> DescribedApp:
    """Return the application; raises `InvalidConfiguration` if there is nothing to serve.

    The server calls `app.asgi`. The engine is `app.state.engine`, by default one made from the
    settings; it runs as long as the application's lifespan.
    """
    engine = engine or _own_engine(settings)
    access, tracing = access or _access(settings, engine.metrics), _tracing(settings)
    rules = AccessRules(
        keys=access.keys,
        local_key=access.local_key,
        metadata_needs_key=settings.require_key_for_metadata,
    )
    authorization = Authorization(rules, engine.metrics.server)
    body = BodyLimits(settings.max_body_bytes, settings.body_timeout_seconds)
    serving = Serving(engine, body)
    predict, tokens = PredictRoutes(serving), TokenRoutes(serving)
    boundary = partial(
        Boundary,
        fast_path=FastPath(
            predict.fast_routes() | tokens.fast_routes(),
            authorization,
            has_cors=bool(settings.cors_origins),
            metrics_port=settings.metrics_port,
        ),
        events=engine.metrics.server,
        max_body_bytes=settings.max_body_bytes,
        tracer=tracing,
    )
    app = DescribedApp(
        rules,
        boundary,
        title="vt-serve",
        version=__version__,
        summary="Visual Transformer models behind HTTP.",
        lifespan=partial(_lifespan, engine, access, tracing),
        redirect_slashes=False,
        openapi_url=None,  # DocsRoutes has the description and its page
    )
    app.state.engine, app.state.access, app.state.tracing = engine, access, tracing
    add_error_handlers(app)
    metrics = MetricsRoutes(engine.render_metrics).router()
    routes = _add_routes(app, settings, serving, [predict.router, tokens.router], metrics)
    _add_middleware(app, settings, authorization, routes, metrics)
    return app


def _own_engine(settings: Settings) -> AnyEngine:
    """Return an engine in this process; only then import ONNX Runtime."""
    from service.engine.engine import Engine  # noqa: PLC0415

    return Engine.from_settings(settings)


def _add_routes(
    app: FastAPI,
    settings: Settings,
    serving: Serving,
    predictions: Sequence[APIRouter],
    metrics: APIRouter,
) -> list[BaseRoute]:
    """Add the endpoints; return all routes, those of the description and the metrics included."""
    engine, has_metrics = serving.engine, settings.metrics_port is None
    prefix = PathPrefix(settings.root_path or "", settings.trusted_proxies)
    playground = (
        PlaygroundRoutes(engine.repository, settings.model_repository)
        if settings.playground
        else None
    )
    routers = [
        *predictions,
        OpenInferenceRoutes(engine).router(),
        InferRoutes(serving).router(),
        RepositoryRoutes(engine.repository, settings.body_timeout_seconds).router(),
        OperationsRoutes(engine.repository, prefix, playground, has_metrics=has_metrics).router(),
        *([playground.router()] if playground else []),
        DocsRoutes(app, prefix).router(),
        *([metrics] if has_metrics else []),
    ]
    routes = [*app.routes, *(route for router in routers for route in router.routes)]
    for router in routers:
        app.include_router(router)
    return routes if has_metrics else [*routes, *metrics.routes]


def _add_middleware(
    app: FastAPI,
    settings: Settings,
    authorization: Authorization,
    routes: Sequence[BaseRoute],
    metrics: APIRouter,
) -> None:
    """Add the middleware that the fast path bypasses; the last one added runs first."""
    if settings.metrics_port is not None:
        app.add_middleware(MetricsPort, metrics=_metrics_app(metrics), port=settings.metrics_port)
    app.add_middleware(AuthorizationMiddleware, authorization=authorization, routes=routes)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(HeadRequests)


def _metrics_app(router: APIRouter) -> FastAPI:
    """Return the application of the metrics port."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.include_router(router)
    add_error_handlers(app)
    return app


def _access(settings: Settings, metrics: PrometheusMetrics) -> Access:
    """Return the API keys; without any, a local key if only this machine can reach the server."""
    if settings.api_keys_file is not None:
        return Access(ApiKeys(settings.api_keys_file, metrics.server), None)
    if is_loopback(settings.host):
        return Access(None, LocalKey(settings.local_key_file, settings.port))
    return Access(None, None)


def _tracing(settings: Settings) -> "Tracing | None":
    """Return the tracing, if enabled; only then import OpenTelemetry's SDK."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from service.telemetry.tracing import Tracing  # noqa: PLC0415
    except ImportError as error:
        raise InvalidConfiguration(
            "VT_OTLP_ENDPOINT needs OpenTelemetry: pip install 'vt-serve[tracing]'."
        ) from error
    return Tracing(str(settings.otlp_endpoint), settings.trace_sample_ratio)


@asynccontextmanager
async def _lifespan(
    engine: AnyEngine, access: Access, tracing: "Tracing | None", _app: FastAPI
) -> AsyncIterator[None]:
    """Load the models while the server listens; close everything when it stops."""
    with access.local_key.written() if access.local_key else nullcontext():
        engine.start()
        async with _watching(access.keys):
            try:
                yield
            finally:
                await engine.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


@asynccontextmanager
async def _watching(keys: ApiKeys | None) -> AsyncIterator[None]:
    """Reload the API keys when their file changes."""
    if keys is None:
        yield
        return
    watching = asyncio.create_task(FileWatch([keys.path], keys.reload).run())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
