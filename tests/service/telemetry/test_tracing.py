"""Traces as they arrive at a collector, and as they are dropped without one."""

import asyncio
import http.server
import itertools
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from service.app import create_app
from service.errors import InvalidConfiguration
from service.settings import Settings
from service.telemetry.trace_context import Answered, TraceContext, parse_traceparent
from service.telemetry.tracing import CLOSE_SECONDS, Tracing
from tests.service.conftest import Start
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN))
PARENT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1)


class Collector:
    """An OTLP/HTTP receiver."""

    def __init__(self) -> None:
        self.exports: queue.Queue[ExportTraceServiceRequest] = queue.Queue()
        exports = self.exports

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                exports.put(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def spans(self) -> list:
        """Take the spans that have arrived."""
        return [
            span
            for _ in range(self.exports.qsize())
            for resource in self.exports.get_nowait().resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(20)


@pytest.fixture
def collector() -> Iterator[Collector]:
    each = Collector()
    yield each
    each.close()


def attributes(span: object) -> dict[str, object]:
    values = {each.key: each.value for each in span.attributes}
    return {key: value.string_value or value.int_value for key, value in values.items()}


@contextmanager
def trace_ids() -> Iterator[list[str | None]]:
    """Collect the trace ids of the log lines about classifications."""
    found: list[str | None] = []
    with capture_logs(processors=[merge_contextvars]) as lines:
        yield found
    found += [line.get("trace_id") for line in lines if line.get("route") == "/v1/classify"]


async def test_a_prediction_is_a_span_of_the_callers_trace_with_a_child_per_stage(
    start: Start, collector: Collector
) -> None:
    async with start(otlp_endpoint=collector.endpoint) as service:
        with trace_ids() as logged:
            headers = {"traceparent": PARENT.traceparent().decode()}
            answer = await service.http.post("/v1/classify", content=PHOTO, headers=headers)
            assert answer.status_code == 200
            broken = await service.http.post("/v1/classify", content=b"broken")
            assert broken.status_code == 415
            assert (await service.http.get("/v2/health/ready")).status_code == 200
        await asyncio.to_thread(service.app.state.tracing.close)
    spans = collector.spans()
    (request,) = (span for span in spans if span.parent_span_id.hex() == PARENT.span_id)
    own = parse_traceparent(answer.headers["traceparent"].encode())
    assert (request.trace_id.hex(), request.span_id.hex()) == (PARENT.trace_id, own.span_id)
    assert request.name == "POST /v1/classify"
    found = attributes(request)
    assert found.pop("vt.request_id") == answer.headers["x-request-id"]
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "vt.model": "colour",
        "vt.version": "1",
        "vt.outcome": "ok",
        "vt.batch_size": 1,
    }
    stages = [span for span in spans if span.parent_span_id == request.span_id]
    stages.sort(key=lambda span: span.start_time_unix_nano)
    assert {span.name for span in stages} == {"receive", "decode", "queue", "compute", "encode"}
    for one, other in itertools.pairwise(stages):
        assert one.end_time_unix_nano == other.start_time_unix_nano
    assert request.start_time_unix_nano <= stages[0].start_time_unix_nano
    (other,) = (span for span in spans if not span.parent_span_id)
    assert attributes(other)["vt.outcome"] == "bad_input"
    assert logged == [PARENT.trace_id, other.trace_id.hex()]


async def test_the_log_names_the_callers_trace_if_tracing_is_off(
    start: Start,
) -> None:
    async with start() as service:
        with trace_ids() as logged:
            headers = {"traceparent": PARENT.traceparent().decode()}
            answer = await service.http.post("/v1/classify", content=PHOTO, headers=headers)
            assert (answer.status_code, "traceparent" in answer.headers) == (200, False)
            assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 200
    assert logged == [PARENT.trace_id, None]


@contextmanager
def tracing(endpoint: str, sample_ratio: float = 1.0) -> Iterator[Tracing]:
    each = Tracing(endpoint, sample_ratio)
    try:
        yield each
    finally:
        each.close()


ANSWERED = Answered("GET", "/v1/models", 200, "r1")


def test_the_caller_decides_what_is_sampled_or_else_the_ratio(
    collector: Collector,
) -> None:
    with tracing(collector.endpoint, sample_ratio=0.0) as each:
        unsampled = TraceContext("1" * 32, "2" * 16, 0)
        for parent in (None, unsampled, PARENT):
            span = each.start(parent)
            assert span.context.flags & 1 == (parent is PARENT)
            span.end(ANSWERED)
    assert [span.trace_id.hex() for span in collector.spans()] == [PARENT.trace_id]


def test_only_server_errors_are_errors(collector: Collector) -> None:
    with tracing(collector.endpoint) as each:
        for status in (200, 404, 499, 500, 503):
            each.start(None).end(Answered("GET", "/v1/models", status, "r1"))
    codes = {attributes(s)["http.response.status_code"]: s.status.code for s in collector.spans()}
    assert codes == {200: 0, 404: 0, 499: 0, 500: 2, 503: 2}


def test_a_span_that_never_ends_is_not_exported(collector: Collector) -> None:
    with tracing(collector.endpoint) as each:
        each.start(None)
    assert collector.spans() == []


def test_the_service_has_a_name_and_a_version(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "eyes")
    with tracing(collector.endpoint) as each:
        each.start(None).end(ANSWERED)
    (sent,) = collector.exports.get(timeout=20).resource_spans
    found = attributes(sent.resource)
    assert found["service.name"] == "eyes"
    assert found["deployment.environment"] == "test"
    assert "service.version" in found


def test_a_collector_that_never_answers_does_not_delay_the_shutdown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        each = Tracing(f"http://127.0.0.1:{silent.getsockname()[1]}", 1.0)
        for _ in range(10_000):
            each.start(None).end(ANSWERED)
        closing = threading.Thread(target=each.close, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS + 20)
        assert not closing.is_alive()


def test_neither_sdk_nor_exporter_is_imported_if_tracing_is_off(repository: Path) -> None:
    program = (
        "import sys; from service.app import create_app; from service.settings import Settings;"
        f"create_app(Settings(model_repository={str(repository)!r}));"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    modules = done.stdout.split()
    assert "service.app" in modules
    ours = ("service.telemetry.tracing", "opentelemetry.sdk", "opentelemetry.exporter")
    assert [name for name in modules if name.startswith(ours)] == []


def test_an_endpoint_without_the_library_is_an_invalid_configuration(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "service.telemetry.tracing", None)
    settings = Settings(model_repository=repository, otlp_endpoint="http://127.0.0.1:4318")
    with pytest.raises(InvalidConfiguration, match=r"VT_OTLP_ENDPOINT needs .*vt-serve\[tracing\]"):
        create_app(settings)
