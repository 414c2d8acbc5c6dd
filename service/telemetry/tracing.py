"""Traces by OpenTelemetry; the only module that imports it, and only if tracing is enabled."""

import threading
import time

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from service import __version__
from service.telemetry.timings import Timings
from service.telemetry.trace_context import Answered, TraceContext

EXPORT_SECONDS = 5.0
"""Limit on one export and its retries; further spans wait in the meantime."""
EXPORT_EVERY_SECONDS = 2.0
MAX_WAITING_SPANS = 4096
"""While this many spans wait, new ones are dropped."""
CLOSE_SECONDS = 3.0
"""Limit on the last export, before the process ends."""


class Tracing:
    """Starts spans, and exports them in the background to an OTLP/HTTP endpoint."""

    def __init__(self, endpoint: str, sample_ratio: float) -> None:
        url = f"{endpoint.rstrip('/')}/v1/traces"
        self._exporter = OTLPSpanExporter(url, timeout=EXPORT_SECONDS)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=_resource(),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=MAX_WAITING_SPANS,
                schedule_delay_millis=EXPORT_EVERY_SECONDS * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("vt-serve", __version__)

    def start(self, parent: TraceContext | None) -> "ServerSpan":
        """Start the span of a request that arrives now; a parent decides whether it is sampled."""
        context = None if parent is None else trace.set_span_in_context(_remote(parent))
        return ServerSpan(self._tracer, context)

    def close(self) -> None:
        """Export the waiting spans, within `CLOSE_SECONDS`."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            # The remaining spans are dropped without a retry.
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class ServerSpan:
    """The span of a request; when it ends, its stages become its children."""

    def __init__(self, tracer: trace.Tracer, context: Context | None) -> None:
        self._tracer = tracer
        self._began = time.perf_counter()
        self._began_ns = time.time_ns()
        self._span = tracer.start_span(
            "request", context, trace.SpanKind.SERVER, start_time=self._began_ns
        )
        self.context = _context_of(self._span)

    def end(self, answered: Answered) -> None:
        """End the span with the attributes of the response, and export it if it is sampled."""
        if not self._span.is_recording():
            return
        self._span.update_name(f"{answered.method} {answered.route}")
        self._span.set_attributes(_attributes(answered))
        if answered.status >= 500:
            self._span.set_status(trace.StatusCode.ERROR)
        if answered.stages is not None:
            self._add_stages(answered.stages)
        self._span.end()

    def _add_stages(self, timings: Timings) -> None:
        """Add a child span per stage, each beginning where the previous one ends."""
        context = trace.set_span_in_context(self._span)
        at = self._began_ns + round((timings.began - self._began) * 1e9)
        for stage, seconds in timings.stages().items():
            span = self._tracer.start_span(stage, context, start_time=at)
            at += round(seconds * 1e9)
            span.end(at)


def _context_of(span: trace.Span) -> TraceContext:
    context = span.get_span_context()
    return TraceContext(
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
        context.trace_flags,
    )


def _resource() -> Resource:
    """Describe the service; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
    own = Resource({"service.name": "vt-serve", "service.version": __version__})
    return own.merge(OTELResourceDetector().detect())


def _remote(parent: TraceContext) -> trace.NonRecordingSpan:
    return trace.NonRecordingSpan(
        trace.SpanContext(
            int(parent.trace_id, 16),
            int(parent.span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(parent.flags),
        )
    )


def _attributes(answered: Answered) -> dict[str, str | int]:
    """Return the known attributes, under OpenTelemetry's names for HTTP and our own for models."""
    attributes: dict[str, str | int | None] = {
        "http.request.method": answered.method,
        "http.route": answered.route,
        "http.response.status_code": answered.status,
        "vt.request_id": answered.request_id,
        "vt.model": answered.model,
        "vt.version": answered.version,
        "vt.outcome": answered.outcome,
        "vt.batch_size": None if answered.stages is None else answered.stages.batch_size,
    }
    return {name: value for name, value in attributes.items() if value is not None}
