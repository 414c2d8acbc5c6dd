"""CPU time of the event loop that metrics, the access log and traces cost a request.

python -m tests.benchmarks.monitoring
"""

import os
import sys
import time
import timeit
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import structlog

from service.engine.summary import summarize
from service.http.middleware.access_log import log_request
from service.http.middleware.exchange import Exchange
from service.images.photo import PreparedImage
from service.schema.vocabulary import Task
from service.telemetry.events import ModelIdentity
from service.telemetry.log import configure_log
from service.telemetry.metrics import PrometheusMetrics
from service.telemetry.timings import Timings
from service.telemetry.trace_context import Answered
from service.telemetry.tracing import Tracing

NOBODY = "http://127.0.0.1:9"
LABELS = [f"class {index}" for index in range(11)]
TIMINGS = Timings(receive=0.001, decode=0.001, queue=0.001, compute=0.001, encode=0.001)


def microseconds(call: Callable[[], object], count: int = 2000) -> float:
    """The best of seven rounds."""
    call()
    rounds = timeit.repeat(call, number=count, repeat=7, timer=time.thread_time)
    return min(rounds) / count * 1e6


def metrics_of(task: Task, name: str, output: np.ndarray) -> Callable[[], None]:
    """Return what counts one request with one image."""
    metrics, model = PrometheusMetrics(), ModelIdentity("model", "1", task)
    telemetry = metrics.inference.of(model)
    contract: Any = SimpleNamespace(task=task, prediction=name, labels=LABELS)
    photos = [PreparedImage(np.zeros((8, 8, 3), np.uint8), 640, 480)]
    outputs = [{name: output}]

    def request() -> None:
        predictions = summarize(contract, photos, outputs)
        telemetry.finished(
            "ok", TIMINGS, 1, request_bytes=50_000, response_bytes=300, predictions=predictions
        )
        metrics.batches.batch_dispatched(model, 1, "idle", 4)
        metrics.server.http_finished("POST", "/v1/classify", 200, 0.005)

    return request


def log_line() -> Callable[[], None]:
    """Return what writes one request's line of the log, as JSON."""
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  # for as long as the process runs
    configure_log("json", "info")
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/classify",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 4711),
    }
    exchange: Any = Exchange(scope, None, None, 0)  # type: ignore[arg-type]
    exchange.status = 200
    exchange.call = SimpleNamespace(version=SimpleNamespace(name="model"))

    def request() -> None:
        tokens = structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        log_request(exchange, "POST", "/v1/classify", 0.005)
        structlog.contextvars.reset_contextvars(**tokens)

    return request


def span_of(tracing: Tracing) -> Callable[[], None]:
    """Return what traces one request."""
    answered = Answered("POST", "/v1/classify", 200, "r", "model", "1", "ok", TIMINGS)

    def request() -> None:
        span = tracing.start(None)
        span.context.traceparent()
        span.end(answered)

    return request


def main() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=len(LABELS)).astype(np.float32)
    labels = random.integers(0, len(LABELS), (352, 480), dtype=np.uint8)
    measured = {
        "metrics of a classification": metrics_of(Task.CLASSIFICATION, "logits", logits),
        "metrics of a segmentation": metrics_of(Task.SEGMENTATION, "labels", labels),
        "a line of the access log": log_line(),
        "a trace": span_of(Tracing(NOBODY, 1.0)),
        "a trace that is not sampled": span_of(Tracing(NOBODY, 0.0)),
    }
    for name, call in measured.items():
        print(f"{name:28} {microseconds(call):6.1f} us")
    sys.stdout.flush()
    os._exit(0)  # without waiting for the collector that is not there


if __name__ == "__main__":
    main()
